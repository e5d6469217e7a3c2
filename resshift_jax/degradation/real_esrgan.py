"""Degradation: keys and high-quality images in, their low-quality versions out, compiled once.

Whatever is drawn, an image goes through one program, on canvases that hold every size that can be
drawn (canvas.py). Each image has draws of its own, that depend on its key alone.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from resshift_jax.degradation.config import DegradationConfig, MixtureConfig, StageConfig
from resshift_jax.degradation.ops.blur import Kernel, blur, draw_blur, draw_sinc
from resshift_jax.degradation.ops.canvas import (
    Canvas,
    canvas_shape,
    for_each_image,
    from_image,
    in_unit_range,
    on_canvas,
    to_8_bits,
    to_image,
)
from resshift_jax.degradation.ops.draws import Numbers, happens, numbers, uniform
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

# Factors of the first resizing up to which a CPU uses a smaller canvas than the greatest.
SMALLER_CANVASES = (5 / 8, 1.0)


class Stage(NamedTuple):
    """The draws of a stage."""

    blur: Kernel
    resize: Resize
    noise: Noise


class Draws(NamedTuple):
    """All that is drawn for an image.

    Attributes:
        first, second: the stages; there is a second one if `twice`.
        first_jpeg, jpeg: qualities.
        mode: of the resizing to the low-quality size.
        sinc: the last filter.
        jpeg_first: the last JPEG comes before that resizing and that filter.
    """

    first: Stage
    first_jpeg: Array
    twice: Array
    second: Stage
    mode: Array
    sinc: Kernel
    jpeg: Array
    jpeg_first: Array


def draw(key: Array, config: DegradationConfig) -> Draws:
    """What is drawn for the image of a key."""
    scalars, first, second = jax.random.split(key, 3)
    u = numbers(scalars, 46)  # 19 for each stage, 3 for the sinc and 5
    return Draws(
        first=_draw_stage(u, first, config.first),
        first_jpeg=uniform(u, config.first_jpeg),
        twice=happens(u, config.second_prob),
        second=_draw_stage(u, second, config.second),
        mode=draw_mode(u),
        sinc=draw_sinc(u, config.sinc),
        jpeg=uniform(u, config.jpeg),
        jpeg_first=happens(u, config.jpeg_first_prob),
    )


def _draw_stage(u: Numbers, noise_key: Array, config: StageConfig) -> Stage:
    return Stage(
        blur=draw_blur(u, config.blur),
        resize=draw_resize(u, config.resize),
        noise=draw_noise(u, noise_key, config.noise),
    )


def degrade(keys: Array, images: Array, config: DegradationConfig) -> Array:
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
    return for_each_image(one, draws, in_unit_range(images), SMALLER_CANVASES)


def degrade_mixed(keys: Array, images: Array, config: MixtureConfig) -> Array:
    """As `degrade`, each image in one of several ways.

    All are degraded in every way, of which one is kept: that is little beside a training step.
    """
    versions = jnp.stack([degrade(keys, images, part) for part in config.parts])
    return versions[draw_part(keys, config), jnp.arange(len(images))]


def draw_part(keys: Array, config: MixtureConfig) -> Array:
    """(B,) int: which of its parts degrades the image of each key."""
    weights = jnp.array(config.weights or [1.0] * len(config.parts))
    pick = partial(jax.random.choice, a=len(config.parts), p=weights / weights.sum())
    # `draw` splits the key in three, which are what it gives with 0, 1 and 2 folded in.
    return jax.vmap(lambda key: pick(jax.random.fold_in(key, 3)))(keys)


def degrade_image(
    draws: Draws, image: Array, *, config: DegradationConfig, smaller: Sequence[float] = ()
) -> Array:
    """The low-quality version of an image (H, W, 3) float32 in [0, 1], given what was drawn.

    smaller: factors of the first resizing, for each of which there is a canvas (see `on_canvas`).

    Returns:
        (H / scale, W / scale, 3) float32 in [0, 1], multiples of 1/255.
    """
    height, width, _ = image.shape
    low = height // config.scale, width // config.scale
    second_shape = canvas_shape(low, config.second.resize.greatest)

    def last_jpeg(x: Canvas) -> Canvas:
        return compress(x._replace(planes=jnp.clip(x.planes, 0, 1)), draws.jpeg)

    def if_jpeg_first(x: Canvas) -> Canvas:
        return jax.lax.cond(draws.jpeg_first, last_jpeg, lambda x: x, x)

    def first_stage(shape: tuple[int, int], x: Canvas) -> Canvas:
        """From its resizing on, and with all else that is done to images of this size."""
        x = resize_by(x, *draws.first.resize, shape)
        x = compress(add_noise(x, draws.first.noise), draws.first_jpeg)
        if config.second_prob == 0:
            return to_low(x)
        return jax.lax.cond(draws.twice, to_second_stage, to_low, x)

    def to_low(x: Canvas) -> Canvas:
        return resize_to(if_jpeg_first(x), low, draws.mode, second_shape)

    def to_second_stage(x: Canvas) -> Canvas:
        factor, mode = draws.second.resize
        rows, columns = (whole(side * factor) for side in low)
        x = blur(x, draws.second.blur, config.second.blur.sizes[1])
        return resize_to(x, (rows, columns), mode, second_shape)

    def second_stage(x: Canvas) -> Canvas:
        return to_low(add_noise(x, draws.second.noise))

    x = blur(from_image(image), draws.first.blur, config.first.blur.sizes[1])
    greatest = config.first.resize.greatest
    x = on_canvas(first_stage, x, draws.first.resize.factor, greatest, smaller)
    if config.second_prob > 0:
        x = jax.lax.cond(draws.twice, second_stage, lambda x: x, x)
    x = x._replace(planes=x.planes[:, : low[0], : low[1]])
    x = blur(x, draws.sinc, config.sinc.sizes[1])
    x = jax.lax.cond(draws.jpeg_first, lambda x: x, last_jpeg, x)
    return to_8_bits(to_image(x))
