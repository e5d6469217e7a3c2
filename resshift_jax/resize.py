"""Resizing of images by fixed factors: bicubic, as each of three programs does it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

CUBIC_A = -0.75
MATLAB_A = -0.5


def cubic(distance: Any, a: float) -> Any:
    """The cubic convolution kernel at distances, as arrays of NumPy or of JAX."""
    d = abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return near * (d <= 1) + far * ((d > 1) & (d < 2))


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
        below = math.floor(position)
        weights = cubic(position - below - np.arange(-1, 3), CUBIC_A).astype(x.dtype)
        taps = [
            weight * _shifted(padded, below + i + 1, size, axis) for i, weight in enumerate(weights)
        ]
        phases.append(sum(taps[1:], taps[0]))
    out = jnp.stack(phases, axis=axis + 1)
    return out.reshape(*x.shape[:axis], scale * size, *x.shape[axis + 1 :])


def _shifted(padded: Array, start: int, size: int, axis: int) -> Array:
    return padded[(slice(None),) * axis + (slice(start, start + size),)]


def resize_matlab(image: Array, scale: float) -> Array:
    """(B, H, W, C) -> (B, ceil(sH), ceil(sW), C) as MATLAB's imresize, bicubic, does it.

    a = -0.5; for scales below 1 the kernel is widened by 1 / scale. Edges are mirrored with their
    pixels repeated. It does not clip.
    """
    rows, columns = (_matlab_matrix(side, scale) for side in image.shape[1:3])
    return _resample(image, rows, columns)


def resize_opencv(image: Array, size: tuple[int, int]) -> Array:
    """(B, H, W, C) -> (B, *size, C) as OpenCV's INTER_CUBIC does it.

    a = -0.75, without antialiasing, edges repeated. It does not clip; OpenCV computes 8-bit images
    in whole numbers, and differs by a grey level at most once this is rounded.
    """
    rows, columns = (
        _opencv_matrix(side, new) for side, new in zip(image.shape[1:3], size, strict=True)
    )
    return _resample(image, rows, columns)


def _resample(image: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    with jax.default_matmul_precision("highest"):
        return jnp.einsum("ih,bhwc,jw->bijc", rows, image, columns)


def _matlab_matrix(n: int, scale: float) -> np.ndarray:
    """(ceil(s n), n) float32: the weights of the old pixels in each new one."""
    m, widening = math.ceil(n * scale), min(scale, 1.0)
    place = (np.arange(m) + 0.5) / scale - 0.5
    taps = np.floor(place - 2 / widening)[:, None] + np.arange(math.ceil(4 / widening) + 2)
    weights = cubic((place[:, None] - taps) * widening, MATLAB_A)
    weights /= weights.sum(1, keepdims=True)
    mirrored = np.mod(taps, 2 * n)
    return _scatter(weights, np.minimum(mirrored, 2 * n - 1 - mirrored), n)


def _opencv_matrix(n: int, m: int) -> np.ndarray:
    """(m, n) float32: the weights of the old pixels in each new one."""
    place = (np.arange(m) + 0.5) * n / m - 0.5
    taps = np.floor(place)[:, None] + np.arange(-1, 3)
    weights = cubic(place[:, None] - taps, CUBIC_A)
    return _scatter(weights, np.clip(taps, 0, n - 1), n)


def _scatter(weights: np.ndarray, taps: np.ndarray, n: int) -> np.ndarray:
    """Weights (m, k) of the old pixels `taps` (m, k), as a matrix (m, n)."""
    matrix = np.zeros((len(weights), n))
    np.add.at(matrix, (np.arange(len(weights))[:, None], taps.astype(int)), weights)
    return matrix.astype(np.float32)
