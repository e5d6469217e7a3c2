"""The layers that all networks share: feature maps (B, H, W, C) in, feature maps out.

Parameters are float32; `dtype` is that of the computation. Normalisation statistics are always
computed in float32.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike


def uniform_fan_in(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for a kernel whose last axis is the output."""
    bound = float(np.prod(shape[:-1])) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _uniform_bias(fan_in: int) -> Callable:
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


# Up to these sizes a convolution is one matrix product of patches: of three channels it was 9 times
# faster than XLA's convolution on a CPU, of 8x8 maps 1.3 times.
FEW_CHANNELS = 8
FEW_PIXELS = 64


class Conv3x3(nn.Module):
    """A 3x3 convolution with bias.

    Attributes:
        features: output channels.
        stride: 1 or 2.
        padding: zeros (before, after) on both spatial axes.
        zero: start from zero weights.
    """

    features: int
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    zero: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.features)
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros if self.zero else uniform_fan_in, shape)
        bias_init = zeros if self.zero else _uniform_bias(9 * x.shape[-1])
        bias = self.param("bias", bias_init, (self.features,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        _, height, width, channels = x.shape
        if self.stride == 1 and (channels <= FEW_CHANNELS or height * width <= FEW_PIXELS):
            y = _patches(x, self.padding) @ kernel.reshape(-1, self.features)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=(self.padding, self.padding),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return y + bias.astype(self.dtype)


def _patches(x: Array, padding: tuple[int, int]) -> Array:
    """(B, H, W, C) -> (B, H, W, 9C): the 3x3 neighbourhood of each pixel, row-major."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    return jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1)


class Linear(nn.Module):
    """x W + b over the last axis: a linear layer, or a 1x1 convolution of a feature map."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", uniform_fan_in, (x.shape[-1], self.features))
        bias = self.param("bias", _uniform_bias(x.shape[-1]), (self.features,))
        # One flat matrix product: batched over rows it runs slower on CPUs.
        flat = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ kernel.astype(self.dtype)
        return (flat + bias.astype(self.dtype)).reshape(*x.shape[:-1], self.features)


class GroupNorm(nn.Module):
    """Normalisation over 32 groups of channels and the whole image, in two passes of float32."""

    eps: float
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, modulation: tuple[Array, Array] | None = None) -> Array:
        """norm(x), or norm(x) * (1 + m) + s for a modulation (m, s) of (B, C) arrays."""
        batch, channels = x.shape[0], x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def group_mean(a: Array) -> Array:
            """Mean of (B, H, W, C) over each group, repeated for each channel: (B, 1, 1, C)."""
            a = a.mean((1, 2)).reshape(batch, self.groups, -1).mean(-1)
            return jnp.repeat(a, channels // self.groups, axis=-1)[:, None, None]

        x = x.astype(jnp.float32)
        mean = group_mean(x)
        variance = group_mean(jnp.square(x - mean))
        # One multiplication and addition a value: a single pass, fused with what follows.
        gain = scale * jax.lax.rsqrt(variance + self.eps)
        offset = bias - mean * gain
        if modulation is not None:
            m, s = (a.astype(jnp.float32)[:, None, None] for a in modulation)
            gain, offset = gain * (1 + m), offset * (1 + m) + s
        return (x * gain + offset).astype(self.dtype)


def upsample_nearest(x: Array) -> Array:
    """(B, H, W, C) -> (B, 2H, 2W, C), each pixel repeated."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def timestep_embedding(t: Array, channels: int) -> Array:
    """(B,) integers -> (B, channels) float32: cosines, then sines, of frequencies 1 .. 1/10000."""
    half = channels // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half)
    angles = t.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
