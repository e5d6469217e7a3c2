"""Crops of photographs in, training pairs out: the low-quality image of each, and its mask."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
from jax import Array

from resshift_jax.degradation.bicubic import reduce_bicubic
from resshift_jax.degradation.config import (
    BicubicConfig,
    DegradationConfig,
    FaceDegradationConfig,
    MaskConfig,
    MixtureConfig,
    PairConfig,
)
from resshift_jax.degradation.faces import degrade_faces
from resshift_jax.degradation.masks import draw_mask
from resshift_jax.degradation.ops.canvas import in_unit_range
from resshift_jax.degradation.real_esrgan import degrade, degrade_mixed


class Pair(NamedTuple):
    """A batch of training pairs.

    Attributes:
        high: (B, H, W, 3) float32 in [-1, 1].
        low: (B, h, w, 3) float32 in [-1, 1].
        mask: for inpainting, (B, h, w, 1) float32, 1 where to fill; otherwise None.
    """

    high: Array
    low: Array
    mask: Array | None = None


def make_pairs(keys: Array, images: Mapping[str, Array], config: PairConfig) -> Pair:
    """The training pairs of a batch of crops, to be compiled with jax.jit.

    Args:
        keys: (B,) keys; a pair depends on its own key and crop alone.
        images: {"high": (B, H, W, 3) uint8}, and, for given pairs, {"low": (B, h, w, 3) uint8}.
    """
    high = images["high"]
    mask = None
    match config:
        case DegradationConfig():
            low = degrade(keys, high, config)
        case MixtureConfig():
            low = degrade_mixed(keys, high, config)
        case FaceDegradationConfig():
            low, high = degrade_faces(keys, high, config)
        case BicubicConfig():
            low = reduce_bicubic(high, config)
        case MaskConfig():
            low = high
            mask = jax.vmap(partial(draw_mask, size=(high.shape[1], high.shape[2]), config=config))(
                keys
            )
        case _:
            low = images["low"]
    high, low = (2 * in_unit_range(image) - 1 for image in (high, low))
    return Pair(high, low, mask)
