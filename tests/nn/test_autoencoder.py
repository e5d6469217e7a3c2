"""First stages: the published autoencoders, the quantisation, attention in chunks, exact stages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BFLOAT16,
    MINI_VQ,
    assert_close,
    golden,
    jit,
    manifest_state,
    stored,
    variables_of,
)

from resshift_jax.config import PixelConfig, SpaceToDepthConfig
from resshift_jax.latent_model import make_first_stage
from resshift_jax.nn import autoencoder
from resshift_jax.nn.autoencoder import VQAutoencoder, attend, nearest_code
from resshift_jax.weights.zoo import VQ_F4

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def run(networks):
    """(name, method, array, ...) -> result of a small autoencoder."""

    @partial(jit, static_argnums=(0, 1), static_argnames="quantize")
    def compiled(name, method, variables, *args, **kwargs):
        return networks[name][0].apply(variables, *args, **kwargs, method=method)

    return lambda name, method, *args, **kwargs: compiled(
        name, method, networks[name][1], *args, **kwargs
    )


def test_the_small_autoencoder(run):
    published = golden("mini_autoencoder")
    z = run("autoencoder", "encode", published["image"])
    assert_close(z, published["z"], TOLERANCE)
    z_q, indices = run("autoencoder", "quantize", published["z"])
    np.testing.assert_array_equal(indices, published["indices"])
    assert_close(z_q, published["z_q"], 1e-6)
    assert_close(run("autoencoder", "decode", published["z"]), published["decoded"], TOLERANCE)
    not_quantized = run("autoencoder", "decode", published["z"], quantize=False)
    assert_close(not_quantized, published["decoded_not_quantized"], TOLERANCE)


def test_the_small_autoencoder_of_unequal_levels(run):
    published = golden("mini_autoencoder_f8")
    assert_close(run("autoencoder_f8", "encode", published["image"]), published["z"], TOLERANCE)
    assert_close(run("autoencoder_f8", "decode", published["z"]), published["decoded"], TOLERANCE)


def test_an_image_does_not_depend_on_its_batch(run):
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 16, 3)), jnp.float32)
    both = run("autoencoder", "decode", z)
    assert_close(both[1:], run("autoencoder", "decode", z[1:]), 1e-5)


def test_the_gradient_passes_straight_through_the_quantisation(networks):
    module, variables = networks["autoencoder"]
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 3)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).standard_normal(z.shape), jnp.float32)

    def loss(z):
        return (weight * module.apply(variables, z, method="quantize")[0]).sum()

    np.testing.assert_array_equal(jax.grad(loss)(z), weight)


def test_nearest_code_takes_the_first_of_equals():
    rng = np.random.default_rng(0)
    codebook = rng.integers(-2, 3, (40, 2)).astype(np.float32)  # on a grid, so many are equal
    rows = rng.integers(-4, 5, (100, 2)) / np.float32(2)  # and many lie half-way
    expected = [((codebook - row) ** 2).sum(-1).argmin() for row in rows]
    assert nearest_code(jnp.asarray(rows), jnp.asarray(codebook)).tolist() == expected


def test_nearest_code_of_large_values_does_not_cancel():
    codebook = jnp.asarray([[1000.0], [1000.5], [1001.0]])
    rows = jnp.asarray([[1000.2], [1000.3], [1000.8]])
    assert nearest_code(rows, codebook).tolist() == [0, 1, 2]


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((50, 8)), jnp.float32) for _ in range(3))
    codebook = k[:, :3]

    def both(q, k, v):
        gradient = jax.grad(lambda q: attend(q, k, v).sum())(q)
        return attend(q, k, v), gradient, nearest_code(q[:, :3], codebook)

    whole = both(q, k, v)
    weights = np.exp(np.asarray(q @ k.T, np.float64) * 8**-0.5)
    assert_close(whole[0], weights / weights.sum(-1, keepdims=True) @ np.asarray(v), 1e-6)

    monkeypatch.setattr(autoencoder, "MIN_CHUNK_ROWS", 3)
    monkeypatch.setattr(autoencoder, "CHUNK_ENTRIES", 350)  # 7 rows of 50: one chunk is not full
    assert largest_array(jax.make_jaxpr(attend)(q, k, v).jaxpr) < 50 * 50
    for found, expected in zip(both(q, k, v), whole, strict=True):
        assert_close(found, expected, 1e-6)


def largest_array(jaxpr) -> int:
    """Entries of the largest array that a program makes, loops and all."""
    largest = 0
    for equation in jaxpr.eqns:
        largest = max(largest, *(out.aval.size for out in equation.outvars))
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                largest = max(largest, largest_array(inner))
    return largest


def test_memory_is_bounded_over_many_pixels():
    """Of 256 x 256 latent pixels the whole matrix has 4e9 entries; a chunk has at most 2^23."""
    pixels = jax.ShapeDtypeStruct((256 * 256, 64), jnp.float32)
    assert largest_array(jax.make_jaxpr(attend)(pixels, pixels, pixels).jaxpr) <= 2**23
    assert largest_array(jax.make_jaxpr(lambda q: q @ q.T)(pixels).jaxpr) == 2**32
    rows, codes = (jax.ShapeDtypeStruct((n, 3), jnp.float32) for n in (256 * 256, 8192))
    assert largest_array(jax.make_jaxpr(nearest_code)(rows, codes).jaxpr) <= 2**23
    feature_map = jax.ShapeDtypeStruct((4, 256, 256, 64), jnp.float32)
    module = autoencoder.MidAttention()
    variables = jax.eval_shape(module.init, jax.random.key(0), feature_map)
    program = jax.make_jaxpr(module.apply)(variables, feature_map)
    assert largest_array(program.jaxpr) <= feature_map.size  # one image after the other


def test_bfloat16_stays_close(networks):
    published = golden("mini_autoencoder")
    module = VQAutoencoder(MINI_VQ, BFLOAT16)
    z = jit(partial(module.apply, method="encode"))(networks["autoencoder"][1], published["image"])
    assert z.dtype == jnp.float32
    error = np.linalg.norm(z - published["z"]) / np.linalg.norm(published["z"])
    print(f"relative error {error:.3g}")
    assert error < 0.03


def test_an_image_decoded_in_bfloat16_has_more_levels_than_bfloat16(networks):
    """Near white bfloat16 has steps of 1/256 of the range: not even 8 bits of grey."""
    module = VQAutoencoder(MINI_VQ, BFLOAT16)
    z = golden("mini_autoencoder")["z"]
    image = jit(partial(module.apply, method="decode"))(networks["autoencoder"][1], z)
    assert image.dtype == jnp.float32
    assert len(np.unique(image)) > 0.9 * image.size


@pytest.mark.parametrize(
    ("config", "shape"), [(PixelConfig(), (2, 8, 12, 3)), (SpaceToDepthConfig(), (2, 2, 3, 48))]
)
def test_exact_stages_bring_the_image_back(config, shape):
    image = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)
    stage = make_first_stage(config)
    assert stage.init(jax.random.key(0), jnp.asarray(image)) == {}
    z = stage.apply({}, jnp.asarray(image), method="encode")
    assert z.shape == shape
    np.testing.assert_array_equal(stage.apply({}, z, method="decode"), image)


def test_space_to_depth_is_row_major_with_the_colour_last():
    image = jnp.arange(4 * 4 * 3).reshape(1, 4, 4, 3)
    z = make_first_stage(SpaceToDepthConfig(block=2)).apply({}, image, method="encode")
    assert z[0, 1, 0].tolist() == [
        *image[0, 2, 0].tolist(), *image[0, 2, 1].tolist(),
        *image[0, 3, 0].tolist(), *image[0, 3, 1].tolist(),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_released_autoencoder():
    published = golden("vq_f4")
    variables = variables_of(stored(manifest_state(VQ_F4.name)), VQ_F4)
    apply = VQAutoencoder(VQ_F4).apply
    z = jit(partial(apply, method="encode"))(variables, published["image"] / np.float32(127.5) - 1)
    assert_close(z, published["z"], TOLERANCE)
    decoded = np.asarray(jit(partial(apply, method="decode"))(variables, published["z"]))
    assert_close(decoded, published["decoded"], 1e-3)  # stored in float16
    summary = [decoded.mean(dtype=np.float64), decoded.std(dtype=np.float64), *decoded.ravel()[:6]]
    assert_close(summary, published["decoded_stats"], TOLERANCE)
