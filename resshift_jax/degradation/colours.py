"""Changes of colour and exposure: keys and images in, changed images out, before they are degraded.

Photographs are seldom dark, tinted or of pure colours; a network that has seen none such gives them
a cast.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from resshift_jax.degradation.config import Range, require_probabilities, require_ranges
from resshift_jax.pixels import as_unit, in_8_bits
from resshift_jax.settings import require_positive

LUMA = 0.299, 0.587, 0.114


@dataclass(frozen=True)
class ColourConfig:
    """How the colours of training images are changed; by default they are not.

    Attributes:
        prob: that an image is changed.
        saturation: factor of its differences from grey, drawn evenly; above 1, colours of the image
            reach those of the cube's surface.
        gamma: exponent of its values, drawn evenly in its logarithm.
        exposure: factor of all values, likewise.
        tint: factor of each of the three channels, likewise.
    """

    prob: float = 0.0
    saturation: Range = (1.0, 1.0)
    gamma: Range = (1.0, 1.0)
    exposure: Range = (1.0, 1.0)
    tint: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        require_probabilities("colours", self, "prob")
        require_positive("colours", self, "gamma", "exposure", "tint")
        require_ranges("colours", self, "saturation", "gamma", "exposure", "tint")


def change_colours(
    keys: Key[Array, "b"], crops: Mapping[str, Array], config: ColourConfig
) -> Float[Array, "b H W 3"]:
    """The hq crops as float32 in [0, 1], each changed as its key draws; those of pairs are not.

    crops: as `pairs.make_pairs` takes them.
    """
    hq = as_unit(crops["hq"])
    changed: Array = jax.vmap(partial(_changed, config=config))(keys, hq)
    given = crops.get("given", jnp.full(len(hq), "lq" in crops))
    return jnp.where(given[:, None, None, None], hq, changed)


def _changed(key: Array, image: Array, config: ColourConfig) -> Array:
    happens, saturation, gamma, exposure, tint = jax.random.split(key, 5)
    low, high = config.saturation
    grey = (image @ jnp.array(LUMA))[..., None]
    changed = grey + jax.random.uniform(saturation, (), minval=low, maxval=high) * (image - grey)
    changed = jnp.clip(changed, 0, 1) ** _factor(gamma, config.gamma)
    changed *= _factor(exposure, config.exposure) * _factor(tint, config.tint, (3,))
    is_changed = jax.random.uniform(happens) < config.prob
    return jnp.where(is_changed, in_8_bits(jnp.clip(changed, 0, 1)), image)


def _factor(key: Array, bounds: Range, shape: tuple[int, ...] = ()) -> Array:
    low, high = map(math.log, bounds)
    return jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
