"""Crops of photographs in, training pairs out: the low-quality image of each, and its mask.

DEGRADATIONS has a row for each way to make them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, Num, UInt8

from resshift_jax.degradation.bicubic import BicubicConfig, reduce_bicubic
from resshift_jax.degradation.config import MixtureConfig, RealEsrganConfig
from resshift_jax.degradation.faces import FacesConfig, degrade_faces
from resshift_jax.degradation.masks import MaskConfig, draw_mask
from resshift_jax.degradation.real_esrgan import degrade, degrade_mixed
from resshift_jax.pixels import as_unit, signed_from_unit
from resshift_jax.settings import ConfigError, unknown

Keys = Key[Array, "b"]
Crops = Mapping[str, UInt8[Array, "b _ _ 3"]]
"""{"hq": (B, H, W, 3)}; for given pairs {"lq": (B, h, w, 3)}; {"given": (B,) bool} for some."""


class Pair(NamedTuple):
    """A batch of training pairs.

    Attributes:
        hq: (B, H, W, 3) float32 in [-1, 1].
        lq: (B, h, w, 3) float32 in [-1, 1].
        mask: for inpainting, (B, h, w, 1) float32, 1 where to fill; otherwise None.
    """

    hq: Num[Array, "b H W 3"]
    lq: Num[Array, "b h w 3"]
    mask: Float[Array, "b h w 1"] | None = None


@runtime_checkable
class DegradationSettings(Protocol):
    """What the settings of any degradation tell.

    Attributes:
        kind: the name of its row in DEGRADATIONS.
        scale: side of an image over the side of its low-quality version.
    """

    @property
    def kind(self) -> str: ...
    @property
    def scale(self) -> int: ...


@dataclass(frozen=True)
class PairsConfig:
    """No degradation: the sources hold pairs.

    Attributes:
        scale: side of the image over the side of its low-quality version.
    """

    kind: Literal["pairs"] = "pairs"
    scale: int = 4


def _real_esrgan(keys: Keys, crops: Crops, config: RealEsrganConfig) -> Pair:
    return Pair(crops["hq"], degrade(keys, crops["hq"], config))


def _mixture(keys: Keys, crops: Crops, config: MixtureConfig) -> Pair:
    return Pair(crops["hq"], degrade_mixed(keys, crops["hq"], config))


def _faces(keys: Keys, crops: Crops, config: FacesConfig) -> Pair:
    lq, hq = degrade_faces(keys, crops["hq"], config)
    return Pair(hq, lq)


def _bicubic(keys: Keys, crops: Crops, config: BicubicConfig) -> Pair:
    return Pair(crops["hq"], reduce_bicubic(crops["hq"], config))


def _masks(keys: Keys, crops: Crops, config: MaskConfig) -> Pair:
    _, height, width, _ = crops["hq"].shape
    draw = partial(draw_mask, size=(height, width), config=config)
    return Pair(crops["hq"], crops["hq"], jax.vmap(draw)(keys))


def _given(keys: Keys, crops: Crops, config: PairsConfig) -> Pair:
    return Pair(crops["hq"], crops["lq"])


class Degradation(NamedTuple):
    """A row of DEGRADATIONS.

    Attributes:
        settings: the dataclass whose `kind` is the row's name.
        make: (keys, crops, settings) -> the pairs, images as uint8 or float32 in [0, 1]; a pair
            depends on its own key and crop alone.
        draws_masks: whether pairs have masks, for inpainting.
        takes_pairs: whether the sources must hold pairs.
    """

    settings: type
    make: Callable[[Array, Mapping[str, Array], Any], Pair]
    draws_masks: bool = False
    takes_pairs: bool = False


DEGRADATIONS: dict[str, Degradation] = {
    "real_esrgan": Degradation(RealEsrganConfig, _real_esrgan),
    "mixture": Degradation(MixtureConfig, _mixture),
    "faces": Degradation(FacesConfig, _faces),
    "bicubic": Degradation(BicubicConfig, _bicubic),
    "masks": Degradation(MaskConfig, _masks, draws_masks=True),
    "pairs": Degradation(PairsConfig, _given, takes_pairs=True),
}


def make_pairs(keys: Keys, crops: Crops, config: DegradationSettings) -> Pair:
    """The training pairs of a batch of crops, to be compiled with jax.jit.

    Args:
        keys: (B,) keys; a pair depends on its own key and crop alone.
        crops: {"hq": (B, H, W, 3) uint8}, and, for given pairs, {"lq": (B, h, w, 3) uint8}. Where
            only some are given, {"given": (B,) bool} tells which, and the others are made.

    Raises:
        ConfigError: settings of a kind that has no row.
    """
    if config.kind not in DEGRADATIONS:
        raise ConfigError(f"degradation.kind: {unknown(config.kind, DEGRADATIONS, 'kind')}")
    pair = DEGRADATIONS[config.kind].make(keys, crops, config)
    hq, lq = (signed_from_unit(as_unit(image)) for image in (pair.hq, pair.lq))
    if "given" in crops:
        given = crops["given"][:, None, None, None]
        lq = jnp.where(given, signed_from_unit(as_unit(crops["lq"])), lq)
    return Pair(hq, lq, pair.mask)
