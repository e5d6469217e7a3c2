"""Kernels and filtering against the published operators, and Bessel's function against itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, golden
from data_checks import assert_even, assert_share, on_larger_canvas

from resshift_jax.degradation.config import TEST_SET, BlurConfig, RealEsrganConfig, SincConfig
from resshift_jax.degradation.ops import blur
from resshift_jax.degradation.ops.blur import Kernel
from resshift_jax.degradation.ops.canvas import Canvas, from_image
from resshift_jax.degradation.ops.draws import with_numbers

DRAWS = 2000
TRAINING = RealEsrganConfig()


def make_kernel(kind, size, sigma=(1.0, 1.0), rotation=0.0, shape=1.0, cutoff=3.0):
    return Kernel(
        used=jnp.bool_(True),
        kind=jnp.int32(kind),
        size=jnp.int32(size),
        sigma=jnp.float32(sigma),
        rotation=jnp.float32(rotation),
        shape=jnp.float32(shape),
        cutoff=jnp.float32(cutoff),
    )


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("iso_21_1.7", make_kernel(blur.ISOTROPIC, 21, (1.7, 1.7))),
        ("aniso_21_2.1_0.6_0.7", make_kernel(blur.ANISOTROPIC, 21, (2.1, 0.6), 0.7)),
        (
            "generalized_iso_13_1.2_beta2.5",
            make_kernel(blur.GENERALIZED_ISOTROPIC, 13, (1.2, 1.2), shape=2.5),
        ),
        (
            "generalized_aniso_15_1.2_2.4_-0.4_beta0.8",
            make_kernel(blur.GENERALIZED_ANISOTROPIC, 15, (1.2, 2.4), -0.4, 0.8),
        ),
        ("plateau_iso_7_0.9_beta1.3", make_kernel(blur.PLATEAU_ISOTROPIC, 7, (0.9, 0.9), 0, 1.3)),
        (
            "plateau_aniso_21_1.2_2.4_1.1_beta1.6",
            make_kernel(blur.PLATEAU_ANISOTROPIC, 21, (1.2, 2.4), 1.1, 1.6),
        ),
        ("sinc_21_1.4", make_kernel(blur.SINC, 21, cutoff=1.4)),
        ("sinc_9_2.5_pad21", make_kernel(blur.SINC, 9, cutoff=2.5)),
    ],
)
def test_the_published_kernels(name, kernel):
    expected = golden("degradation_ops")[f"kernel:{name}"]
    assert_close(blur.kernel_values(kernel, len(expected)), expected, 1e-6)


def test_bessel_function_against_its_integral():
    x = np.linspace(0, 60, 2001)
    tau = (np.arange(256) + 0.5) * np.pi / 256  # of a smooth periodic function: exact to rounding
    expected = np.cos(tau - x[:, None] * np.sin(tau)).mean(1)
    # float32 arguments near 60 are known to 2e-6.
    assert_close(blur.bessel_j1(jnp.asarray(x, jnp.float32)), expected, 2e-6)


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize(
    ("kernel", "mirrored"), [("aniso_21_2.1_0.6_0.7", False), ("sinc_21_1.4", True)]
)
def test_the_published_filter(kernel, mirrored, larger):
    ops = golden("degradation_ops")
    image = ops["image"][:, ::-1] if mirrored else ops["image"]
    canvas = from_image(jnp.asarray(image))
    if larger:
        canvas = on_larger_canvas(canvas)
    planes = blur.filter2d(canvas, jnp.asarray(ops[f"kernel:{kernel}"]))
    assert planes.shape == canvas.planes.shape
    expected = ops["filter2d:image_and_mirror"][int(mirrored)]
    assert_close(planes.transpose(1, 2, 0)[:96, :128], expected, 3e-6)


def test_a_filter_is_a_correlation_whose_edges_are_reflected():
    image = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)
    kernel = np.random.default_rng(1).random((5, 5)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), "reflect")
    expected = sum(
        kernel[i, j] * padded[:, i : i + 5, j : j + 7] for i in range(5) for j in range(5)
    )
    canvas = Canvas(jnp.asarray(image), jnp.int32(5), jnp.int32(7))
    assert_close(blur.filter2d(canvas, jnp.asarray(kernel)), expected, 1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_images_smaller_than_the_kernel_keep_their_mean(side):
    canvas = on_larger_canvas(from_image(jnp.full((side, side, 3), 0.25)))
    kernel = blur.kernel_values(make_kernel(blur.ISOTROPIC, 13, (2.0, 2.0)), 13)
    assert_close(
        blur.filter2d(canvas, kernel)[:, :side, :side], np.full((3, side, side), 0.25), 1e-6
    )


def test_an_image_that_is_not_blurred_is_left_alone():
    canvas = from_image(jnp.asarray(golden("degradation_ops")["image"]))
    kernel = make_kernel(blur.ISOTROPIC, 7, (1.0, 1.0))
    same = blur.blur(canvas, kernel._replace(used=jnp.bool_(False)), 7)
    np.testing.assert_array_equal(same.planes, canvas.planes)
    assert not np.allclose(blur.blur(canvas, kernel, 7).planes, canvas.planes)


def draw_kernels(config: BlurConfig) -> Kernel:
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return jax.tree.map(
        np.asarray,
        jax.jit(jax.vmap(lambda key: with_numbers(key, partial(blur.draw_blur, config=config))))(
            keys
        ),
    )


@pytest.mark.parametrize(
    "config",
    [
        RealEsrganConfig().first_round.blur,
        RealEsrganConfig().second_round.blur,
        TEST_SET.first_round.blur,
    ],
    ids=["first", "second", "test set"],
)
def test_statistics_of_blurs(config):
    drawn = draw_kernels(config)
    assert_share(drawn.used, config.prob)
    assert_share(drawn.kind == blur.SINC, config.sinc)
    for kind, probability in enumerate(config.kinds):
        assert_share(drawn.kind == kind, (1 - config.sinc) * probability)
    low, high = config.sizes
    for size in range(low, high + 1, 2):
        assert_share(drawn.size == size, 1 / len(range(low, high + 1, 2)))

    turned = np.isin(drawn.kind, (1, 3, 5))
    assert_even(drawn.sigma[:, 0], config.sigma)
    assert_even(drawn.sigma[turned, 1], config.sigma)
    assert_even(drawn.rotation[turned], (-np.pi, np.pi))
    assert (drawn.rotation[~turned] == 0).all()
    assert (drawn.sigma[~turned, 0] == drawn.sigma[~turned, 1]).all()
    assert abs(np.corrcoef(drawn.sigma[turned].T)[0, 1]) < 4 / turned.sum() ** 0.5

    sinc = drawn.kind == blur.SINC
    wide = drawn.size >= 13
    assert_even(drawn.cutoff[~wide], (np.pi / 3, np.pi))
    if wide.any():
        assert_even(drawn.cutoff[wide], (np.pi / 5, np.pi))
    assert_even(drawn.cutoff[sinc & ~wide], (np.pi / 3, np.pi))


def test_statistics_of_shapes():
    drawn = draw_kernels(BlurConfig())
    generalized = np.isin(drawn.kind, (2, 3))
    plateau = np.isin(drawn.kind, (4, 5))
    below = drawn.shape < 1
    assert_share(below[generalized], 0.5)
    assert_even(drawn.shape[generalized & below], (0.5, 1))
    assert_even(drawn.shape[generalized & ~below], (1, 4))
    one = drawn.shape == 1
    assert_share(one[plateau], 0.5)
    assert_even(drawn.shape[plateau & ~one], (1, 2))


def test_statistics_of_the_last_filter():
    config = SincConfig()
    keys = jax.random.split(jax.random.key(2), DRAWS)
    drawn = jax.vmap(lambda key: with_numbers(key, partial(blur.draw_sinc, config=config)))(keys)
    assert (np.asarray(drawn.kind) == blur.SINC).all()
    assert_share(drawn.used, 0.8)
    for size in (3, 5, 7, 9, 11, 13):
        assert_share(np.asarray(drawn.size) == size, 1 / 6)
    assert_even(drawn.cutoff, (np.pi / 3, np.pi))
