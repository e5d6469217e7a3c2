"""First stages: images (B, H, W, 3) in [-1, 1] in, latents (B, H/f, W/f, c) out, and back.

The VQGAN autoencoder, and the two stages without parameters (pixels as they are, space to depth).
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from resshift_jax.config import FirstStageConfig, SpaceToDepthConfig, VQConfig
from resshift_jax.nn.layers import (
    Conv3x3,
    GroupNorm,
    Linear,
    UpsampleConv3x3,
    depth_to_space,
    space_to_depth,
)

# Rows of a large matrix are computed in chunks of about 16 MiB of float32 (which suits caches), but
# of no fewer rows than keep a matrix product busy.
CHUNK_ENTRIES = 2**22
MIN_CHUNK_ROWS = 128

_norm = partial(GroupNorm, eps=1e-6)


class ResBlock(nn.Module):
    """Two convolutions plus the input."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(_norm(dtype=self.dtype, name="norm1")(x))
        h = Conv3x3(self.features, dtype=self.dtype, name="conv1")(h)
        h = nn.silu(_norm(dtype=self.dtype, name="norm2")(h))
        h = Conv3x3(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Linear(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


def attend(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k' / sqrt(C)) v for (N, C) arrays, in bounded memory: a chunk of queries a time."""

    @jax.checkpoint
    def chunk(queries: Array) -> Array:
        logits = (queries * q.shape[-1] ** -0.5) @ k.T
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(v.dtype) @ v

    return map_rows(chunk, q, columns=k.shape[0])


def map_rows(function, x: Array, columns: int) -> Array:
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

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, channels = x.shape[0], x.shape[-1]
        h = _norm(dtype=self.dtype, name="norm")(x)
        q, k, v = (
            Linear(channels, dtype=self.dtype, name=name)(h).reshape(batch, -1, channels)
            for name in ("q", "k", "v")
        )
        # One image after the other, so that the bound holds for any batch.
        h = (
            jax.lax.map(lambda qkv: attend(*qkv), (q, k, v))
            if batch > 1
            else attend(q[0], k[0], v[0])
        )
        return x + Linear(channels, dtype=self.dtype, name="proj_out")(h.reshape(x.shape))


class Middle(nn.Module):
    """Residual block, attention, residual block, all of the input's width."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ResBlock(x.shape[-1], self.dtype, name="block_0")(x)
        x = MidAttention(self.dtype, name="attention")(x)
        return ResBlock(x.shape[-1], self.dtype, name="block_1")(x)


class Encoder(nn.Module):
    """(B, H, W, 3) -> (B, H/f, W/f, latent_channels)."""

    config: VQConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg, dtype = self.config, self.dtype
        h = Conv3x3(cfg.base_channels, dtype=dtype, name="conv_in")(x)
        for level, (mult, blocks) in enumerate(
            zip(cfg.channel_mult, cfg.num_res_blocks, strict=True)
        ):
            for i in range(blocks):
                h = ResBlock(cfg.base_channels * mult, dtype, name=f"down_{level}_block_{i}")(h)
            if level < len(cfg.channel_mult) - 1:
                h = Conv3x3(
                    h.shape[-1],
                    stride=2,
                    padding=(0, 1),
                    dtype=dtype,
                    name=f"down_{level}_downsample",
                )(h)
        h = Middle(dtype, name="mid")(h)
        h = nn.silu(_norm(dtype=dtype, name="norm_out")(h))
        return Conv3x3(cfg.latent_channels, name="conv_out")(h)  # float32, as what comes after it


class Decoder(nn.Module):
    """(B, H/f, W/f, latent_channels) -> (B, H, W, 3)."""

    config: VQConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        cfg, dtype = self.config, self.dtype
        widths = [cfg.base_channels * mult for mult in cfg.channel_mult]
        h = Middle(dtype, name="mid")(Conv3x3(widths[-1], dtype=dtype, name="conv_in")(z))
        for level in range(len(widths) - 1, -1, -1):
            for i in range(cfg.num_res_blocks[level] + 1):
                h = ResBlock(widths[level], dtype, name=f"up_{level}_block_{i}")(h)
            if level > 0:
                h = UpsampleConv3x3(widths[level], dtype, name=f"up_{level}_upsample")(h)
        h = nn.silu(_norm(dtype=dtype, name="norm_out")(h))
        return Conv3x3(3, name="conv_out")(h)  # float32: bfloat16 has not even 8 bits of grey


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
    dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, channels = self.config, self.config.latent_channels
        self.encoder = Encoder(cfg, self.dtype)
        self.decoder = Decoder(cfg, self.dtype)
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

    def encode(self, image: Array) -> Array:
        """(B, H, W, 3) in [-1, 1] -> continuous latent (B, H/f, W/f, c), float32."""
        return self.quant_conv(self.encoder(image))

    def quantize(self, z: Array) -> tuple[Array, Array]:
        """Nearest codebook entries of z (B, h, w, c) and their indices (B, h, w).

        The gradient passes straight through to z.
        """
        codebook = self.codebook.astype(jnp.float32)
        rows = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1]).astype(jnp.float32)
        indices = nearest_code(rows, codebook)
        z_q = codebook[indices].reshape(z.shape).astype(z.dtype)
        return z + jax.lax.stop_gradient(z_q - z), indices.reshape(z.shape[:-1])

    def decode(self, z: Array, quantize: bool = True) -> Array:
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


def first_stage(config: FirstStageConfig, dtype: DTypeLike = jnp.float32) -> nn.Module:
    """The module of a configuration, with methods `encode` and `decode`."""
    if isinstance(config, VQConfig):
        return VQAutoencoder(config, dtype)
    if isinstance(config, SpaceToDepthConfig):
        return SpaceToDepth(config.block)
    return PixelStage()
