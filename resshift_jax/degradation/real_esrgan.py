"""Real-ESRGAN's degradation: keys and images in, their low-quality versions out, compiled once.

Whatever is drawn, an image goes through one program, on canvases that hold every size that can be
drawn (canvas.py). Each image has draws of its own, that depend on its key alone.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, Num

from resshift_jax.degradation.config import MixtureConfig, RealEsrganConfig, RoundConfig
from resshift_jax.degradation.ops.blur import Kernel, blur, draw_blur, draw_sinc
from resshift_jax.degradation.ops.canvas import (
    Canvas,
    canvas_shape,
    for_each_image,
    from_image,
    on_canvas,
    to_image,
)
from resshift_jax.degradation.ops.draws import Numbers, happens, uniform, with_numbers
from resshift_jax.degradation.ops.jpeg import compress
from resshift_jax.degradation.ops.noise import Noise, add_noise, draw_noise
from resshift_jax.degradation.ops.resize import (
    Resize,
    draw_mode,
    draw_resize,
    resize_by,
    resize_to,
    whole,
)
from resshift_jax.pixels import as_unit, in_8_bits

# Factors of the first resizing up to which a CPU uses a smaller canvas than the greatest.
SMALLER_CANVASES = (5 / 8, 1.0)


class Round(NamedTuple):
    """The draws of a round."""

    blur: Kernel
    resize: Resize
    noise: Noise


class Draws(NamedTuple):
    """All that is drawn for an image.

    Attributes:
        first_round, second_round: the rounds; there is a second one if `twice`.
        first_jpeg, jpeg: qualities.
        mode: of the resizing to the low-quality size.
        sinc: the last filter.
        jpeg_first: the last JPEG comes before that resizing and that filter.
    """

    first_round: Round
    first_jpeg: Array
    twice: Array
    second_round: Round
    mode: Array
    sinc: Kernel
    jpeg: Array
    jpeg_first: Array


def draw(key: Key[Array, ""], config: RealEsrganConfig) -> Draws:
    """What is drawn for the image of a key."""
    scalars, first_key, second_key = jax.random.split(key, 3)

    def draw_all(u: Numbers) -> Draws:
        # The order is part of the result.
        first = _draw_round(u, first_key, config.first_round)
        first_jpeg = uniform(u, config.first_jpeg)
        twice = happens(u, config.second_round_prob)
        second = _draw_round(u, second_key, config.second_round)
        mode, sinc = draw_mode(u), draw_sinc(u, config.sinc)
        jpeg, jpeg_first = uniform(u, config.jpeg), happens(u, config.jpeg_first_prob)
        return Draws(first, first_jpeg, twice, second, mode, sinc, jpeg, jpeg_first)

    return with_numbers(scalars, draw_all)


def _draw_round(u: Numbers, noise_key: Array, config: RoundConfig) -> Round:
    blur, resize = draw_blur(u, config.blur), draw_resize(u, config.resize)
    return Round(blur, resize, draw_noise(u, noise_key, config.noise))


def degrade(
    keys: Key[Array, "b"], images: Num[Array, "b H W 3"], config: RealEsrganConfig
) -> Float[Array, "b h w 3"]:
    """The low-quality versions of a batch of images, to be compiled with jax.jit.

    An image's result depends on its key and its pixels alone, not on the batch.

    Args:
        keys: (B,) keys.
        images: (B, H, W, 3), uint8, or float32 in [0, 1]; sides are multiples of config.scale.

    Returns:
        (B, H / scale, W / scale, 3) float32 in [0, 1], multiples of 1/255.

    Raises:
        ValueError: sides that are no multiples of the scale, or images of another dtype.
    """
    height, width = images.shape[1:3]
    if height % config.scale or width % config.scale:
        raise ValueError(
            f"images of {width}x{height} given, sides must be multiples of the scale, "
            f"{config.scale}"
        )
    draws = jax.vmap(partial(draw, config=config))(keys)
    one = partial(degrade_image, config=config)
    lq: Array = for_each_image(one, draws, as_unit(images), SMALLER_CANVASES)
    return lq


def degrade_mixed(
    keys: Key[Array, "b"], images: Num[Array, "b H W 3"], config: MixtureConfig
) -> Float[Array, "b h w 3"]:
    """As `degrade`, each image in one of several ways.

    All are degraded in every way, of which one is kept: that is little beside a training step.
    """
    versions = jnp.stack([degrade(keys, images, part) for part in config.parts])
    return versions[draw_part(keys, config), jnp.arange(len(images))]


def draw_part(keys: Key[Array, "b"], config: MixtureConfig) -> Int[Array, "b"]:
    """(B,) int: which of its parts degrades the image of each key."""
    weights = jnp.array(config.weights or [1.0] * len(config.parts))
    pick = partial(jax.random.choice, a=len(config.parts), p=weights / weights.sum())
    # `draw` splits the key in three, which are what it gives with 0, 1 and 2 folded in.
    return jax.vmap(lambda key: pick(jax.random.fold_in(key, 3)))(keys)


def degrade_image(
    draws: Draws,
    image: Float[Array, "H W 3"],
    *,
    config: RealEsrganConfig,
    smaller: Sequence[float] = (),
) -> Float[Array, "h w 3"]:
    """The low-quality version of an image (H, W, 3) float32 in [0, 1], given what was drawn.

    smaller: factors of the first resizing, for each of which there is a canvas (see `on_canvas`).

    Returns:
        (H / scale, W / scale, 3) float32 in [0, 1], multiples of 1/255.
    """
    height, width, _ = image.shape
    lq_size = height // config.scale, width // config.scale
    second_shape = canvas_shape(lq_size, config.second_round.resize.greatest)

    def last_jpeg(x: Canvas) -> Canvas:
        return compress(x._replace(planes=jnp.clip(x.planes, 0, 1)), draws.jpeg)

    def if_jpeg_first(x: Canvas) -> Canvas:
        result: Canvas = jax.lax.cond(draws.jpeg_first, last_jpeg, lambda x: x, x)
        return result

    def first_round(shape: tuple[int, int], x: Canvas) -> Canvas:
        """From its resizing on, and with all else that is done to images of this size."""
        x = resize_by(x, *draws.first_round.resize, shape)
        x = compress(add_noise(x, draws.first_round.noise), draws.first_jpeg)
        if config.second_round_prob == 0:
            return to_lq_size(x)
        result: Canvas = jax.lax.cond(draws.twice, to_second_round, to_lq_size, x)
        return result

    def to_lq_size(x: Canvas) -> Canvas:
        return resize_to(if_jpeg_first(x), lq_size, draws.mode, second_shape)

    def to_second_round(x: Canvas) -> Canvas:
        factor, mode = draws.second_round.resize
        rows, columns = (whole(side * factor) for side in lq_size)
        x = blur(x, draws.second_round.blur, config.second_round.blur.sizes[1])
        return resize_to(x, (rows, columns), mode, second_shape)

    def second_round(x: Canvas) -> Canvas:
        return to_lq_size(add_noise(x, draws.second_round.noise))

    x = blur(from_image(image), draws.first_round.blur, config.first_round.blur.sizes[1])
    greatest = config.first_round.resize.greatest
    x = on_canvas(first_round, x, draws.first_round.resize.factor, greatest, smaller)
    if config.second_round_prob > 0:
        x = jax.lax.cond(draws.twice, second_round, lambda x: x, x)
    x = x._replace(planes=x.planes[:, : lq_size[0], : lq_size[1]])
    x = blur(x, draws.sinc, config.sinc.sizes[1])
    x = jax.lax.cond(draws.jpeg_first, lambda x: x, last_jpeg, x)
    return in_8_bits(to_image(x))
