"""Degradation: keys and high-quality images in, their low-quality versions out, compiled once.

Whatever is drawn, an image goes through one program, whose every array has the greatest size that
can be drawn (canvas.py). Each image has draws of its own, that depend on its key alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from resshift_jax.data.blur import Kernel, blur, draw_blur, draw_sinc
from resshift_jax.data.canvas import Canvas, from_image, to_image
from resshift_jax.data.config import DegradationConfig, StageConfig
from resshift_jax.data.draws import Numbers, happens, numbers, uniform
from resshift_jax.data.jpeg import BLOCK, compress
from resshift_jax.data.noise import Noise, add_noise, draw_noise
from resshift_jax.data.resize import Resize, draw_mode, draw_resize, resize_by, resize_to


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
    u = numbers(scalars, 46)
    return Draws(
        first=_draw_stage(u, first, config.first),
        first_jpeg=uniform(u, config.first_jpeg),
        twice=happens(u, config.second_prob),
        second=_draw_stage(u, second, config.second),
        mode=draw_mode(u),
        sinc=draw_sinc(u, config.sinc),
        jpeg=uniform(u, config.jpeg),
        jpeg_first=happens(u, 0.5),
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
        ValueError: sides that are no multiples of the scale.
    """
    height, width = images.shape[1:3]
    if height % config.scale or width % config.scale:
        raise ValueError(
            f"images of {width}x{height} given, sides must be multiples of the scale, "
            f"{config.scale}"
        )
    draws = jax.vmap(partial(draw, config=config))(keys)
    return each(partial(apply, config=config), draws, in_unit_range(images), CPU_CANVASES)


def in_unit_range(images: Array) -> Array:
    """uint8 images as float32 in [0, 1]; those of floating point as they are, in float32."""
    scale = 255 if images.dtype == jnp.uint8 else 1
    return images.astype(jnp.float32) / scale


# On CPUs, canvases of the first stage, whose sides are these shares of the image's, and a last one
# for what is larger: an image takes the smallest that it fits.
CPU_CANVASES = (5 / 8, 1.0)


def each(one: Callable[..., Any], draws: Any, images: Array, cpu_canvases: Sequence[float]) -> Any:
    """one(draws, image, canvases=...) of every image of a batch.

    CPUs take image after image, and so compute only what was drawn, on a canvas that fits it; on
    other devices all images go together on the greatest one, and what was not drawn for an image
    is computed and not used.
    """
    in_turn = partial(one, canvases=cpu_canvases)
    return jax.lax.platform_dependent(
        draws,
        images,
        cpu=lambda *batch: jax.lax.map(lambda sample: in_turn(*sample), batch),
        default=jax.vmap(partial(one, canvases=())),
    )


def apply(
    draws: Draws, image: Array, *, config: DegradationConfig, canvases: Sequence[float] = ()
) -> Array:
    """The low-quality version of an image (H, W, 3) float32 in [0, 1], given what was drawn.

    canvases: shares of the sides, of canvases that the first stage may use besides the greatest.
    They change how fast it is, and the result by rounding alone.

    Returns:
        (H / scale, W / scale, 3) float32 in [0, 1], multiples of 1/255.
    """
    height, width, _ = image.shape
    low = height // config.scale, width // config.scale
    greatest = config.second.resize.greatest if config.second_prob > 0 else 1.0
    second_shape = _canvas_shape(low, greatest)

    def last_jpeg(canvas: Canvas) -> Canvas:
        return compress(canvas._replace(planes=jnp.clip(canvas.planes, 0, 1)), draws.jpeg)

    def jpeg_first(canvas: Canvas) -> Canvas:
        return jax.lax.cond(draws.jpeg_first, last_jpeg, lambda c: c, canvas)

    def through_first(shape: tuple[int, int], blurred: Canvas) -> Canvas:
        """The first stage from its resizing on, and all else that has images of this size."""
        stage = draws.first
        noisy = add_noise(resize_by(blurred, *stage.resize, shape), stage.noise)
        return jax.lax.cond(draws.twice, twice, once, compress(noisy, draws.first_jpeg))

    def once(canvas: Canvas) -> Canvas:
        return resize_to(jpeg_first(canvas), low, draws.mode, second_shape)

    def twice(canvas: Canvas) -> Canvas:
        factor, mode = draws.second.resize
        size = [jnp.maximum(jnp.floor(side * factor), 1).astype(jnp.int32) for side in low]
        blurred = blur(canvas, draws.second.blur, config.second.blur.sizes[1])
        return resize_to(blurred, (size[0], size[1]), mode, second_shape)

    def after_second(canvas: Canvas) -> Canvas:
        return resize_to(
            jpeg_first(add_noise(canvas, draws.second.noise)), low, draws.mode, second_shape
        )

    canvas = blur(from_image(image), draws.first.blur, config.first.blur.sizes[1])
    shares = (*canvases, config.first.resize.greatest)
    canvas = on_canvas(through_first, (height, width), shares, draws.first.resize.factor, canvas)
    canvas = jax.lax.cond(draws.twice, after_second, lambda c: c, canvas)
    canvas = Canvas(canvas.planes[:, : low[0], : low[1]], *canvas[1:])
    canvas = blur(canvas, draws.sinc, config.sinc.sizes[1])
    canvas = jax.lax.cond(draws.jpeg_first, lambda c: c, last_jpeg, canvas)
    return jnp.clip(jnp.round(255 * to_image(canvas)), 0, 255) / 255


def on_canvas(
    function: Callable[[tuple[int, int], Canvas], Canvas],
    size: tuple[int, int],
    shares: Sequence[float],
    factor: Array,
    canvas: Canvas,
) -> Canvas:
    """function(shape, canvas) with the first shape that holds `size` times the factor.

    shares: of the size, the sides of the shapes, increasing; the last one holds every factor.
    """
    branches = [partial(function, _canvas_shape(size, share)) for share in shares]
    index = sum((factor > share for share in shares[:-1]), jnp.int32(0))
    return jax.lax.switch(index, branches, canvas)


def _canvas_shape(size: tuple[int, int], share: float) -> tuple[int, int]:
    """The sides times a share, rounded up to whole JPEG blocks."""
    height, width = (-(-int(side * share) // BLOCK) * BLOCK for side in size)
    return height, width
