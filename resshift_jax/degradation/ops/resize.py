"""Resizing to a size that is drawn at run time, as two products with matrices of one shape.

Along an axis a resizing is a linear map; its matrix is built for the whole canvas and holds zeros
wherever the image before or after it has no pixel.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from resshift_jax.degradation.config import ResizeConfig
from resshift_jax.degradation.ops.canvas import Canvas
from resshift_jax.degradation.ops.draws import Numbers, choice, integer, uniform
from resshift_jax.resize import CUBIC_A, cubic

AREA, BILINEAR, BICUBIC = range(3)
MODES = (AREA, BILINEAR, BICUBIC)


class Resize(NamedTuple):
    """A factor of the sides, float32, and one of MODES, int32."""

    factor: Array
    mode: Array


def draw_resize(u: Numbers, config: ResizeConfig) -> Resize:
    """A resizing by a random factor."""
    change = choice(u, (config.up_prob, config.down_prob, 1 - config.up_prob - config.down_prob))
    factors = jnp.stack([uniform(u, config.up), uniform(u, config.down), jnp.float32(1)])
    return Resize(factor=factors[change], mode=draw_mode(u))


def draw_mode(u: Numbers) -> Array:
    """One of MODES, as likely as the others."""
    return integer(u, (MODES[0], MODES[-1]))


def resize_by(canvas: Canvas, factor: Array, mode: Array, shape: tuple[int, int]) -> Canvas:
    """The image resized to floor(side * factor) on a canvas of `shape` (H, W).

    Bilinear and bicubic look at (i + 1/2) / factor - 1/2, whatever the rounding of the size.
    """
    height, width = (whole(side * factor) for side in (canvas.height, canvas.width))
    return _resize(canvas, (height, width), (1 / factor, 1 / factor), mode, shape)


def resize_to(
    canvas: Canvas, size: tuple[Array | int, Array | int], mode: Array | int, shape: tuple[int, int]
) -> Canvas:
    """The image resized to `size` (height, width) on a canvas of `shape` (H, W)."""
    height, width = (jnp.int32(side) for side in size)
    steps = (canvas.height / height, canvas.width / width)
    return _resize(canvas, (height, width), steps, mode, shape)


def whole(side: Array) -> Array:
    """The length of a side, rounded down, at least 1, int32."""
    return jnp.maximum(jnp.floor(side), 1).astype(jnp.int32)


def _resize(
    canvas: Canvas,
    size: tuple[Array, Array],
    steps: tuple[Array, Array],
    mode: Array | int,
    shape: tuple[int, int],
) -> Canvas:
    _, height, width = canvas.planes.shape
    rows = _matrix(height, shape[0], canvas.height, size[0], steps[0], mode)
    columns = _matrix(width, shape[1], canvas.width, size[1], steps[1], mode)
    product = partial(jnp.einsum, precision="highest")
    planes = product("ih,chw->ciw", rows, canvas.planes)
    return Canvas(product("ciw,jw->cij", planes, columns), *size)


def _matrix(
    length: int, new_length: int, n: Array, m: Array, step: Array, mode: Array | int
) -> Array:
    """(new_length, length): n valid pixels to m, `step` old pixels from one new pixel to the next.

    No antialiasing. Area is the mean of [floor(i n / m), ceil((i + 1) n / m)).
    """
    i, j = jnp.arange(new_length)[:, None], jnp.arange(length)[None, :]
    position = (i.astype(jnp.float32) + 0.5) * step.astype(jnp.float32) - 0.5

    def area() -> Array:
        start, end = i * n // m, -(-(i + 1) * n // m)
        return jnp.where((start <= j) & (j < end), 1 / (end - start).astype(jnp.float32), 0)

    def bilinear() -> Array:
        return jnp.maximum(1 - jnp.abs(jnp.clip(position, 0, n - 1) - j), 0)

    def bicubic() -> Array:
        below = jnp.floor(position)
        matrix = jnp.zeros((new_length, length), jnp.float32)
        for tap in range(-1, 3):
            edge = jnp.clip(below + tap, 0, n - 1)  # edges are repeated
            matrix += jnp.where(edge == j, cubic(position - below - tap, CUBIC_A), 0)
        return matrix

    kinds = (area, bilinear, bicubic)
    matrix = kinds[mode]() if isinstance(mode, int) else jax.lax.switch(mode, kinds)
    return jnp.where((i < m) & (j < n), matrix, 0)
