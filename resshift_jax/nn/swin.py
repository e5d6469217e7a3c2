"""The Swin layer: self-attention in windows of a feature map (B, H, W, C).

Every other block shifts its windows. Norms are GroupNorm over the whole image. H and W must be
multiples of the window.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from resshift_jax.nn.layers import GroupNorm, Linear
from resshift_jax.platform import Compute

WindowMask = Literal["released", "swin"]


def partition(x: Array, window: int) -> Array:
    """(B, H, W, C) -> (B, H/w, W/w, w*w, C): windows and tokens, both row-major."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // window, w // window, window * window, c)


def reverse(windows: Array, window: int) -> Array:
    """The inverse of `partition`."""
    b, rows, columns, _, c = windows.shape
    x = windows.reshape(b, rows, columns, window, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * window, columns * window, c)


def relative_position_index(window: int) -> np.ndarray:
    """(w*w, w*w) int: row of the bias table for (query, key): (dy + w - 1)(2w - 1) + dx + w - 1."""
    y, x = np.divmod(np.arange(window * window), window)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def token_regions(height: int, width: int, window: int, kind: WindowMask) -> Array:
    """Region of each token of the rolled feature map, (H/w, W/w, w*w) int.

    Tokens of one window that lie in different regions are not neighbours in the image and must not
    see each other. "swin": bands of rows and of columns, cut at -w and -w/2, as in the Swin paper.
    "released": bands of rows only, and token (i, j) of a window has the band of the window's row j,
    not i; the released weights were trained with this.
    """

    def bands(size: int) -> Array:
        """Band 0, 1 or 2 of each row, (size/w, w)."""
        i = jnp.arange(size).reshape(-1, window)
        return (i >= size - window).astype(jnp.int32) + (i >= size - window // 2)

    rows, columns = bands(height), bands(width)
    shape = (height // window, width // window, window, window)
    if kind == "released":
        regions = jnp.broadcast_to(rows[:, None, None, :], shape)
    else:
        regions = 3 * rows[:, None, :, None] + columns[None, :, None, :]
    return regions.reshape(*shape[:2], window * window)


def attention_mask(height: int, width: int, window: int, kind: WindowMask) -> Array:
    """What is added to the logits of shifted windows: (H/w, W/w, w*w, w*w), 0 or -100."""
    regions = token_regions(height, width, window, kind)
    return jnp.where(regions[..., :, None] == regions[..., None, :], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Multi-head attention inside the windows of a feature map, with a position bias."""

    heads: int
    window: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Array:
        """(B, H, W, C) -> (B, H, W, C); mask: (H/w, W/w, w*w, w*w), added to the logits."""
        channels, head_dim = x.shape[-1], x.shape[-1] // self.heads
        table = self.param(
            "bias_table",
            nn.initializers.normal(0.02),
            ((2 * self.window - 1) ** 2, self.heads),
        )

        def to_heads(a: Array) -> Array:
            """(B, H, W, C) -> (B, rows, columns, heads, tokens, head_dim)."""
            a = partition(a, self.window)
            return a.reshape(*a.shape[:-1], self.heads, head_dim).swapaxes(-3, -2)

        qkv = Linear(3 * channels, compute=self.compute, name="qkv")(x)
        q, k, v = (to_heads(a) for a in jnp.split(qkv, 3, axis=-1))
        logits = jnp.einsum("brchqd,brchkd->brchqk", q * head_dim**-0.5, k)
        bias = table[relative_position_index(self.window)].transpose(2, 0, 1)
        logits = logits.astype(jnp.float32) + bias
        if mask is not None:
            logits += mask[:, :, None]
        # The softmax, divided by its sum after the product: fewer values to divide.
        top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
        weights = jnp.exp(logits - top)
        out = jnp.einsum("brchqk,brchkd->brchqd", weights.astype(self.compute.dtype), v)
        out = out / weights.sum(-1, keepdims=True)
        out = out.astype(self.compute.dtype).swapaxes(-3, -2)
        out = reverse(out.reshape(*out.shape[:-2], channels), self.window)
        return Linear(channels, compute=self.compute, name="proj")(out)


class SwinBlock(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    heads: int
    window: int
    shift: int
    mlp_ratio: int
    window_mask: WindowMask
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, height, width, channels = x.shape
        h = GroupNorm(eps=1e-5, compute=self.compute, name="norm1")(x)
        mask = None
        if self.shift:
            h = jnp.roll(h, (-self.shift, -self.shift), axis=(1, 2))
            mask = attention_mask(height, width, self.window, self.window_mask)
        attention = WindowAttention(self.heads, self.window, compute=self.compute, name="attention")
        h = attention(h, mask)
        if self.shift:
            h = jnp.roll(h, (self.shift, self.shift), axis=(1, 2))
        x = x + h

        h = GroupNorm(eps=1e-5, compute=self.compute, name="norm2")(x)
        h = Linear(self.mlp_ratio * channels, compute=self.compute, name="mlp_in")(h)
        h = 0.5 * h * (1 + jax.lax.erf(h * 0.5**0.5))  # exact GELU; jax.nn.gelu takes erfc, slower
        return x + Linear(channels, compute=self.compute, name="mlp_out")(h)


class SwinLayer(nn.Module):
    """A 1x1 convolution to `channels`, `depth` blocks of alternating shift, and one back."""

    channels: int
    depth: int
    head_channels: int
    window: int
    shifts: bool
    mlp_ratio: int
    window_mask: WindowMask
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Linear(self.channels, compute=self.compute, name="proj_in")(x)
        for i in range(self.depth):
            h = SwinBlock(
                heads=self.channels // self.head_channels,
                window=self.window,
                shift=self.window // 2 if self.shifts and i % 2 else 0,
                mlp_ratio=self.mlp_ratio,
                window_mask=self.window_mask,
                compute=self.compute,
                name=f"block_{i}",
            )(h)
        return Linear(x.shape[-1], compute=self.compute, name="proj_out")(h)
