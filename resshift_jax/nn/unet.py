"""The Swin-UNet: a noisy latent, its time-step and the LR image in, the chain's prediction out."""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from resshift_jax.config import UNetConfig
from resshift_jax.nn.layers import (
    Conv3x3,
    GroupNorm,
    Linear,
    UpsampleConv3x3,
    depth_to_space,
    space_to_depth,
    timestep_embedding,
)
from resshift_jax.nn.swin import SwinLayer
from resshift_jax.resize import upsample_bicubic

_norm = partial(GroupNorm, eps=1e-5)


class ResBlock(nn.Module):
    """Two convolutions, the second modulated by the time embedding, plus the input."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array) -> Array:
        h = nn.silu(_norm(dtype=self.dtype, name="norm1")(x))
        h = Conv3x3(self.features, dtype=self.dtype, name="conv1")(h)
        modulation = Linear(2 * self.features, dtype=self.dtype, name="modulation")(nn.silu(emb))
        scale, shift = jnp.split(modulation, 2, axis=-1)
        h = nn.silu(_norm(dtype=self.dtype, name="norm2")(h, (scale, shift)))
        h = Conv3x3(self.features, zero=True, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Linear(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class ConditionExtractor(nn.Module):
    """Halves the condition until it has the latent's size, doubling its channels from 16."""

    num_halvings: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.num_halvings):
            width = 16 * 2**i
            x = nn.silu(Conv3x3(width, dtype=self.dtype, name=f"conv_{i}")(x))
            x = Conv3x3(2 * width, stride=2, dtype=self.dtype, name=f"down_{i}")(x)
        return x


class PixelHead(nn.Module):
    """Convolutions at the resolution of the pixels, for a latent of blocks of them.

    One that gives the pixels of a block as its channels has other weights for each of them, which
    shows as a grid; here all pixels share theirs, and see across the edges of blocks. At first the
    output is zero, which for the target "residual" stands for the enlarged LR image.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: Array, x_t: Array, lr: Array) -> Array:
        """Features (B, H, W, C), the scaled latent (B, H, W, 3 s s), the LR image -> a latent."""
        block = math.isqrt(x_t.shape[-1] // 3)
        features = Linear(self.width * block**2, dtype=self.dtype, name="expand")(h)
        enlarged = upsample_bicubic(lr, block * h.shape[1] // lr.shape[1])
        pixels = [depth_to_space(features, block), depth_to_space(x_t, block), enlarged]
        x = jnp.concatenate([a.astype(self.dtype) for a in pixels], axis=-1)
        for i in range(3):
            x = nn.silu(Conv3x3(self.width, dtype=self.dtype, name=f"conv_{i}")(x))
        return space_to_depth(Conv3x3(3, zero=True, name="conv_out")(x), block)


class SwinUNet(nn.Module):
    """The denoiser of ResShift.

    Attributes:
        config: widths, depths and kind.
        dtype: of the computation; parameters are float32.
    """

    config: UNetConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_t: Array, t: Array, lr: Array, mask: Array | None = None) -> Array:
        """Prediction of the chain's target.

        Args:
            x_t: scaled latent (B, H, W, latent_channels); H, W multiples of config.granularity.
            t: (B,) int, indices into the training schedule.
            lr: LR image in [-1, 1], (B, h, w, 3); (h, w) is (H, W) times
                condition_size / image_size.
            mask: (B, h, w, 1), +1 where to fill and -1 elsewhere; given exactly if
                config.condition_mask.

        Returns:
            (B, H, W, latent_channels), float32.

        Raises:
            ValueError: shapes that do not fit the configuration.
        """
        cfg, dtype = self.config, self.dtype
        self._check(x_t, lr, mask)

        def swin(level: int, name: str) -> SwinLayer:
            return SwinLayer(
                channels=cfg.swin_channels,
                depth=cfg.swin_depth,
                head_channels=cfg.head_channels,
                window=cfg.window(level),
                shifts=cfg.shifts(level),
                mlp_ratio=cfg.mlp_ratio,
                window_mask=cfg.window_mask,
                dtype=dtype,
                name=name,
            )

        emb = timestep_embedding(t, cfg.base_channels)
        emb = Linear(4 * cfg.base_channels, name="time_in")(emb)  # float32 whatever the dtype
        emb = Linear(4 * cfg.base_channels, name="time_out")(nn.silu(emb))

        condition = lr if mask is None else jnp.concatenate([lr, mask], axis=-1)
        condition = condition.astype(dtype)
        if cfg.num_halvings:
            condition = ConditionExtractor(cfg.num_halvings, dtype, name="condition")(condition)

        widths = [cfg.base_channels * m for m in cfg.channel_mult]
        last = cfg.num_levels - 1
        h = jnp.concatenate([x_t.astype(dtype), condition], axis=-1)
        h = Conv3x3(cfg.base_channels, dtype=dtype, name="conv_in")(h)
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(cfg.num_res_blocks):
                h = ResBlock(width, dtype, name=f"down_{level}_block_{i}")(h, emb)
                if i == 0:
                    h = swin(level, f"down_{level}_swin")(h)
                skips.append(h)
            if level < last:
                h = Conv3x3(width, stride=2, dtype=dtype, name=f"down_{level}_downsample")(h)
                skips.append(h)

        h = ResBlock(widths[-1], dtype, name="mid_block_0")(h, emb)
        h = swin(last, "mid_swin")(h)
        h = ResBlock(widths[-1], dtype, name="mid_block_1")(h, emb)

        for level in range(last, -1, -1):
            for i in range(cfg.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = ResBlock(widths[level], dtype, name=f"up_{level}_block_{i}")(h, emb)
                if i == 0:
                    h = swin(level, f"up_{level}_swin")(h)
            if level > 0:
                h = UpsampleConv3x3(widths[level], dtype, name=f"up_{level}_upsample")(h)

        h = nn.silu(_norm(dtype=dtype, name="norm_out")(h))
        if cfg.pixel_channels:
            return PixelHead(cfg.pixel_channels, dtype, name="pixels")(h, x_t, lr)
        return Conv3x3(cfg.latent_channels, name="conv_out")(h)

    def _check(self, x_t: Array, lr: Array, mask: Array | None) -> None:
        cfg = self.config
        height, width, channels = x_t.shape[1:]
        if height % cfg.granularity or width % cfg.granularity:
            raise ValueError(
                f"x_t: sides {height}x{width} given, multiples of {cfg.granularity} needed"
            )
        if channels != cfg.latent_channels:
            raise ValueError(f"x_t: {channels} channels given, {cfg.latent_channels} needed")
        expected = (height << cfg.num_halvings, width << cfg.num_halvings, 3)
        if lr.shape[1:] != expected:
            raise ValueError(f"lr: {lr.shape[1:]} given, {expected} needed")
        if (mask is not None) != cfg.condition_mask:
            given, needed = ("none", "one is") if mask is None else ("one", "none is")
            raise ValueError(f"mask: {given} given, {needed} needed by this network")
        if mask is not None and mask.shape[1:] != (*expected[:2], 1):
            raise ValueError(f"mask: {mask.shape[1:]} given, {(*expected[:2], 1)} needed")
