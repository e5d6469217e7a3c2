"""The terms of the loss that compare images: a decoded prediction and the image in, (B,) out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from resshift_jax.nn.layers import apply, space_to_depth
from resshift_jax.nn.lpips import LPIPS, Network
from resshift_jax.platform import Compute

Images = Float[Array, "b H W 3"]
PerSample = Float[Array, "b"]

# Rows: luma, and red and blue beside it.
_OPPONENT = np.array([[0.299, 0.587, 0.114], [0.701, -0.587, -0.114], [-0.299, -0.587, 0.886]])
_SQUARE = 32


class ImageContext(NamedTuple):
    """What a term of the image may need besides the images.

    Attributes:
        frozen: parameters of LPIPS, as "vgg" and "alex" where they are needed.
        offset: (B, 2) float32 in [0, 1), where windows lie, from top left to bottom right.
        window: side of the windows that LPIPS compares; None: everything.
        scale: side of the image over that of the low-quality one.
        compute: how networks compute.
    """

    frozen: Mapping[str, Any]
    offset: Array
    window: int | None
    compute: Compute
    scale: int = 1


def absolute_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """The mean of |x - y|."""
    return jnp.abs(x - y).mean((1, 2, 3))


def edge_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """Mean absolute difference of the steps between neighbours, of rows and of columns."""
    down, across = (jnp.diff(x - y, axis=axis) for axis in (1, 2))
    return (jnp.abs(down).mean((1, 2, 3)) + jnp.abs(across).mean((1, 2, 3))) / 2


def phase_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """Mean absolute difference of how strong detail is at each phase of the low-quality grid.

    That is the mean |step| of luma to the next pixel, of steps that lie alike beside a pixel of the
    low-quality image. What was enlarged has weaker ones at some phases, which shows as a grid.
    """
    luma = jnp.asarray(_OPPONENT[0], x.dtype)

    def strengths(image: Array) -> Array:
        planes = image @ luma
        steps = [jnp.abs(jnp.diff(plane)) for plane in (planes, planes.swapaxes(1, 2))]
        phases = [
            s[..., i :: context.scale].mean((1, 2)) for s in steps for i in range(context.scale)
        ]
        return jnp.stack(phases, -1)

    return jnp.abs(strengths(x) - strengths(y)).mean(-1)


def colour_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """Mean absolute difference of the mean colours of squares of 32x32 pixels, or of small images.

    What is over at the right and at the bottom does not count.
    """
    square = min(_SQUARE, *x.shape[1:3])
    height, width = (side // square for side in x.shape[1:3])

    def means(image: Array) -> Array:
        image = image[:, : height * square, : width * square]
        return image.reshape(-1, height, square, width, square, 3).mean((2, 4))

    return jnp.abs(means(x) - means(y)).mean((1, 2, 3))


def lpips(x: Images, y: Images, context: ImageContext, *, network: Network) -> PerSample:
    """LPIPS of the images, clipped to [-1, 1], or of a window of each."""
    images = jnp.clip(x, -1, 1), y
    if context.window is not None:
        images = (
            cut(images[0], context.offset, context.window),
            cut(images[1], context.offset, context.window),
        )
    return apply(LPIPS(network, context.compute), context.frozen[network], *images)


def cut(images: Array, offset: Array, window: int) -> Array:
    """(B, H, W, C) -> (B, window, window, C), each at its offset (B, 2) in [0, 1)."""
    room = jnp.array(images.shape[1:3]) - window + 1
    corners = jnp.floor(offset * room).astype(jnp.int32)

    def one(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (window, window, image.shape[-1]))

    return jax.vmap(one)(images, corners)


_TILE = 16
SPECTRUM_SIDE = _TILE + _TILE // 2
"""Least side of an image that has a spectrum."""


def spectrum_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """Mean absolute difference of the amplitudes of the images' waves.

    Of all waves in tiles of 16x16 under a Hann window, which overlap by half, in luma and two
    differences of colour. Phases do not count: detail is to be as strong, wherever it is.
    """
    starts = 0, _TILE // 2
    errors = [
        jnp.abs(amplitudes(x[:, i:, j:]) - amplitudes(y[:, i:, j:])).mean((1, 2, 3, 4))
        for i in starts
        for j in starts
    ]
    return jnp.stack(errors).mean(0)


def amplitudes(image: Array) -> Array:
    """(B, H, W, 3) -> (B, rows, columns, 3, waves), of whole tiles; 1 for noise of deviation 1."""
    cosine, sine = (jnp.asarray(wave, image.dtype) for wave in _waves())
    height, width = image.shape[1:3]
    image = image[:, : height // _TILE * _TILE, : width // _TILE * _TILE]
    image = image @ jnp.asarray(_OPPONENT.T, image.dtype)
    tiles = space_to_depth(image, _TILE)
    tiles = tiles.reshape(*tiles.shape[:3], _TILE**2, 3).swapaxes(-1, -2)
    # With a finite derivative also where a wave is absent.
    return jnp.sqrt(jnp.square(tiles @ cosine) + jnp.square(tiles @ sine) + 1e-6)


def _waves() -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a tile, row-major, x waves: one of each pair of opposite ones, windowed."""
    n = np.arange(_TILE)
    window = np.sin(np.pi * (n + 0.5) / _TILE) ** 2
    down, across = np.meshgrid(n, np.arange(_TILE // 2 + 1), indexing="ij")
    phase = n[:, None, None] * down.ravel() + n[None, :, None] * across.ravel()
    weights = np.outer(window, window)[..., None] / np.square(window).sum()
    angles = 2 * np.pi * phase / _TILE
    cosine, sine = ((weights * wave(angles)).reshape(_TILE**2, -1) for wave in (np.cos, np.sin))
    return cosine, sine
