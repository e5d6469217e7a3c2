"""All that describes a model: frozen dataclasses of checked values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from resshift_jax.settings import ConfigError, from_dict, require, require_positive, to_dict

Target = Literal["x0", "residual", "epsilon", "epsilon_scale"]
WindowMask = Literal["released", "swin"]


@dataclass(frozen=True)
class ChainConfig:
    """The residual-shifting chain (arXiv 2307.12348).

    Attributes:
        steps: T, the number of steps the network was trained with, at least 2.
        min_noise_level: m; sqrt(eta_1) = min(m / kappa, m).
        max_noise_level: sqrt(eta_T).
        kappa: standard deviation of the noise at eta = 1.
        power: p, how the growth of sqrt(eta) bends between its ends.
        target: what the network predicts.
        one_step: sample with the last step alone, its x_0 being the result (SinSR).
    """

    steps: int = 15
    min_noise_level: float = 0.04
    max_noise_level: float = 0.99
    kappa: float = 2.0
    power: float = 0.3
    target: Target = "x0"
    one_step: bool = False

    def __post_init__(self):
        require(self.steps >= 2, f"chain.steps: {self.steps} given, at least 2 needed")
        require_positive("chain", self, "kappa", "power")
        first = min(self.min_noise_level / self.kappa, self.min_noise_level)
        require(
            0 < first < self.max_noise_level < 1,
            f"chain: 0 < min_noise_level < max_noise_level < 1 needed, found "
            f"{self.min_noise_level} and {self.max_noise_level}",
        )


@dataclass(frozen=True)
class UNetConfig:
    """The Swin-UNet. The defaults are the released real-world x4 network.

    Attributes:
        image_size: side of the latent during training; it fixes each level's window.
        latent_channels: channels of x_t and of the output.
        condition_size: side of the LR condition during training, image_size times a power of two.
        condition_mask: the condition carries an inpainting mask after its three colours.
        base_channels: width of the first level.
        channel_mult: width of each level as a multiple of base_channels.
        num_res_blocks: residual blocks an encoder level; the decoder has one more.
        swin_channels, swin_depth: width and number of blocks of a Swin layer (shifts alternate).
        head_channels: channels of an attention head.
        window_size: side of an attention window, in tokens.
        mlp_ratio: hidden width of the Swin MLP over swin_channels.
        window_mask: "released" reproduces the mask that the released weights were trained with,
            "swin" is that of the Swin paper.
        pixel_channels: for a latent of blocks of pixels, width of the 3x3 convolutions at the
            resolution of the pixels that follow; 0: none do.
    """

    image_size: int = 64
    latent_channels: int = 3
    condition_size: int = 64
    condition_mask: bool = False
    base_channels: int = 160
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    swin_channels: int = 192
    swin_depth: int = 2
    head_channels: int = 32
    window_size: int = 8
    mlp_ratio: int = 4
    window_mask: WindowMask = "released"
    pixel_channels: int = 0

    def __post_init__(self):
        require_positive(
            "unet", self, "image_size", "latent_channels", "condition_size", "base_channels",
            "channel_mult", "num_res_blocks", "swin_channels", "swin_depth", "head_channels",
            "window_size", "mlp_ratio",
        )  # fmt: skip
        ratio = self.condition_size / self.image_size
        require(
            ratio >= 1 and math.log2(ratio).is_integer(),
            f"unet.condition_size: {self.condition_size} given, must be image_size "
            f"({self.image_size}) times a power of two",
        )
        require(
            self.swin_channels % self.head_channels == 0,
            f"unet.swin_channels: {self.swin_channels} given, must be a multiple of "
            f"head_channels ({self.head_channels})",
        )
        for level in range(self.num_levels):
            window = self.window_size * 2**level if self.shifts(level) else 2**level
            require(
                self.image_size % window == 0,
                f"unet.image_size: {self.image_size} given, level {level} needs a multiple of "
                f"{window}",
            )
        require(
            self.pixel_channels >= 0,
            f"unet.pixel_channels: {self.pixel_channels} given, 0 or more needed",
        )
        block = math.isqrt(self.latent_channels // 3)
        require(
            not self.pixel_channels or self.latent_channels == 3 * block**2,
            f"unet.pixel_channels: {self.pixel_channels} given, but {self.latent_channels} "
            f"latent_channels are not the colours of a square of pixels",
        )
        for name in ("base_channels", "swin_channels"):
            width = getattr(self, name)
            require(width % 32 == 0, f"unet.{name}: {width} given, must be a multiple of 32")

    @property
    def num_levels(self) -> int:
        return len(self.channel_mult)

    @property
    def num_halvings(self) -> int:
        """How often the condition is halved to reach the latent's size; 0: it is used raw."""
        return int(math.log2(self.condition_size // self.image_size))

    @property
    def condition_channels(self) -> int:
        return 4 if self.condition_mask else 3

    def level_size(self, level: int) -> int:
        """Side of the feature map of a level during training."""
        return self.image_size // 2**level

    def window(self, level: int) -> int:
        return min(self.window_size, self.level_size(level))

    def shifts(self, level: int) -> bool:
        """Whether a level's windows shift: never where one window covered it in training."""
        return self.level_size(level) > self.window_size

    @property
    def granularity(self) -> int:
        """Latent sides must be multiples of this, in latent pixels."""
        sizes = [self.window(level) * 2**level for level in range(self.num_levels)]
        return math.lcm(*sizes)


@dataclass(frozen=True)
class VQConfig:
    """A VQGAN first stage. The defaults are the released f4 autoencoder.

    Attributes:
        channel_mult: width of each level as a multiple of base_channels; the latent is smaller
            than the image by 2^(levels - 1).
        num_res_blocks: residual blocks of each encoder level; the decoder has one more.
        name: stem of the file it is released as.
    """

    kind: Literal["vq"] = "vq"
    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2)
    latent_channels: int = 3
    codebook_size: int = 8192
    name: str = "autoencoder_vq_f4"

    def __post_init__(self):
        require_positive(
            "first_stage", self, "base_channels", "channel_mult", "num_res_blocks",
            "latent_channels", "codebook_size",
        )  # fmt: skip
        require(
            self.base_channels % 32 == 0,
            f"first_stage.base_channels: {self.base_channels} given, must be a multiple of 32",
        )
        require(
            len(self.num_res_blocks) == len(self.channel_mult),
            f"first_stage.num_res_blocks: {self.num_res_blocks} given, one number for each of the "
            f"{len(self.channel_mult)} levels needed",
        )

    @property
    def factor(self) -> int:
        """Image pixels a latent pixel, along a side."""
        return 2 ** (len(self.channel_mult) - 1)

    in_pixels = False


@dataclass(frozen=True)
class PixelConfig:
    """No first stage: the chain runs on the pixels, and predictions are clipped to [-1, 1]."""

    kind: Literal["pixel"] = "pixel"
    in_pixels = True
    factor = 1
    latent_channels = 3


@dataclass(frozen=True)
class SpaceToDepthConfig:
    """A parameter-free first stage: blocks of block x block pixels become channels."""

    kind: Literal["space_to_depth"] = "space_to_depth"
    block: int = 4
    in_pixels = True

    def __post_init__(self):
        require_positive("first_stage", self, "block")

    @property
    def factor(self) -> int:
        return self.block

    @property
    def latent_channels(self) -> int:
        return 3 * self.block**2


FirstStageConfig = VQConfig | PixelConfig | SpaceToDepthConfig


@dataclass(frozen=True)
class ModelConfig:
    """A whole restoration model.

    Attributes:
        task: name of the task, as sample.py --task takes it; free for one's own models.
        scale: side of the output over the side of the input (1 for inpainting and faces).
    """

    task: str = "realsrx4"
    scale: int = 4
    chain: ChainConfig = ChainConfig()
    unet: UNetConfig = UNetConfig()
    first_stage: FirstStageConfig = VQConfig()

    def __post_init__(self):
        require(self.scale >= 1, f"scale: {self.scale} given, must be at least 1")
        require(
            self.unet.latent_channels == self.first_stage.latent_channels,
            f"unet.latent_channels: {self.unet.latent_channels} given, but the first stage has "
            f"{self.first_stage.latent_channels}",
        )
        require(
            not self.unet.pixel_channels or self.first_stage.in_pixels,
            f"unet.pixel_channels: {self.unet.pixel_channels} given, but the latent of a first "
            f"stage of kind {self.first_stage.kind} is not made of pixels",
        )
        require(
            self.unet.condition_size * self.scale == self.unet.image_size * self.first_stage.factor,
            f"scale: {self.scale} given, but a condition of {self.unet.condition_size} pixels and "
            f"a latent of {self.unet.image_size} with {self.first_stage.factor} pixels each "
            f"make a scale of "
            f"{self.unet.image_size * self.first_stage.factor / self.unet.condition_size:g}",
        )

    @property
    def pad_multiple(self) -> int:
        """Input sides are padded to a multiple of this, in input pixels."""
        return self.unet.granularity * self.align

    @property
    def align(self) -> int:
        """Side of a latent pixel, in input pixels."""
        return self.first_stage.factor // self.scale


def with_overrides(config: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """The configuration with the values of dotted keys such as "chain.steps" replaced.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    values = to_dict(config)
    for key, value in overrides.items():
        *groups, name = key.split(".")
        node: Any = values
        for group in groups:
            node = node.get(group)
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: unknown key, {group} is not a group of settings")
        node[name] = value
    return from_dict(ModelConfig, values)
