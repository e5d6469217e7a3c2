"""Noise: Gaussian or Poisson, of each channel or grey, on an image in [0, 1].

A pixel's noise depends on the key, its position and its channel, never on the size of the canvas.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key, UInt, UInt32

from resshift_jax.degradation.config import NoiseConfig
from resshift_jax.degradation.ops.canvas import Canvas
from resshift_jax.degradation.ops.draws import Numbers, happens, uniform

LUMA = (0.2989, 0.587, 0.114)  # as the published operator has it


class Noise(NamedTuple):
    """What noise is made from, scalars.

    Attributes:
        key: of the values.
        gaussian, grey: bool.
        sigma: standard deviation of Gaussian noise, in grey levels of 255.
        scale: factor of Poisson noise.
    """

    key: Array
    gaussian: Array
    grey: Array
    sigma: Array
    scale: Array


def draw_noise(u: Numbers, key: Key[Array, ""], config: NoiseConfig) -> Noise:
    """Noise whose values come from the key, and all else from numbers."""
    gaussian, grey = happens(u, config.gaussian_prob), happens(u, config.grey_prob)
    sigma, scale = uniform(u, config.gaussian_sigma), uniform(u, config.poisson_scale)
    return Noise(key, gaussian, grey, sigma, scale)


def add_noise(canvas: Canvas, noise: Noise) -> Canvas:
    """The image with noise, clipped to [0, 1].

    Poisson noise is scale * (Poisson(x8 v) / v - x8): x8 is the image, or its luma for grey noise,
    rounded to 8 bits; v is the number of its distinct values, rounded up to a power of 2.
    """
    planes = canvas.planes
    red, green, blue = (weight * plane for weight, plane in zip(LUMA, planes, strict=True))
    luma = red + green + blue
    levels = jnp.clip(jnp.round(255 * jnp.where(noise.grey, luma[None], planes)), 0, 255)
    distinct = count_distinct(levels.astype(jnp.uint32), canvas.inside)
    v = 2.0 ** (32 - jax.lax.clz(distinct - 1)).astype(jnp.float32)

    def draw_plane(channel: Array, level: Array) -> Array:
        z, normal = _draw_normal(noise.key, channel, level.shape)
        rate = level / 255 * v
        values: Array = jax.lax.cond(
            noise.gaussian,
            lambda: noise.sigma / 255 * normal,
            lambda: noise.scale * (poisson(rate, z, normal) - rate) / v,
        )
        return values

    def draw_needed_plane(args: tuple[Array, Array]) -> Array:
        channel, level = args
        is_needed = (channel == 0) | ~noise.grey
        values: Array = jax.lax.cond(
            is_needed, lambda: draw_plane(*args), lambda: jnp.zeros_like(level)
        )
        return values

    values = jax.lax.map(draw_needed_plane, (jnp.arange(len(planes)), levels))
    values = jnp.where(noise.grey, values[:1], values)
    return canvas._replace(planes=jnp.clip(planes + values, 0, 1))


def add_gaussian(canvas: Canvas, key: Key[Array, ""], sigma: Float[Array, ""]) -> Canvas:
    """The image with Gaussian noise of each channel, clipped to [0, 1].

    sigma: its standard deviation, in grey levels of 255, scalar.
    """
    planes = canvas.planes
    draw = partial(_draw_normal, key, shape=planes.shape[1:])
    _, normal = jax.vmap(draw)(jnp.arange(len(planes)))
    return canvas._replace(planes=jnp.clip(planes + sigma / 255 * normal, 0, 1))


def _draw_normal(key: Array, channel: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Numbers (H, W) evenly in (-1, 1), and the normally distributed ones made from them."""
    z = symmetric_uniform(jax.random.fold_in(key, channel), shape)
    return z, np.float32(np.sqrt(2)) * jax.lax.erf_inv(z)


def symmetric_uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "h w"]:
    """Evenly in (-1, 1), float32 (H, W); a value depends on its position alone, not on the shape.

    sqrt(2) erf_inv of it is normally distributed.
    """
    height, width = shape
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(height))
    least = np.nextafter(np.float32(-1), np.float32(0))
    row = partial(
        jax.random.uniform, shape=(width,), dtype=jnp.float32, minval=least, maxval=np.float32(1)
    )
    return jax.vmap(row)(keys)


NORMAL_FROM = 8.0  # mean from which Poisson's distribution is taken from the normal one
_TERMS = 28  # Poisson(8) exceeds this once in 10^8


def poisson(
    rate: Float[Array, "*s"], z: Float[Array, "*s"], normal: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Whole numbers that follow Poisson's distribution.

    Args:
        rate: its mean, at least 0.
        z: evenly in (-1, 1); the result is the inverse of the distribution at (1 + z) / 2.
        normal: sqrt(2) erf_inv(z).

    From a mean of 8 on, Cornish and Fisher's expansion of the inverse, rounded down (Giles 2016,
    Algorithm 955): then mean and variance are within 4e-5 of their values.
    """
    u = (1 + z) / 2
    low = jnp.minimum(rate, NORMAL_FROM)
    term = total = jnp.exp(-low)
    small = jnp.zeros_like(rate)
    for n in range(1, _TERMS + 1):
        small = small + (u > total)
        term = term * low / n
        total = total + term
    root = jnp.sqrt(jnp.maximum(rate, NORMAL_FROM))
    w = normal
    large = jnp.floor(rate + root * w + (2 + w**2) / 6 - (2 * w + w**3) / (72 * root))
    return jnp.where(rate < NORMAL_FROM, small, jnp.maximum(large, 0))


def count_distinct(levels: UInt32[Array, "c h w"], inside: Bool[Array, "h w"]) -> UInt[Array, ""]:
    """How many of the values 0..255 occur in (C, H, W) uint32 levels, where `inside` (H, W).

    Each value has its bit in one of eight words, which are joined by a logical or: less work than
    sorting, and unlike a scatter fast on every device.
    """
    bits = jnp.where(inside[None], jnp.uint32(1) << (levels & 31), 0)
    words = [jnp.where(levels >> 5 == word, bits, 0) for word in range(8)]
    columns = jax.lax.reduce(  # of all eight words in one pass
        [word.reshape(-1, word.shape[-1]) for word in words],
        [np.uint32(0)] * 8,
        lambda a, b: [x | y for x, y in zip(a, b, strict=True)],
        (0,),
    )
    return jax.lax.population_count(jax.lax.reduce_or(jnp.stack(columns), axes=(1,))).sum()
