"""JPEG compression as arithmetic: an image in [0, 1] in, what a decoder gives of it out.

4:2:0, without entropy coding, which loses nothing. `compress` is the published operator, which
takes qualities that are not whole; `compress_as_libjpeg` is what ordinary programs do.
"""

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
import numpy as np
from jax import Array

from resshift_jax.degradation.ops.canvas import BLOCK, Canvas

_LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
], np.float32)  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99, np.float32)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCBCR = np.array([
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
])  # fmt: skip
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


def _cosines() -> np.ndarray:
    """(64, 64): the orthonormal DCT of an 8x8 block whose pixels are row-major."""
    frequency, index = np.arange(8)[:, None], np.arange(8)
    one = np.cos((2 * index + 1) * frequency * np.pi / 16) / 2
    one[0] /= np.sqrt(2)
    return np.kron(one, one).astype(np.float32)


_DCT = _cosines()


def compress(canvas: Canvas, quality: Array) -> Canvas:
    """The image after the published compression, in [0, 1].

    The image is completed with black to multiples of 16. Steps are the standard tables times a
    factor, not rounded, that of luminance transposed. Nothing else is rounded; the chroma of 2x2
    pixels is repeated.

    Args:
        canvas: an image in [0, 1].
        quality: 1 to 100, float32 scalar.
    """
    factor = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    # At quality 100 the factor is 0; steps far below a grey level stand for none.
    factor = jnp.maximum(factor, 1e-3)
    _, height, width = canvas.planes.shape
    rgb = jnp.where(canvas.inside[None], 255 * canvas.planes, 0)
    rgb = jnp.pad(rgb, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)))
    luma, *chroma = _mix(_TO_YCBCR, rgb)
    halved = jnp.stack([_mean_2x2(plane) for plane in chroma])
    luma, halved = _quantise(luma, halved, factor * _LUMINANCE.T, factor * _CHROMINANCE)
    blue, red = (_repeat_2x2(plane) for plane in halved)
    return _to_canvas(canvas, _mix(_TO_RGB, [luma, blue, red]))


def compress_as_libjpeg(canvas: Canvas, quality: Array) -> Canvas:
    """The image after compression by libjpeg's encoder and decoder, in multiples of 1/255.

    The image is completed by repeating its last row and column. Steps are whole numbers, and so are
    pixels and colours on the way; chroma is interpolated.

    Args:
        canvas: an image in [0, 1].
        quality: 1 to 100, whole, float32 scalar.
    """
    _, height, width = canvas.planes.shape
    rows = jnp.minimum(jnp.arange(_up_to_block(height)), canvas.height - 1)
    columns = jnp.minimum(jnp.arange(_up_to_block(width)), canvas.width - 1)
    rgb = jnp.round(255 * canvas.planes[:, rows][:, :, columns])
    luma, *chroma = (jnp.round(plane) for plane in _mix(_TO_YCBCR, rgb))
    steps = (_whole_steps(table, quality) for table in (_LUMINANCE, _CHROMINANCE))
    halved = jnp.stack([jnp.round(_mean_2x2(plane)) for plane in chroma])
    luma, halved = _quantise(luma, halved, *steps)
    luma, halved = jnp.clip(jnp.round(luma), 0, 255), jnp.clip(jnp.round(halved), -128, 127)
    size = (canvas.height + 1) // 2, (canvas.width + 1) // 2
    blue, red = (_interpolate_2x2(plane, size) for plane in halved)
    return _to_canvas(canvas, [jnp.round(plane) for plane in _mix(_TO_RGB, [luma, blue, red])])


def _whole_steps(table: np.ndarray, quality: Array) -> Array:
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((percent * table + 50) / 100), 1, 255)


def _up_to_block(length: int) -> int:
    return length + -length % BLOCK


def _to_canvas(canvas: Canvas, rgb: list[Array]) -> Canvas:
    _, height, width = canvas.planes.shape
    return canvas._replace(planes=jnp.clip(jnp.stack(rgb)[:, :height, :width] / 255, 0, 1))


def _mix(matrix: np.ndarray, planes: Sequence[Array] | Array) -> list[Array]:
    weighted = ((float(w) * plane for w, plane in zip(row, planes, strict=True)) for row in matrix)
    return [cast(Array, sum(row)) for row in weighted]


def _quantise(
    luma: Array, chroma: Array, luma_steps: Array, chroma_steps: Array
) -> tuple[Array, Array]:
    """Luma (H, W) in 0..255 and chroma (2, h, w) around 0 -> what their rounded coefficients give.

    Steps are (8, 8): [u, v] is that of vertical frequency u and horizontal frequency v.
    """
    # Cb and Cr are centred on 128, which is taken off of luma, too, before the transform.
    luma = _round_coefficients((luma - 128)[None], luma_steps)[0] + 128
    return luma, _round_coefficients(chroma, chroma_steps)


def _round_coefficients(planes: Array, steps: Array) -> Array:
    """(P, H, W) -> the same from coefficients that are multiples of steps (8, 8)."""
    steps = steps.reshape(64, 1)
    coefficients = jnp.matmul(_DCT, _to_blocks(planes), precision="highest")
    rounded = jnp.round(coefficients / steps) * steps
    return _from_blocks(jnp.matmul(_DCT.T, rounded, precision="highest"), planes.shape)


def _to_blocks(planes: Array) -> Array:
    """(P, H, W) -> (64, P H W / 64): the pixels of each 8x8 block in a column."""
    p, h, w = planes.shape
    return planes.reshape(p, h // 8, 8, w // 8, 8).transpose(2, 4, 0, 1, 3).reshape(64, -1)


def _from_blocks(blocks: Array, shape: tuple[int, ...]) -> Array:
    p, h, w = shape
    return blocks.reshape(8, 8, p, h // 8, w // 8).transpose(2, 3, 0, 4, 1).reshape(shape)


def _mean_2x2(plane: Array) -> Array:
    h, w = plane.shape
    return plane.reshape(h // 2, 2, w // 2, 2).mean((1, 3))


def _repeat_2x2(plane: Array) -> Array:
    h, w = plane.shape
    return jnp.broadcast_to(plane[:, None, :, None], (h, 2, w, 2)).reshape(2 * h, 2 * w)


def _interpolate_2x2(plane: Array, size: tuple[Array, Array]) -> Array:
    """(h, w) -> (2h, 2w), bilinear, its first `size` rows and columns alone being used."""
    for axis, length in enumerate(size):
        i = jnp.arange(2 * plane.shape[axis])
        near, next_to_it = i // 2, i // 2 + 2 * (i % 2) - 1
        near, next_to_it = (jnp.clip(k, 0, length - 1) for k in (near, next_to_it))
        plane = 0.75 * jnp.take(plane, near, axis) + 0.25 * jnp.take(plane, next_to_it, axis)
    return plane
