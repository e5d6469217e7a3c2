"""The shared layers against plain loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BFLOAT16, assert_close

from resshift_jax.flops import count_flops
from resshift_jax.nn.layers import (
    Conv3x3,
    GroupNorm,
    Linear,
    UpsampleConv3x3,
    timestep_embedding,
    upsample_nearest,
)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def convolve(x, kernel, bias, stride, padding):
    """A 3x3 convolution pixel by pixel, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), padding, padding, (0, 0)))
    rows = (x.shape[1] - 3) // stride + 1
    columns = (x.shape[2] - 3) // stride + 1
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        patch = x[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
        out[:, i, j] = np.einsum("bijc,ijco->bo", patch, kernel.astype(np.float64))
    return out + bias


# Both ways to compute it: few channels or few pixels make one matrix product, the rest does not.
@pytest.mark.parametrize(
    ("shape", "stride", "padding"),
    [
        ((2, 11, 13, 3), 1, (1, 1)),
        ((2, 6, 7, 20), 1, (1, 1)),
        ((1, 11, 13, 20), 1, (1, 1)),
        ((2, 10, 12, 20), 2, (1, 1)),
        ((2, 10, 12, 3), 2, (1, 1)),
        ((2, 10, 12, 20), 2, (0, 1)),
        ((1, 11, 9, 20), 2, (0, 1)),
    ],
)
def test_convolution(shape, stride, padding):
    x = random(*shape)
    layer = Conv3x3(5, stride=stride, padding=padding)
    variables = layer.init(jax.random.key(0), x)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    assert_close(layer.apply(variables, x), convolve(x, kernel, bias, stride, padding), 2e-6)


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 9, 8, 6), (1, 16, 11, 3)])
def test_upsampling_convolution(shape):
    x = random(*shape)
    layer = UpsampleConv3x3(7)
    variables = layer.init(jax.random.key(0), x)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    large = x.repeat(2, axis=1).repeat(2, axis=2)
    assert_close(layer.apply(variables, x), convolve(large, kernel, bias, 1, (1, 1)), 2e-6)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5, 6)])
def test_linear(shape):
    x = random(*shape)
    layer = Linear(7)
    variables = layer.init(jax.random.key(0), x)
    kernel, bias = (
        np.asarray(variables["params"][name], np.float64) for name in ("kernel", "bias")
    )
    assert_close(layer.apply(variables, x), x.astype(np.float64) @ kernel + bias, 1e-6)


@pytest.mark.parametrize("layer", [Conv3x3(64), Linear(64)])
def test_weights_start_uniform_within_the_root_of_their_fan_in(layer):
    params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))["params"]
    bound = (48 * (9 if isinstance(layer, Conv3x3) else 1)) ** -0.5
    for value in params.values():
        assert 0.9 * bound < jnp.abs(value).max() <= bound
        assert jnp.std(value) == pytest.approx(bound / 3**0.5, rel=0.15)


def normalise(x, eps):
    """Group normalisation of 32 groups in float64."""
    groups = x.astype(np.float64).reshape(*x.shape[:3], 32, -1)
    mean = groups.mean((1, 2, 4), keepdims=True)
    return ((groups - mean) / np.sqrt(groups.var((1, 2, 4), keepdims=True) + eps)).reshape(x.shape)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e3, 1), (-1e3, 0.1), (0, 1e-4)])
def test_group_norm_is_accurate_far_from_zero(mean, std):
    x = (mean + std * random(2, 8, 9, 64)).astype(np.float32)
    layer = GroupNorm(eps=1e-6)
    params = {"scale": 1 + random(64), "bias": random(64)}
    expected = normalise(x, 1e-6) * params["scale"] + params["bias"]
    # The input itself has 24 bits, and so has the offset taken off in one multiply-add.
    rounding = 2e-6 + 16 * abs(mean) / std * 2**-24
    assert_close(layer.apply({"params": params}, x), expected, rounding)


def test_group_norm_modulation():
    x, scale, shift = random(2, 4, 4, 64), random(2, 64), random(2, 64) + 1
    params = {"scale": 1 + random(64), "bias": random(64)}
    plain = normalise(x, 1e-5) * params["scale"] + params["bias"]
    expected = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    found = GroupNorm(eps=1e-5).apply({"params": params}, x, (jnp.asarray(scale), shift))
    assert_close(found, expected, 5e-6)


def test_group_norm_of_bfloat16_keeps_its_statistics_in_float32():
    x = jnp.asarray(3 + random(1, 64, 64, 32), jnp.bfloat16)
    layer = GroupNorm(eps=1e-6, compute=BFLOAT16)
    out = layer.apply(layer.init(jax.random.key(0), x), x)
    assert out.dtype == jnp.bfloat16
    # bfloat16 holds 8 bits: half a unit in the last place of values up to 5 is 2^-6.
    assert_close(out, normalise(np.asarray(x, np.float32), 1e-6), 2**-6)


def test_upsampling_repeats_each_pixel():
    x = random(2, 3, 4, 5)
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(x)), x.repeat(2, 1).repeat(2, 2))


def test_timestep_embedding():
    t = jnp.asarray([0, 3, 14])
    found = np.asarray(timestep_embedding(t, 160))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], [1] * 80 + [0] * 80)
    for i in (0, 1, 40, 79):
        angle = np.asarray(t) * 10000 ** (-i / 80)
        assert_close(found[:, i], np.cos(angle), 1e-6)
        assert_close(found[:, 80 + i], np.sin(angle), 1e-6)


@pytest.mark.parametrize(
    "shape", [(3, 11, 13, 20), (1, 9, 16, 12), (2, 61, 50, 12), (1, 3, 2100, 10)]
)
def test_gradient_of_a_convolution(shape):
    """Of input and kernel, as XLA has it for the convolution that is computed forward.

    The first has too many images for products; the last two are cut into strips of 31 rows, with
    one too many, and of one.
    """
    x, kernel, weights = random(*shape), random(3, 3, shape[-1], 7), random(*shape[:3], 7)

    def plain(x, kernel):
        out = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (out * weights).sum()

    def ours(x, kernel):
        layer = Conv3x3(7)
        return (
            layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(7)}}, x) * weights
        ).sum()

    for actual, expected in zip(
        *(jax.grad(f, argnums=(0, 1))(x, kernel) for f in (ours, plain)), strict=True
    ):
        assert_close(actual, expected, 2e-4)


def test_a_frozen_kernel_has_no_gradient_computed():
    x, params = random(2, 12, 12, 16), {"kernel": random(3, 3, 16, 16), "bias": jnp.zeros(16)}

    def apply(x):
        return Conv3x3(16).apply({"params": params}, x)

    def again(x):  # one image after the other, and again for the gradient
        return jax.lax.map(jax.checkpoint(lambda image: apply(image[None])[0]), x)

    forward = count_flops(apply, x)
    assert count_flops(jax.grad(lambda x: apply(x).sum()), x) == 2 * forward
    assert count_flops(jax.grad(lambda x: again(x).sum()), x) <= 3 * forward
    of_both = jax.grad(lambda p, x: Conv3x3(16).apply({"params": p}, x).sum(), argnums=(0, 1))
    assert count_flops(of_both, params, x) == 3 * forward
