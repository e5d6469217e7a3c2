"""LPIPS: published values, a plain NumPy computation of it, and its gradient."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, golden, jit

from resshift_jax.nn.lpips import LPIPS
from resshift_jax.platform import Compute
from resshift_jax.weights.lpips import load_lpips

NETWORKS = ["alex", "vgg"]
LEAST = {"alex": 31, "vgg": 16}
SIZES = {"alex": (33, 40), "vgg": (17, 26)}  # of the gradient's tests


@cache
def parameters(network):
    return load_lpips(network)


@cache
def distance(network, dtype=jnp.float32):
    """(params, x, y) -> distances, compiled once a shape."""
    module = LPIPS(network, Compute(np.dtype(dtype)))
    return jit(lambda params, x, y: module.apply({"params": params}, x, y))


@cache
def value_and_gradients(network, dtype=jnp.float32):
    """(params, x, y) -> sum of the distances, its gradients with respect to x and y."""

    def total(params, x, y):
        return LPIPS(network, Compute(np.dtype(dtype))).apply({"params": params}, x, y).sum()

    return jit(jax.value_and_grad(total, argnums=(1, 2)))


def images(batch, height, width):
    """Two batches of smooth and of noisy images in [-1, 1], float64."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    phases = rng.uniform(0, 6, (batch, 3, 1, 1))
    smooth = np.sin(0.3 * rows + phases) * np.cos(0.2 * columns - phases)
    x = np.moveaxis(smooth, 1, -1)
    return x, np.clip(x + 0.4 * rng.standard_normal(x.shape), -1, 1)


# Values.


@pytest.mark.parametrize(("network", "key"), [("alex", "lpips_alexnet"), ("vgg", "lpips_vgg16")])
def test_the_published_networks_distances(network, key):
    fixture = golden("resize_metrics")
    image, upscaled = (
        fixture[name].astype(np.float32) / 127.5 - 1 for name in ("image", "upscaled")
    )
    x, y = np.stack([image, image[:, ::-1]]), np.stack([upscaled, upscaled])
    found = distance(network)(parameters(network), x, y)
    assert found.dtype == jnp.float32
    assert_close(found, [fixture[key], fixture[f"{key}_mirrored"]], 1e-5)


def convolve(x, layer, stride, padding):
    kernel, bias = (layer[name].astype(np.float64) for name in ("kernel", "bias"))
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))
    return np.tensordot(windows[::stride, ::stride], kernel, ([3, 4, 2], [0, 1, 2])) + bias


def pool(x, size):
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))
    return windows[::2, ::2].max((-2, -1))


def plain_features(network, x):
    """The five maps of one image (H, W, 3), layer by layer in float64."""
    layers = parameters(network)["features"]
    x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    maps = []
    if network == "alex":
        for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)], start=1):
            x = pool(x, 3) if i in (2, 3) else x
            x = np.maximum(convolve(x, layers[f"conv{i}"], stride, padding), 0)
            maps.append(x)
        return maps
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
        x = pool(x, 2) if block > 1 else x
        for i in range(1, depth + 1):
            x = np.maximum(convolve(x, layers[f"conv{block}_{i}"], 1, 1), 0)
        maps.append(x)
    return maps


def plain_distance(network, x, y):
    total = 0.0
    pairs = zip(plain_features(network, x), plain_features(network, y), strict=True)
    for i, (f, g) in enumerate(pairs, start=1):
        f, g = (a / (np.linalg.norm(a, axis=-1, keepdims=True) + 1e-10) for a in (f, g))
        total += ((f - g) ** 2 @ parameters(network)[f"head{i}"]).mean()
    return total


@pytest.mark.parametrize(("network", "size"), [("alex", (31, 70)), ("vgg", (16, 37))])
def test_a_plain_computation_of_small_and_odd_sizes(network, size):
    x, y = images(2, *size)
    expected = [plain_distance(network, *pair) for pair in zip(x, y, strict=True)]
    found = distance(network)(parameters(network), x.astype(np.float32), y.astype(np.float32))
    assert_close(found, expected, 2e-6)
    with jax.enable_x64(True):
        assert_close(distance(network, jnp.float64)(parameters(network), x, y), expected, 1e-13)


@pytest.mark.parametrize("network", NETWORKS)
def test_equal_images_are_at_no_distance_and_the_order_is_of_no_matter(network):
    x, y = (a.astype(np.float32) for a in images(2, *SIZES[network]))
    apply = distance(network)
    assert_close(apply(parameters(network), x, x), [0, 0], 1e-14)
    assert_close(apply(parameters(network), x, y), apply(parameters(network), y, x), 1e-7)


@pytest.mark.parametrize("network", NETWORKS)
def test_convolutions_in_bfloat16_give_nearly_the_same(network):
    x, y = (a.astype(np.float32) for a in images(2, *SIZES[network]))
    found = distance(network, jnp.bfloat16)(parameters(network), x, y)
    assert found.dtype == jnp.float32
    assert_close(found, distance(network)(parameters(network), x, y), 0.01)


@pytest.mark.parametrize("network", NETWORKS)
def test_float32_is_meant_on_every_device(network):
    x = jnp.zeros((1, 32, 32, 3))

    def total(x, y):
        return LPIPS(network).apply({"params": parameters(network)}, x, y).sum()

    with jax.default_matmul_precision("default"):
        program = str(jax.make_jaxpr(jax.value_and_grad(total))(x, x))
    products = program.count("conv_general_dilated[") + program.count("dot_general[")
    convolutions = {"alex": 5, "vgg": 13}[network]
    assert products == 3 * convolutions  # of x, of y, and back to x alone
    assert program.count("Precision.HIGHEST") == 2 * products


# The gradient.


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_is_that_of_finite_differences(network):
    x, y = images(2, *SIZES[network])
    v, w = np.random.default_rng(1).standard_normal((2, *x.shape))
    h = 1e-8  # with larger steps rectified values of VGG change their sign
    with jax.enable_x64(True):

        def evaluate(x, y):
            apply = value_and_gradients(network, jnp.float64)
            return jax.tree.map(np.asarray, apply(parameters(network), x, y))

        of_x, of_y = evaluate(x, y)[1]
        in_x = (evaluate(x + h * v, y)[0] - evaluate(x - h * v, y)[0]) / (2 * h)
        in_y = (evaluate(x, y + h * w)[0] - evaluate(x, y - h * w)[0]) / (2 * h)
    assert_close((of_x * v).sum() / in_x, 1.0, 1e-5)
    assert_close((of_y * w).sum() / in_y, 1.0, 1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_in_float32_is_that_in_float64(network):
    x, y = images(2, *SIZES[network])
    with jax.enable_x64(True):
        _, exact = value_and_gradients(network, jnp.float64)(parameters(network), x, y)
    x, y = (a.astype(np.float32) for a in (x, y))
    _, found = value_and_gradients(network)(parameters(network), x, y)
    largest = np.abs(exact).max()
    assert_close(np.array(found) / largest, np.array(exact) / largest, 1e-4)


def scaled(network, factor, bias):
    """Parameters whose maps are `factor` as large, with biases of their own."""
    params = jax.tree.map(np.array, parameters(network))
    first = params["features"]["conv1" if network == "alex" else "conv1_1"]
    first["kernel"] *= factor
    for layer in params["features"].values():
        layer["bias"][:] = bias
    return params


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", ["equal", "constant", "black", "dead", "one dead", "tiny"])
def test_the_gradient_is_finite_everywhere(network, case):
    x, y = (a.astype(np.float32) for a in images(2, *SIZES[network]))
    params = parameters(network)
    if case == "equal":
        y = x
    elif case == "constant":
        x, y = np.full_like(x, 0.2), np.full_like(x, -0.3)
    elif case == "black":
        x, y = np.full_like(x, -1), np.full_like(x, -1)
    elif case == "dead":  # every map is zero
        params = scaled(network, 1.0, -1e6)
    elif case == "one dead":  # without biases, an image of the mean colour has maps of zero
        params = scaled(network, 1.0, 0.0)
        x = np.broadcast_to(np.float32([-0.030, -0.088, -0.188]), x.shape)
    elif case == "tiny":  # values that are not zero, but whose squares are
        params = scaled(network, 1e-25, 0.0)
    value, gradients = value_and_gradients(network)(params, x, y)
    print(value, *(np.abs(gradient).max() for gradient in gradients))
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if case == "dead":
        assert value == 0
        assert not any(np.any(gradient) for gradient in gradients)


# Images to refuse; the least that are taken are among the sizes of the plain computation.


@pytest.mark.parametrize("network", NETWORKS)
def test_the_least_size_is_told(network):
    least = LEAST[network]
    x = np.zeros((1, least, least, 3), np.float32)
    for small in (x[:, 1:], x[:, :, 1:]):
        size = f"{small.shape[2]}x{small.shape[1]} pixels.*{network}.*{least}x{least}"
        with pytest.raises(ValueError, match=size):
            distance(network)(parameters(network), small, small)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((1, 32, 32, 3), (1, 32, 33, 3)),
        ((1, 32, 32, 3), (2, 32, 32, 3)),
        ((32, 32, 3), (32, 32, 3)),
        ((1, 32, 32, 1), (1, 32, 32, 1)),
    ],
)
def test_shapes_that_are_no_pairs_are_told(x, y):
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\) of one shape"):
        distance("alex")(parameters("alex"), jnp.zeros(x), jnp.zeros(y))


def test_an_unknown_network_is_told():
    with pytest.raises(ValueError, match="'squeeze', give one of alex, vgg"):
        LPIPS("squeeze").init(jax.random.key(0), *jnp.zeros((2, 1, 32, 32, 3)))
