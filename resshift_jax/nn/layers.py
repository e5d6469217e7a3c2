"""The layers that all networks share: feature maps (B, H, W, C) in, feature maps out.

Parameters are float32; `compute` tells the dtype of the arithmetic. Normalisation statistics are
always computed in float32.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike

from resshift_jax.platform import Compute


def apply(
    module: nn.Module, params: Mapping[str, Any], *inputs: Any, method: str | None = None
) -> Array:
    """What a module, or a method of it, gives with its parameters; it is one array."""
    return cast(Array, module.apply({"params": params}, *inputs, method=method))


def uniform_fan_in(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for a kernel whose last axis is the output."""
    bound = float(np.prod(shape[:-1])) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _uniform_bias(fan_in: int) -> Callable[..., Array]:
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _convolution_parameters(
    module: "Conv3x3 | UpsampleConv3x3", channels: int, zero: bool = False
) -> tuple[Array, Array]:
    """Kernel (3, 3, channels, features) and bias (features,) of a module, in its dtype."""
    features, dtype = module.features, module.compute.dtype
    zeros = nn.initializers.zeros
    kernel_init, bias_init = (
        (zeros, zeros) if zero else (uniform_fan_in, _uniform_bias(9 * channels))
    )
    kernel = module.param("kernel", kernel_init, (3, 3, channels, features))
    bias = module.param("bias", bias_init, (features,))
    return kernel.astype(dtype), bias.astype(dtype)


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
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, height, width, channels = x.shape
        kernel, bias = _convolution_parameters(self, channels, self.zero)
        x = x.astype(self.compute.dtype)
        if self.stride == 1 and self.compute.by_patches(channels, height * width):
            return _patches(x, self.padding) @ kernel.reshape(-1, self.features) + bias
        if self.stride == 1 and self.padding == (1, 1):
            # The gradient is traced elsewhere, where this setting may be another.
            precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
            return convolve_same(x, kernel, precision) + bias
        return _convolve(x, kernel, self.stride, (self.padding, self.padding)) + bias


class UpsampleConv3x3(nn.Module):
    """Each pixel repeated to 2x2, then a 3x3 convolution: (B, H, W, C) -> (B, 2H, 2W, features).

    Three taps on repeated pixels touch only two of the small map, so each of the four phases of the
    output is a 2x2 convolution of the small map with summed taps: 4/9 of the arithmetic.
    """

    features: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        kernel, bias = _convolution_parameters(self, channels)
        x = x.astype(self.compute.dtype)
        if (
            height * width <= self.compute.patch_pixels
        ):  # summing the taps would cost more than it saves
            return _convolve(upsample_nearest(x), kernel, 1, ((1, 1), (1, 1))) + bias
        rows = []
        for y, row_taps in enumerate(_summed_taps(kernel, axis=0)):
            phases = [
                _convolve(x, taps, 1, ((1 - y, y), (1 - z, z))) + bias
                for z, taps in enumerate(_summed_taps(row_taps, axis=1))
            ]
            rows.append(jnp.stack(phases, axis=3).reshape(batch, height, 2 * width, -1))
        return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def _summed_taps(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Three taps along an axis -> the two that even, and the two that odd output pixels see."""
    a, b, c = jnp.split(kernel, 3, axis)
    return jnp.concatenate([a, b + c], axis), jnp.concatenate([a + b, c], axis)


def _convolve(
    x: Array, kernel: Array, stride: int, padding: tuple, precision: str | None = None
) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )  # fmt: skip


# On a CPU: so many images are few, and the columns of so many pixels stay in its cache.
_FEW = 2
_STRIP = 2048


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_same(x: Array, kernel: Array, precision: str | None = None) -> Array:
    """(B, H, W, C) and (3, 3, C, D) -> (B, H, W, D), zeros around.

    On a CPU the kernel's gradient of one or two images is three matrix products for each strip of
    rows, at 0.35 to 0.75 of the rate of a large product, where XLA's convolution reaches 0.2 to
    0.75, mostly less. Of four images and more it reaches 0.35 to 0.85, and is the faster one.

    precision: of products, in the gradient too; see jax.default_matmul_precision.
    """
    return _convolve(x, kernel, 1, ((1, 1), (1, 1)), precision)


def _convolve_forward(x: Any, kernel: Any, precision: str | None) -> tuple[Array, tuple]:
    """The result, and what the gradient needs; () marks those of the two that are asked for."""
    wanted = tuple(() if argument.perturbed else None for argument in (x, kernel))
    return convolve_same(x.value, kernel.value, precision), (x.value, kernel.value, wanted)


def _convolve_backward(precision: str | None, saved: tuple, dy: Any) -> tuple:
    x, kernel, (x_wanted, kernel_wanted) = saved
    if isinstance(dy, SymbolicZero):
        dy = jnp.zeros(dy.shape, dy.dtype)

    def by_convolution(x: Array, dy: Array) -> Array:
        of_kernel = partial(_convolve, x, stride=1, padding=((1, 1), (1, 1)), precision=precision)
        return jax.linear_transpose(of_kernel, kernel)(dy)[0]

    def by_products(x: Array, dy: Array) -> Array:
        batch, height, width, channels = x.shape
        features = dy.shape[-1]
        strips = min(height, math.ceil(height * width / _STRIP))
        rows = math.ceil(height / strips)
        below = strips * rows - height  # where dy is zero
        x = jnp.pad(x, ((0, 0), (1, 1 + below), (0, 0), (0, 0)))
        dy = jnp.pad(dy, ((0, 0), (0, below), (1, 1), (0, 0)))

        def add_strip(total: Array, index: Array) -> tuple[Array, None]:
            corner = index // strips, index % strips * rows, 0, 0
            of_x = jax.lax.dynamic_slice(x, corner, (1, rows + 2, width, channels))[0]
            of_dy = jax.lax.dynamic_slice(dy, corner, (1, rows, width + 2, features))[0]
            # The three columns of the kernel side by side; its rows are three products.
            columns = jnp.concatenate([of_dy[:, 2 - j : 2 - j + width] for j in range(3)], -1)
            products = [
                jnp.matmul(
                    of_x[i : i + rows].reshape(-1, channels).T,
                    columns.reshape(-1, 3 * features),
                    precision=precision,
                )
                for i in range(3)
            ]
            return total + jnp.stack(products), None

        zeros = jnp.zeros((3, channels, 3 * features), jnp.promote_types(dy.dtype, jnp.float32))
        total, _ = jax.lax.scan(add_strip, zeros, jnp.arange(batch * strips))
        return total.reshape(3, channels, 3, features).transpose(0, 2, 1, 3).astype(dy.dtype)

    dx = dkernel = None
    if x_wanted is not None:
        of_x = partial(
            _convolve, kernel=kernel, stride=1, padding=((1, 1), (1, 1)), precision=precision
        )
        dx = jax.linear_transpose(of_x, x)(dy)[0]
    if kernel_wanted is not None:
        on_cpu = by_products if len(x) <= _FEW else by_convolution
        dkernel = jax.lax.platform_dependent(x, dy, cpu=on_cpu, default=by_convolution)
    return dx, dkernel


convolve_same.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)


def _patches(x: Array, padding: tuple[int, int]) -> Array:
    """(B, H, W, C) -> (B, H, W, 9C): the 3x3 neighbourhood of each pixel, row-major."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    return jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1)


class Linear(nn.Module):
    """x W + b over the last axis: a linear layer, or a 1x1 convolution of a feature map."""

    features: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", uniform_fan_in, (x.shape[-1], self.features))
        bias = self.param("bias", _uniform_bias(x.shape[-1]), (self.features,))
        dtype = self.compute.dtype
        # One flat matrix product: batched over rows it runs slower on CPUs.
        flat = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel.astype(dtype)
        return (flat + bias.astype(dtype)).reshape(*x.shape[:-1], self.features)


class GroupNorm(nn.Module):
    """Normalisation over 32 groups of channels and the whole image, in two passes of float32."""

    eps: float
    groups: int = 32
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array, modulation: tuple[Array, Array] | None = None) -> Array:
        """norm(x), or norm(x) * (1 + m) + s for a modulation (m, s) of (B, C) arrays."""
        batch, channels = x.shape[0], x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        # Group values reach their channels by a product with zeros and ones (exact), not by a
        # repeat, which XLA on CPUs would redo for every value of the feature map.
        size = channels // self.groups
        member = jnp.arange(channels) // size == jnp.arange(self.groups)[:, None]

        def to_channels(a: Array) -> Array:
            """(B, groups) -> (B, 1, 1, C)."""
            expanded = jax.lax.dot(a, member.astype(jnp.float32), precision="highest")
            return expanded[:, None, None]

        def group_mean(a: Array) -> Array:
            """(B, H, W, C) -> (B, groups)."""
            return a.mean((1, 2)).reshape(batch, self.groups, size).mean(-1)

        x = x.astype(jnp.float32)
        mean = to_channels(group_mean(x))
        variance = group_mean(jnp.square(x - mean))
        # One multiplication and addition a value: a single pass, fused with what follows.
        gain = scale * to_channels(jax.lax.rsqrt(variance + self.eps))
        offset = bias - mean * gain
        if modulation is not None:
            m, s = (a.astype(jnp.float32)[:, None, None] for a in modulation)
            gain, offset = gain * (1 + m), offset * (1 + m) + s
        return (x * gain + offset).astype(self.compute.dtype)


def upsample_nearest(x: Array) -> Array:
    """(B, H, W, C) -> (B, 2H, 2W, C), each pixel repeated."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def space_to_depth(image: Array, block: int) -> Array:
    """(B, H, W, C) -> (B, H/s, W/s, s s C): blocks as channels, row-major with the colour last."""
    b, h, w, c = image.shape
    s = block
    x = image.reshape(b, h // s, s, w // s, s, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // s, w // s, s * s * c)


def depth_to_space(z: Array, block: int) -> Array:
    """The inverse of `space_to_depth`."""
    b, h, w, _ = z.shape
    s = block
    x = z.reshape(b, h, w, s, s, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * s, w * s, -1)


def timestep_embedding(t: Array, channels: int) -> Array:
    """(B,) integers -> (B, channels) float32: cosines, then sines, of frequencies 1 .. 1/10000."""
    half = channels // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half)
    angles = t.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
