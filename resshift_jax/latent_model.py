"""A model in the latent of its first stage: a configuration in, the functions it stands for out.

Restoring, training, validation and conversion all take their encoder, decoder, denoiser and chain
from here. Nothing is held but the configuration: every function is pure, of parameters and arrays.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from resshift_jax.chain import Chain, Denoiser, make_chain
from resshift_jax.config import (
    BACKBONES,
    FIRST_STAGES,
    BackboneConfig,
    FirstStageConfig,
    ModelConfig,
)
from resshift_jax.nn.layers import apply
from resshift_jax.platform import Compute, matmul_precision
from resshift_jax.resize import upsample_bicubic
from resshift_jax.schedule import make_schedule

Params = Mapping[str, Any]
"""{"unet": tree of the backbone's parameters, "first_stage": tree}, float32."""


class Cond(NamedTuple):
    """What the backbone sees beside x_t.

    Attributes:
        lq: (B, h, w, 3) float32 in [-1, 1], -1 where to fill.
        mask: for inpainting, (B, h, w, 1) float32, +1 where to fill and -1 elsewhere.
    """

    lq: Float[Array, "b h w 3"]
    mask: Float[Array, "b h w 1"] | None


@dataclass(frozen=True)
class LatentModel:
    """The networks and the chain of a configuration.

    Attributes:
        config: what they are.
        compute: how the networks compute; the chain itself is float32.
    """

    config: ModelConfig
    compute: Compute = Compute()

    @cached_property
    def backbone(self) -> nn.Module:
        return make_backbone(self.config.unet, self.compute)

    @cached_property
    def first_stage(self) -> nn.Module:
        return make_first_stage(self.config.first_stage, self.compute)

    def precision(self) -> AbstractContextManager[Any]:
        """The context that the functions below are to be traced in."""
        return jax.default_matmul_precision(matmul_precision(self.compute.dtype))

    def encode(self, params: Params, image: Float[Array, "b H W 3"]) -> Float[Array, "b h w c"]:
        """(B, H, W, 3) in [-1, 1] -> the latent (B, H/f, W/f, c), float32."""
        return apply(self.first_stage, params["first_stage"], image, method="encode")

    def decode(self, params: Params, z: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
        """A latent -> the image (B, H, W, 3), about [-1, 1] and not clipped."""
        return apply(self.first_stage, params["first_stage"], z, method="decode")

    def condition(self, lq: Float[Array, "b h w 3"], mask: Float[Array, "b h w 1"] | None) -> Cond:
        """Of an image in [-1, 1] and a mask in [0, 1], 1 where to fill."""
        if mask is None:
            return Cond(lq, None)
        return Cond(lq * (1 - mask) - mask, 2 * mask - 1)

    def encode_lq(self, params: Params, cond: Cond) -> Float[Array, "b h w c"]:
        """z_y, the latent of the condition's image enlarged bicubically."""
        return self.encode(params, upsample_bicubic(cond.lq, self.config.scale))

    def predict(
        self, params: Params, x_t: Float[Array, "b h w c"], t: Int[Array, "b"], cond: Cond
    ) -> Float[Array, "b h w c"]:
        """The backbone's output for a scaled x_t (B, h', w', c) and time-steps t (B,)."""
        return apply(self.backbone, params["unet"], x_t, t, cond.lq, cond.mask)

    def denoiser(self, params: Params, cond: Cond) -> Denoiser:
        """`predict` as the chain takes it."""
        return lambda x_t, t: self.predict(params, x_t, t, cond)

    def chain(self, sampling_steps: int | None = None, sampler: str | None = None) -> Chain:
        """The chain to sample with; sampling_steps, sampler: None: those of the configuration.

        Raises:
            ValueError: an unknown sampler, or steps that the sampler cannot take.
        """
        return make_chain(
            self.config.chain, in_pixels=self.config.first_stage.in_pixels,
            sampling_steps=sampling_steps, sampler=sampler,
        )  # fmt: skip

    def training_chain(self) -> Chain:
        """The chain of all time-steps, however many are sampled with."""
        in_pixels = self.config.first_stage.in_pixels
        return Chain(make_schedule(self.config.chain), self.config.chain.target, in_pixels)

    def init(self, key: Key[Array, ""]) -> Mapping[str, Any]:
        """Random parameters of the backbone, float32."""
        inputs = abstract_inputs(self.config.unet, self.config.unet.image_size)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
        return self.backbone.init(key, *zeros)["params"]


def make_backbone(config: BackboneConfig, compute: Compute = Compute()) -> nn.Module:
    """The denoising network of these settings."""
    return BACKBONES[config.kind].make(config, compute)


def make_first_stage(config: FirstStageConfig, compute: Compute = Compute()) -> nn.Module:
    """The first stage of these settings, with methods `encode` and `decode`."""
    return FIRST_STAGES[config.kind].make(config, compute)


def abstract_inputs(config: BackboneConfig, side: int, batch: int = 1) -> tuple[Any, ...]:
    """Shapes of x_t, t, the LQ image, and the mask or None, for a latent of `side` x `side`."""
    lq_side = side << config.num_halvings

    def image(side: int, channels: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32)

    mask = image(lq_side, 1) if config.cond_mask else None
    t = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return image(side, config.latent_channels), t, image(lq_side, 3), mask


@cache  # tracing takes longer than reading many a file
def backbone_shapes(config: BackboneConfig) -> Mapping[str, tuple[int, ...]]:
    """Path -> shape of each parameter of the network."""
    return _shapes(make_backbone(config), *abstract_inputs(config, config.granularity))


@cache
def first_stage_shapes(config: FirstStageConfig) -> Mapping[str, tuple[int, ...]]:
    """Path -> shape of each parameter of the first stage; none where it has no parameters."""
    if not config.has_params:
        return MappingProxyType({})
    side = 2 * config.factor
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return _shapes(make_first_stage(config), image)


def _shapes(module: nn.Module, *inputs: Any) -> Mapping[str, tuple[int, ...]]:
    tree = jax.eval_shape(lambda *args: module.init(jax.random.key(0), *args), *inputs)["params"]
    return MappingProxyType({path: leaf.shape for path, leaf in flatten(tree).items()})


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries -> {"a/b/c": leaf}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *groups, name = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = leaf
    return tree
