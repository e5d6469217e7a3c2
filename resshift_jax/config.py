"""All that describes a model: frozen dataclasses of checked values, and what it can be made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn

from resshift_jax.chain import ChainConfig, Target
from resshift_jax.nn.autoencoder import (
    PixelConfig,
    PixelStage,
    SpaceToDepth,
    SpaceToDepthConfig,
    VQAutoencoder,
    VQConfig,
)
from resshift_jax.nn.swin import WindowMask
from resshift_jax.nn.unet import SwinUNet, UNetConfig
from resshift_jax.platform import Compute
from resshift_jax.settings import (
    ConfigError,
    Renames,
    from_dict,
    renamed,
    renamed_key,
    require,
    to_dict,
)

__all__ = [
    "BACKBONES",
    "FIRST_STAGES",
    "BackboneConfig",
    "ChainConfig",
    "ConfigError",
    "FirstStageConfig",
    "ModelConfig",
    "Network",
    "PixelConfig",
    "SpaceToDepthConfig",
    "Target",
    "UNetConfig",
    "VQConfig",
    "WindowMask",
    "model_config",
    "with_overrides",
]


@runtime_checkable
class BackboneConfig(Protocol):
    """What the settings of any denoising network tell.

    Attributes:
        kind: the name of its row in BACKBONES.
        image_size: side of the latent during training.
        latent_channels: channels of x_t and of the output.
        cond_size: side of the condition during training.
        cond_mask: the condition carries an inpainting mask after its three colours.
        needs_pixels: the latent must be made of pixels.
        num_halvings: how often the condition's side is halved to reach the latent's.
        granularity: latent sides must be multiples of this, in latent pixels.
    """

    def __hash__(self) -> int: ...

    @property
    def kind(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def cond_size(self) -> int: ...
    @property
    def cond_mask(self) -> bool: ...
    @property
    def needs_pixels(self) -> bool: ...
    @property
    def num_halvings(self) -> int: ...
    @property
    def granularity(self) -> int: ...


@runtime_checkable
class FirstStageConfig(Protocol):
    """What the settings of any first stage tell.

    Attributes:
        kind: the name of its row in FIRST_STAGES.
        has_params: it has parameters, which a model needs beside those of its network.
        in_pixels: latents are made of pixels in [-1, 1].
        factor: image pixels a latent pixel, along a side.
        latent_channels: channels of a latent.
        name: stem of the file that it is released as, if it has parameters.
    """

    def __hash__(self) -> int: ...

    @property
    def kind(self) -> str: ...
    @property
    def has_params(self) -> bool: ...
    @property
    def in_pixels(self) -> bool: ...
    @property
    def factor(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def latent_channels(self) -> int: ...


class Network(NamedTuple):
    """A row of BACKBONES or FIRST_STAGES.

    Attributes:
        settings: the dataclass whose `kind` is the row's name.
        make: (settings, compute) -> the Flax module. A backbone is called with x_t, t, the LQ image
            and the mask, as `SwinUNet`; a first stage has methods `encode` and `decode`.
        last_layer: settings -> the path of its last layer's parameters; by it alone can a
            discriminator's weight be adapted.
    """

    settings: type
    make: Callable[[Any, Compute], nn.Module]
    last_layer: Callable[[Any], str] | None = None


BACKBONES: dict[str, Network] = {
    "swin_unet": Network(
        UNetConfig,
        lambda config, compute: SwinUNet(config, compute),
        last_layer=lambda config: "pixels/conv_out" if config.pixel_channels else "conv_out",
    ),
}

FIRST_STAGES: dict[str, Network] = {
    "vq": Network(VQConfig, lambda config, compute: VQAutoencoder(config, compute)),
    "pixel": Network(PixelConfig, lambda config, compute: PixelStage()),
    "space_to_depth": Network(
        SpaceToDepthConfig, lambda config, compute: SpaceToDepth(config.block)
    ),
}


@dataclass(frozen=True)
class ModelConfig:
    """A whole restoration model.

    Attributes:
        task: name of the task, as `resshift_jax.load` takes it; free for one's own models.
        scale: side of the output over the side of the input (1 for inpainting and faces).
        unet: the backbone, by default the Swin-UNet.
    """

    task: str = "realsrx4"
    scale: int = 4
    chain: ChainConfig = ChainConfig()
    unet: Annotated[BackboneConfig, BACKBONES] = UNetConfig()
    first_stage: Annotated[FirstStageConfig, FIRST_STAGES] = VQConfig()

    def __post_init__(self) -> None:
        require(self.scale >= 1, f"scale: {self.scale} given, must be at least 1")
        require(
            self.unet.latent_channels == self.first_stage.latent_channels,
            f"unet.latent_channels: {self.unet.latent_channels} given, but the first stage has "
            f"{self.first_stage.latent_channels}",
        )
        require(
            not self.unet.needs_pixels or self.first_stage.in_pixels,
            f"unet.pixel_channels: more than 0 given, but the latent of a first stage of kind "
            f"{self.first_stage.kind} is not made of pixels",
        )
        require(
            self.unet.cond_size * self.scale == self.unet.image_size * self.first_stage.factor,
            f"scale: {self.scale} given, but a condition of {self.unet.cond_size} pixels and "
            f"a latent of {self.unet.image_size} with {self.first_stage.factor} pixels each "
            f"make a scale of "
            f"{self.unet.image_size * self.first_stage.factor / self.unet.cond_size:g}",
        )

    @property
    def pad_multiple(self) -> int:
        """Input sides are padded to a multiple of this, in input pixels."""
        return self.unet.granularity * self.align

    @property
    def align(self) -> int:
        """Side of a latent pixel, in input pixels."""
        return self.first_stage.factor // self.scale


# Dotted names that keys had before, in files that are still read.
RENAMED: Renames = {
    "chain.steps": "chain.num_timesteps",
    "chain.one_step": ("chain.sampler", {True: "one_step", False: "ancestral"}.__getitem__),
    "unet.condition_size": "unet.cond_size",
    "unet.condition_mask": "unet.cond_mask",
}


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration of plain dictionaries, also with the names of before.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    return from_dict(ModelConfig, renamed(values, RENAMED))


def with_overrides(config: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """The configuration with the values of dotted keys such as "chain.kappa" replaced.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    values = to_dict(config)
    for old, value in overrides.items():
        key, value = renamed_key(old, value, RENAMED)
        *groups, name = key.split(".")
        node: Any = values
        for group in groups:
            node = node.get(group)
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: unknown key, {group} is not a group of settings")
        node[name] = value
    return model_config(values)
