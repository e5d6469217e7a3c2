"""First stages: images (B, H, W, 3) in [-1, 1] in, latents (B, H/f, W/f, c) out, and back.

The VQGAN autoencoder, and the two stages without parameters (pixels as they are, space to depth).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
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
)
from resshift_jax.platform import Compute
from resshift_jax.settings import require, require_positive

# Rows of a large matrix are computed in chunks of about 16 MiB of float32 (which suits caches), but
# of no fewer rows than keep a matrix product busy.
CHUNK_ENTRIES = 2**22
MIN_CHUNK_ROWS = 128

_norm = partial(GroupNorm, eps=1e-6)


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

    def __post_init__(self) -> None:
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

    has_params = True
    in_pixels = False


@dataclass(frozen=True)
class PixelConfig:
    """No first stage: the chain runs on the pixels, and predictions are clipped to [-1, 1]."""

    kind: Literal["pixel"] = "pixel"
    name = ""
    has_params = False
    in_pixels = True
    factor = 1
    latent_channels = 3


@dataclass(frozen=True)
class SpaceToDepthConfig:
    """A parameter-free first stage: blocks of block x block pixels become channels."""

    kind: Literal["space_to_depth"] = "space_to_depth"
    block: int = 4
    name = ""
    has_params = False
    in_pixels = True

    def __post_init__(self) -> None:
        require_positive("first_stage", self, "block")

    @property
    def factor(self) -> int:
        return self.block

    @property
    def latent_channels(self) -> int:
        return 3 * self.block**2


class ResBlock(nn.Module):
    """Two convolutions plus the input."""

    features: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(_norm(compute=self.compute, name="norm1")(x))
        h = Conv3x3(self.features, compute=self.compute, name="conv1")(h)
        h = nn.silu(_norm(compute=self.compute, name="norm2")(h))
        h = Conv3x3(self.features, compute=self.compute, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Linear(self.features, compute=self.compute, name="shortcut")(x)
        return x + h


def attend(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k' / sqrt(C)) v for (N, C) arrays, in bounded memory: a chunk of queries a time."""

    @jax.checkpoint
    def chunk(queries: Array) -> Array:
        logits = (queries * q.shape[-1] ** -0.5) @ k.T
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(v.dtype) @ v

    return map_rows(chunk, q, columns=k.shape[0])


def map_rows(function: Callable[[Array], Array], x: Array, columns: int) -> Array:
    """function(x) for one that works row by row and holds a matrix of len(x) * columns entries.

    It is called on one chunk of rows after the other.
    """
    count = x.shape[0]
    rows = min(max(CHUNK_ENTRIES // columns, MIN_CHUNK_ROWS), count)
    chunks = -(-count // rows)
    x = jnp.pad(x, ((0, rows * chunks - count), (0, 0)))
    out = jax.lax.map(function, x.reshape(chunks, rows, -1))
    return out.reshape(rows * chunks, *out.shape[2:])[:count]


class MidAttention(nn.Module):
    """Single-head attention over all pixels of a feature map, plus the input."""

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, channels = x.shape[0], x.shape[-1]
        h = _norm(compute=self.compute, name="norm")(x)
        q, k, v = (
            Linear(channels, compute=self.compute, name=name)(h).reshape(batch, -1, channels)
            for name in ("q", "k", "v")
        )
        # One image after the other, so that the bound holds for any batch.
        h = (
            jax.lax.map(lambda qkv: attend(*qkv), (q, k, v))
            if batch > 1
            else attend(q[0], k[0], v[0])
        )
        return x + Linear(channels, compute=self.compute, name="proj_out")(h.reshape(x.shape))


class Middle(nn.Module):
    """Residual block, attention, residual block, all of the input's width."""

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ResBlock(x.shape[-1], self.compute, name="block_0")(x)
        x = MidAttention(self.compute, name="attention")(x)
        return ResBlock(x.shape[-1], self.compute, name="block_1")(x)


class Encoder(nn.Module):
    """(B, H, W, 3) -> (B, H/f, W/f, latent_channels)."""

    config: VQConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg, compute = self.config, self.compute
        h = Conv3x3(cfg.base_channels, compute=compute, name="conv_in")(x)
        for level, (mult, blocks) in enumerate(
            zip(cfg.channel_mult, cfg.num_res_blocks, strict=True)
        ):
            for i in range(blocks):
                h = ResBlock(cfg.base_channels * mult, compute, name=f"down_{level}_block_{i}")(h)
            if level < len(cfg.channel_mult) - 1:
                h = Conv3x3(
                    h.shape[-1],
                    stride=2,
                    padding=(0, 1),
                    compute=compute,
                    name=f"down_{level}_downsample",
                )(h)
        h = Middle(compute, name="mid")(h)
        h = nn.silu(_norm(compute=compute, name="norm_out")(h))
        # In float32, as what comes after it.
        return Conv3x3(cfg.latent_channels, compute=compute.precise, name="conv_out")(h)


class Decoder(nn.Module):
    """(B, H/f, W/f, latent_channels) -> (B, H, W, 3)."""

    config: VQConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, z: Array) -> Array:
        cfg, compute = self.config, self.compute
        widths = [cfg.base_channels * mult for mult in cfg.channel_mult]
        h = Middle(compute, name="mid")(Conv3x3(widths[-1], compute=compute, name="conv_in")(z))
        for level in range(len(widths) - 1, -1, -1):
            for i in range(cfg.num_res_blocks[level] + 1):
                h = ResBlock(widths[level], compute, name=f"up_{level}_block_{i}")(h)
            if level > 0:
                h = UpsampleConv3x3(widths[level], compute, name=f"up_{level}_upsample")(h)
        h = nn.silu(_norm(compute=compute, name="norm_out")(h))
        # In float32: bfloat16 has not even 8 bits of grey.
        return Conv3x3(3, compute=compute.precise, name="conv_out")(h)


def nearest_code(z: Array, codebook: Array) -> Array:
    """Index of the codebook entry (K, c) nearest to each row of (N, c), the first on ties."""

    def nearest(rows: Array) -> Array:
        # A sum of squared differences, channel by channel: no cancellation, one fused loop.
        distance = sum(
            (rows[:, i, None] - codebook[None, :, i]) ** 2 for i in range(rows.shape[-1])
        )
        return jnp.argmin(distance, axis=-1)

    return map_rows(nearest, z, columns=codebook.shape[0])


class VQAutoencoder(nn.Module):
    """The VQGAN autoencoder of the released models. The chain runs on its continuous latents.

    `__call__` is the round trip, which creates every parameter; use `encode` and `decode` as
    methods of `apply`.
    """

    config: VQConfig
    compute: Compute = Compute()

    def setup(self) -> None:
        cfg, channels = self.config, self.config.latent_channels
        self.encoder = Encoder(cfg, self.compute)
        self.decoder = Decoder(cfg, self.compute)
        self.quant_conv = Linear(channels)
        self.post_quant_conv = Linear(channels)
        bound = 1 / cfg.codebook_size
        self.codebook = self.param(
            "codebook",
            lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound),
            (cfg.codebook_size, channels),
        )

    def __call__(self, image: Array) -> Array:
        return self.decode(self.encode(image))

    def encode(self, image: Float[Array, "b H W 3"]) -> Float[Array, "b h w c"]:
        """(B, H, W, 3) in [-1, 1] -> continuous latent (B, H/f, W/f, c), float32."""
        return self.quant_conv(self.encoder(image))

    def quantize(
        self, z: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Int[Array, "b h w"]]:
        """Nearest codebook entries of z (B, h, w, c) and their indices (B, h, w).

        The gradient passes straight through to z.
        """
        codebook = self.codebook.astype(jnp.float32)
        rows = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1]).astype(jnp.float32)
        indices = nearest_code(rows, codebook)
        z_q = codebook[indices].reshape(z.shape).astype(z.dtype)
        return z + jax.lax.stop_gradient(z_q - z), indices.reshape(z.shape[:-1])

    def decode(self, z: Float[Array, "b h w c"], quantize: bool = True) -> Float[Array, "b H W 3"]:
        """Latent (B, h, w, c) -> image (B, hf, wf, 3), about [-1, 1] and not clipped, float32."""
        if quantize:
            z = self.quantize(z)[0]
        return self.decoder(self.post_quant_conv(z))


class PixelStage(nn.Module):
    """The image is its own latent."""

    def __call__(self, image: Array) -> Array:
        return image

    def encode(self, image: Array) -> Array:
        return image

    def decode(self, z: Array) -> Array:
        return z


class SpaceToDepth(nn.Module):
    """Blocks of block x block pixels as channels, row-major with the colour last; exact."""

    block: int

    def __call__(self, image: Array) -> Array:
        return self.decode(self.encode(image))

    def encode(self, image: Array) -> Array:
        return space_to_depth(image, self.block)

    def decode(self, z: Array) -> Array:
        return depth_to_space(z, self.block)
