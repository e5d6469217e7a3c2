"""Resizing of images inside compiled functions."""

import jax.numpy as jnp
import numpy as np
from jax import Array

CUBIC_A = -0.75


def cubic_weights(offset: float, a: float = CUBIC_A) -> np.ndarray:
    """Weights of the four pixels at -1, 0, 1, 2 for a point `offset` in [0, 1) past pixel 0."""
    d = np.abs(offset - np.arange(-1, 3))
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, far)


def upsample_bicubic(image: Array, scale: int) -> Array:
    """(B, H, W, C) -> (B, sH, sW, C): bicubic of a = -0.75, half-pixel centres, edges repeated.

    It does not clip: values may leave the range of the image.
    """
    if scale == 1:
        return image
    return _upsample_axis(_upsample_axis(image, scale, 1), scale, 2)


def _upsample_axis(x: Array, scale: int, axis: int) -> Array:
    size = x.shape[axis]
    padding = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = jnp.pad(x, padding, mode="edge")
    phases = []
    for phase in range(scale):
        position = (phase + 0.5) / scale - 0.5  # of this phase's output pixels, past their input's
        below = int(np.floor(position))
        weights = cubic_weights(position - below).astype(x.dtype)
        taps = [
            weight * _shifted(padded, below + i + 1, size, axis) for i, weight in enumerate(weights)
        ]
        phases.append(sum(taps[1:], taps[0]))
    out = jnp.stack(phases, axis=axis + 1)
    return out.reshape(*x.shape[:axis], scale * size, *x.shape[axis + 1 :])


def _shifted(padded: Array, start: int, size: int, axis: int) -> Array:
    return padded[(slice(None),) * axis + (slice(start, start + size),)]
