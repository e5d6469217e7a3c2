"""Degradation of faces: keys and high-quality faces in, pairs of one size out, compiled once.

Blurred, reduced, with noise, compressed and enlarged back, as GFPGAN has it (arXiv 2101.04061).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from resshift_jax.degradation.config import FaceDegradationConfig
from resshift_jax.degradation.ops.blur import Kernel, blur, draw_gaussian
from resshift_jax.degradation.ops.canvas import (
    Canvas,
    for_each_image,
    from_image,
    in_unit_range,
    on_canvas,
    to_8_bits,
    to_image,
)
from resshift_jax.degradation.ops.draws import happens, numbers, uniform
from resshift_jax.degradation.ops.jpeg import compress_as_libjpeg
from resshift_jax.degradation.ops.noise import add_gaussian
from resshift_jax.degradation.ops.resize import BILINEAR, resize_to, whole

LUMA = (0.299, 0.587, 0.114)  # OpenCV's

# Factors up to which a CPU uses a smaller canvas: few faces stay larger than half their size.
SMALLER_CANVASES = (1 / 4, 1 / 2)


class FaceDraws(NamedTuple):
    """All that is drawn for a face.

    Attributes:
        reduction: by which it is reduced.
        noise_key, noise_sigma: of Gaussian noise, the latter in grey levels of 255.
        jpeg: a whole quality.
        grey: whether both images of the pair are grey, bool.
    """

    blur: Kernel
    reduction: Array
    noise_key: Array
    noise_sigma: Array
    jpeg: Array
    grey: Array


def draw_face(key: Array, config: FaceDegradationConfig) -> FaceDraws:
    """What is drawn for the face of a key."""
    scalars, noise_key = jax.random.split(key)
    u = numbers(scalars, 8)
    return FaceDraws(
        blur=draw_gaussian(u, config.kernel_size, config.sigma, config.anisotropic),
        reduction=uniform(u, config.reduction),
        noise_key=noise_key,
        noise_sigma=uniform(u, config.noise_sigma),
        jpeg=jnp.floor(uniform(u, config.jpeg)),
        grey=happens(u, config.grey_prob),
    )


def degrade_faces(keys: Array, images: Array, config: FaceDegradationConfig) -> tuple[Array, Array]:
    """The low-quality and the high-quality images of a batch, to be compiled with jax.jit.

    JPEG is libjpeg's, which is given a whole quality. Flipping is not done here.

    Args:
        keys: (B,) keys; a pair depends on its key and its image alone, not on the batch.
        images: (B, H, W, 3), uint8, or float32 in [0, 1]; 512x512 as published.

    Returns:
        Two arrays (B, H, W, 3) float32 in [0, 1], the first in multiples of 1/255. The second one
        is the images, but for those made grey.

    Raises:
        ValueError: images of another dtype.
    """
    draws = jax.vmap(partial(draw_face, config=config))(keys)
    one = partial(degrade_face, config=config)
    return for_each_image(one, draws, in_unit_range(images), SMALLER_CANVASES)


def degrade_face(
    draws: FaceDraws,
    image: Array,
    *,
    config: FaceDegradationConfig,
    smaller: Sequence[float] = (),
) -> tuple[Array, Array]:
    """The pair of an image (H, W, 3) float32 in [0, 1], given what was drawn.

    smaller: factors by which the face is reduced, for each of which there is a canvas (see
    `on_canvas`).
    """
    height, width, _ = image.shape
    rows, columns = (whole(side / draws.reduction) for side in (height, width))

    def reduced(shape: tuple[int, int], x: Canvas) -> Canvas:
        x = resize_to(x, (rows, columns), BILINEAR, shape)
        x = add_gaussian(x, draws.noise_key, draws.noise_sigma)
        x = compress_as_libjpeg(x, draws.jpeg)
        return resize_to(x, (height, width), BILINEAR, (height, width))

    x = blur(from_image(image), draws.blur, config.kernel_size)
    x = on_canvas(reduced, x, 1 / draws.reduction, 1 / config.reduction[0], smaller)
    low, high = (jnp.where(draws.grey, _grey(colour), colour) for colour in (to_image(x), image))
    return to_8_bits(low), high


def _grey(image: Array) -> Array:
    """(H, W, 3) -> its luma, (H, W, 1)."""
    red, green, blue = (weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))
    return red + green + blue
