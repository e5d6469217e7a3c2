"""JPEG compression as arithmetic: an image in [0, 1] in, what a decoder gives of it out.

4:2:0, without entropy coding, which loses nothing. How coarsely coefficients are rounded is told by
steps, of which there are the published ones, for qualities that need not be whole, and those of
ordinary encoders.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from resshift_jax.data.canvas import BLOCK, Canvas

_LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCBCR = np.array([
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
])  # fmt: skip
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


def _cosines() -> np.ndarray:
    """(64, 64): the orthonormal DCT of an 8x8 block whose pixels are row-major."""
    frequency, place = np.arange(8)[:, None], np.arange(8)
    one = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    one[0] /= np.sqrt(2)
    return np.kron(one, one).astype(np.float32)


_DCT = _cosines()


def published_steps(quality: Array) -> Array:
    """The steps (2, 8, 8) of luma and chroma of the published operator, at vertical frequency u and
    horizontal frequency v, for a quality from 1 to 100.

    The standard tables times a factor, not rounded, the luminance table transposed.
    """
    factor = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    # At quality 100 the factor is 0; steps far below a grey level stand for none.
    tables = np.stack([_LUMINANCE.T, _CHROMINANCE]).astype(np.float32)
    return jnp.maximum(factor, 1e-3) * tables


def standard_steps(quality: Array) -> Array:
    """The steps (2, 8, 8) of libjpeg, as `published_steps`, for a whole quality: whole numbers."""
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    tables = np.stack([_LUMINANCE, _CHROMINANCE]).astype(np.float32)
    return jnp.clip(jnp.floor((percent * tables + 50) / 100), 1, 255)


def compress(canvas: Canvas, steps: Array) -> Canvas:
    """The image after compression, in [0, 1].

    It is completed with black to multiples of 16; the chroma of 2x2 pixels is their mean, and is
    repeated on the way back.

    Args:
        canvas: an image in [0, 1].
        steps: (2, 8, 8), to multiples of which the coefficients of luma and chroma are rounded.
    """
    _, height, width = canvas.planes.shape
    rgb = jnp.where(canvas.inside[None], 255 * canvas.planes, 0)
    rgb = jnp.pad(rgb, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)))
    luma, *chroma = _mix(_TO_YCBCR, rgb)
    luma = _quantise((luma - 128)[None], steps[0])[0] + 128
    # Cb and Cr are centred on 128, which the transform takes off again.
    halved = jnp.stack([_mean_2x2(plane) for plane in chroma])
    blue, red = (_repeat_2x2(plane) for plane in _quantise(halved, steps[1]))
    rgb = jnp.stack(_mix(_TO_RGB, [luma, blue, red]))[:, :height, :width]
    return canvas._replace(planes=jnp.clip(rgb / 255, 0, 1))


def _mix(matrix: np.ndarray, planes) -> list[Array]:
    return [sum(float(w) * plane for w, plane in zip(row, planes, strict=True)) for row in matrix]


def _quantise(planes: Array, steps: Array) -> Array:
    """(P, H, W) in grey levels around 0 -> the same from coefficients that are multiples of steps.

    steps: (8, 8).
    """
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
