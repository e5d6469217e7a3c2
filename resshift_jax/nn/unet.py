"""The Swin-UNet: a noisy latent, its time-step and the condition in, the chain's prediction out."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from resshift_jax.nn.layers import (
    Conv3x3,
    GroupNorm,
    Linear,
    UpsampleConv3x3,
    depth_to_space,
    space_to_depth,
    timestep_embedding,
)
from resshift_jax.nn.swin import SwinLayer, WindowMask
from resshift_jax.platform import Compute
from resshift_jax.resize import upsample_bicubic
from resshift_jax.settings import require, require_positive

_norm = partial(GroupNorm, eps=1e-5)


@dataclass(frozen=True)
class UNetConfig:
    """The Swin-UNet. The defaults are the released real-world x4 network.

    Attributes:
        image_size: side of the latent during training; it fixes each level's window.
        latent_channels: channels of x_t and of the output.
        cond_size: side of the LQ condition during training, image_size times a power of two.
        cond_mask: the condition carries an inpainting mask after its three colours.
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
        pixel_blocks: residual blocks of two such convolutions among them.
        pixel_edges: what these convolutions see beyond the image: "zeros", or its pixels at the
            edge, "repeated"; then what is flat stays flat to its edges.
    """

    kind: Literal["swin_unet"] = "swin_unet"
    image_size: int = 64
    latent_channels: int = 3
    cond_size: int = 64
    cond_mask: bool = False
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
    pixel_blocks: int = 0
    pixel_edges: Literal["zeros", "repeated"] = "zeros"

    def __post_init__(self) -> None:
        require_positive(
            "unet", self, "image_size", "latent_channels", "cond_size", "base_channels",
            "channel_mult", "num_res_blocks", "swin_channels", "swin_depth", "head_channels",
            "window_size", "mlp_ratio",
        )  # fmt: skip
        ratio = self.cond_size / self.image_size
        require(
            ratio >= 1 and math.log2(ratio).is_integer(),
            f"unet.cond_size: {self.cond_size} given, must be image_size "
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
        for name in ("pixel_channels", "pixel_blocks"):
            value = getattr(self, name)
            require(value >= 0, f"unet.{name}: {value} given, 0 or more needed")
        for name, none in (("pixel_blocks", 0), ("pixel_edges", "zeros")):
            value = getattr(self, name)
            require(
                value == none or self.needs_pixels,
                f"unet.{name}: {value} given with pixel_channels=0, without a head of pixels",
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
    def needs_pixels(self) -> bool:
        """Whether the latent must be made of pixels."""
        return self.pixel_channels > 0

    @property
    def num_levels(self) -> int:
        return len(self.channel_mult)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base_channels * mult for mult in self.channel_mult)

    @property
    def num_halvings(self) -> int:
        """How often the condition is halved to reach the latent's size; 0: it is used raw."""
        return int(math.log2(self.cond_size // self.image_size))

    @property
    def cond_channels(self) -> int:
        return 4 if self.cond_mask else 3

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


class ResBlock(nn.Module):
    """Two convolutions, the second modulated by the time embedding, plus the input."""

    features: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array, emb: Array) -> Array:
        h = nn.silu(_norm(compute=self.compute, name="norm1")(x))
        h = Conv3x3(self.features, compute=self.compute, name="conv1")(h)
        modulation = Linear(2 * self.features, compute=self.compute, name="modulation")(
            nn.silu(emb)
        )
        scale, shift = jnp.split(modulation, 2, axis=-1)
        h = nn.silu(_norm(compute=self.compute, name="norm2")(h, (scale, shift)))
        h = Conv3x3(self.features, zero=True, compute=self.compute, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Linear(self.features, compute=self.compute, name="shortcut")(x)
        return x + h


class ConditionExtractor(nn.Module):
    """Halves the condition until it has the latent's size, doubling its channels from 16."""

    num_halvings: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.num_halvings):
            width = 16 * 2**i
            x = nn.silu(Conv3x3(width, compute=self.compute, name=f"conv_{i}")(x))
            x = Conv3x3(2 * width, stride=2, compute=self.compute, name=f"down_{i}")(x)
        return x


class PixelHead(nn.Module):
    """Convolutions at the resolution of the pixels, for a latent of blocks of them.

    One that gives the pixels of a block as its channels has other weights for each of them, which
    shows as a grid; here all pixels share theirs, and see across the edges of blocks. At first the
    output is zero, which for the target "residual" stands for the enlarged LQ image.
    """

    width: int
    blocks: int = 0
    edges: Literal["zeros", "repeated"] = "zeros"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, h: Array, x_t: Array, lq: Array) -> Array:
        """Features (B, H, W, C), the scaled latent (B, H, W, 3 s s), the LQ image -> a latent."""
        block = math.isqrt(x_t.shape[-1] // 3)
        features = Linear(self.width * block**2, compute=self.compute, name="expand")(h)
        enlarged = upsample_bicubic(lq, block * h.shape[1] // lq.shape[1])
        pixels = [depth_to_space(features, block), depth_to_space(x_t, block), enlarged]
        x = jnp.concatenate([a.astype(self.compute.dtype) for a in pixels], axis=-1)
        # Each of the convolutions lets the zeros one pixel further in.
        margin = 4 + 2 * self.blocks if self.edges == "repeated" else 0
        x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        for i in range(3):
            x = nn.silu(Conv3x3(self.width, compute=self.compute, name=f"conv_{i}")(x))
        for i in range(self.blocks):
            y = nn.silu(Conv3x3(self.width, compute=self.compute, name=f"block_{i}_conv_0")(x))
            x += Conv3x3(self.width, zero=True, compute=self.compute, name=f"block_{i}_conv_1")(y)
        head = Conv3x3(3, zero=True, compute=self.compute.precise, name="conv_out")
        x = head(x)
        inside = (slice(margin, side - margin) for side in x.shape[1:3])
        return space_to_depth(x[:, *inside], block)


class SwinUNet(nn.Module):
    """The denoiser of ResShift.

    Attributes:
        config: widths and depths.
        compute: how it computes; parameters are float32.
    """

    config: UNetConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "b H W c"],
        t: Int[Array, "b"],
        lq: Float[Array, "b h w colours"],
        mask: Float[Array, "b h w one"] | None = None,
    ) -> Float[Array, "b H W c"]:
        """Prediction of the chain's target.

        Args:
            x_t: scaled latent (B, H, W, latent_channels); H, W multiples of config.granularity.
            t: (B,) int, indices into the training schedule.
            lq: LQ image in [-1, 1], (B, h, w, 3); (h, w) is (H, W) times
                cond_size / image_size.
            mask: (B, h, w, 1), +1 where to fill and -1 elsewhere; given exactly if
                config.cond_mask.

        Returns:
            (B, H, W, latent_channels), float32.

        Raises:
            ValueError: shapes that do not fit the configuration.
        """
        cfg, compute = self.config, self.compute
        self._check(x_t, lq, mask)
        emb = timestep_embedding(t, cfg.base_channels)
        emb = Linear(4 * cfg.base_channels, name="time_in")(emb)  # float32 always
        emb = Linear(4 * cfg.base_channels, name="time_out")(nn.silu(emb))

        cond = lq if mask is None else jnp.concatenate([lq, mask], axis=-1)
        cond = cond.astype(compute.dtype)
        if cfg.num_halvings:
            cond = ConditionExtractor(cfg.num_halvings, compute, name="condition")(cond)

        h = jnp.concatenate([x_t.astype(compute.dtype), cond], axis=-1)
        h = Conv3x3(cfg.base_channels, compute=compute, name="conv_in")(h)
        h, skips = self._down(h, emb)
        h = ResBlock(h.shape[-1], compute, name="mid_block_0")(h, emb)
        h = self._swin(cfg.num_levels - 1, "mid_swin")(h)
        h = ResBlock(h.shape[-1], compute, name="mid_block_1")(h, emb)
        h = self._up(h, skips, emb)
        h = nn.silu(_norm(compute=compute, name="norm_out")(h))
        if cfg.pixel_channels:
            head = PixelHead(
                cfg.pixel_channels, cfg.pixel_blocks, cfg.pixel_edges, compute, name="pixels"
            )
            return head(h, x_t, lq)
        return Conv3x3(cfg.latent_channels, compute=compute.precise, name="conv_out")(h)

    def _down(self, h: Array, emb: Array) -> tuple[Array, list[Array]]:
        """The features of the last level, and what each block of all levels gave."""
        cfg, compute = self.config, self.compute
        skips = [h]
        for level, width in enumerate(cfg.widths):
            for i in range(cfg.num_res_blocks):
                h = ResBlock(width, compute, name=f"down_{level}_block_{i}")(h, emb)
                if i == 0:
                    h = self._swin(level, f"down_{level}_swin")(h)
                skips.append(h)
            if level < cfg.num_levels - 1:
                down = Conv3x3(width, stride=2, compute=compute, name=f"down_{level}_downsample")
                h = down(h)
                skips.append(h)
        return h, skips

    def _up(self, h: Array, skips: list[Array], emb: Array) -> Array:
        """The features of the first level, of those of the last and of what the way down gave."""
        cfg, compute = self.config, self.compute
        for level in range(cfg.num_levels - 1, -1, -1):
            width = cfg.widths[level]
            for i in range(cfg.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = ResBlock(width, compute, name=f"up_{level}_block_{i}")(h, emb)
                if i == 0:
                    h = self._swin(level, f"up_{level}_swin")(h)
            if level > 0:
                h = UpsampleConv3x3(width, compute, name=f"up_{level}_upsample")(h)
        return h

    def _swin(self, level: int, name: str) -> SwinLayer:
        cfg = self.config
        return SwinLayer(
            channels=cfg.swin_channels,
            depth=cfg.swin_depth,
            head_channels=cfg.head_channels,
            window=cfg.window(level),
            shifts=cfg.shifts(level),
            mlp_ratio=cfg.mlp_ratio,
            window_mask=cfg.window_mask,
            compute=self.compute,
            name=name,
        )

    def _check(self, x_t: Array, lq: Array, mask: Array | None) -> None:
        cfg = self.config
        height, width, channels = x_t.shape[1:]
        if height % cfg.granularity or width % cfg.granularity:
            raise ValueError(
                f"x_t: sides {height}x{width} given, multiples of {cfg.granularity} needed"
            )
        if channels != cfg.latent_channels:
            raise ValueError(f"x_t: {channels} channels given, {cfg.latent_channels} needed")
        expected = (height << cfg.num_halvings, width << cfg.num_halvings, 3)
        if lq.shape[1:] != expected:
            raise ValueError(f"lq: {lq.shape[1:]} given, {expected} needed")
        if (mask is not None) != cfg.cond_mask:
            given, needed = ("none", "one is") if mask is None else ("one", "none is")
            raise ValueError(f"mask: {given} given, {needed} needed by this network")
        if mask is not None and mask.shape[1:] != (*expected[:2], 1):
            raise ValueError(f"mask: {mask.shape[1:]} given, {(*expected[:2], 1)} needed")
