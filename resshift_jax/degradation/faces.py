"""Degradation of faces: keys and high-quality faces in, pairs of one size out, compiled once.

Blurred, reduced, with noise, compressed and enlarged back, as GFPGAN has it (arXiv 2101.04061).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, Num

from resshift_jax.degradation.config import (
    Range,
    require_probabilities,
    require_qualities,
    require_ranges,
)
from resshift_jax.degradation.ops.blur import Kernel, blur, draw_gaussian
from resshift_jax.degradation.ops.canvas import (
    Canvas,
    for_each_image,
    from_image,
    on_canvas,
    to_image,
)
from resshift_jax.degradation.ops.draws import Numbers, happens, uniform, with_numbers
from resshift_jax.degradation.ops.jpeg import compress_as_libjpeg
from resshift_jax.degradation.ops.noise import add_gaussian
from resshift_jax.degradation.ops.resize import BILINEAR, resize_to, whole
from resshift_jax.pixels import as_unit, in_8_bits
from resshift_jax.settings import require, require_positive

LUMA = (0.299, 0.587, 0.114)  # OpenCV's

# Factors up to which a CPU uses a smaller canvas: few faces stay larger than half their size.
SMALLER_CANVASES = (1 / 4, 1 / 2)


@dataclass(frozen=True)
class FacesConfig:
    """The degradation of faces, which keeps their size (GFPGAN, arXiv 2101.04061).

    Attributes:
        kernel_size: side of the blur kernel, a Gaussian, odd.
        anisotropic: probability that it is one, and not isotropic.
        sigma: of the blur, in pixels.
        reduction: by which the image is reduced, before it is enlarged back.
        noise_sigma: standard deviation of Gaussian noise, in grey levels of 255.
        jpeg: quality, of which the whole number is taken.
        grey_prob: that the pair is made grey.
    """

    kind: Literal["faces"] = "faces"
    kernel_size: int = 41
    anisotropic: float = 0.5
    sigma: Range = (0.1, 15.0)
    reduction: Range = (0.8, 32.0)
    noise_sigma: Range = (0.0, 20.0)
    jpeg: Range = (30.0, 100.0)
    grey_prob: float = 0.01
    scale = 1

    def __post_init__(self) -> None:
        size = self.kernel_size
        require(
            size > 0 and size % 2 == 1,
            f"degradation.kernel_size: {size} given, an odd number needed",
        )
        require_positive("degradation", self, "sigma", "reduction")
        require_ranges("degradation", self, "sigma", "reduction", "noise_sigma")
        require_qualities("degradation", self, "jpeg")
        require_probabilities("degradation", self, "anisotropic", "grey_prob")


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


def draw_face(key: Key[Array, ""], config: FacesConfig) -> FaceDraws:
    """What is drawn for the face of a key."""
    scalars, noise_key = jax.random.split(key)

    def draw_all(u: Numbers) -> FaceDraws:
        # The order is part of the result.
        blur = draw_gaussian(u, config.kernel_size, config.sigma, config.anisotropic)
        reduction, noise_sigma = uniform(u, config.reduction), uniform(u, config.noise_sigma)
        jpeg, grey = jnp.floor(uniform(u, config.jpeg)), happens(u, config.grey_prob)
        return FaceDraws(blur, reduction, noise_key, noise_sigma, jpeg, grey)

    return with_numbers(scalars, draw_all)


def degrade_faces(
    keys: Key[Array, "b"], images: Num[Array, "b H W 3"], config: FacesConfig
) -> tuple[Float[Array, "b H W 3"], Float[Array, "b H W 3"]]:
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
    pairs: tuple[Array, Array] = for_each_image(one, draws, as_unit(images), SMALLER_CANVASES)
    return pairs


def degrade_face(
    draws: FaceDraws,
    image: Float[Array, "H W 3"],
    *,
    config: FacesConfig,
    smaller: Sequence[float] = (),
) -> tuple[Float[Array, "H W 3"], Float[Array, "H W 3"]]:
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
    lq, hq = (jnp.where(draws.grey, _grey(colour), colour) for colour in (to_image(x), image))
    return in_8_bits(lq), hq


def _grey(image: Array) -> Array:
    """(H, W, 3) -> its luma, (H, W, 1)."""
    red, green, blue = (weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))
    return red + green + blue
