"""Noise: its distributions, on which it depends, and how often each kind is drawn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from data_checks import assert_even, assert_share, on_larger_canvas

from resshift_jax.degradation.config import TEST_SET, RealEsrganConfig
from resshift_jax.degradation.ops import noise
from resshift_jax.degradation.ops.canvas import from_image
from resshift_jax.degradation.ops.draws import with_numbers

TRAINING = RealEsrganConfig()
SIDE = 512
add_noise = jax.jit(noise.add_noise)


def make_noise(*, gaussian: bool, grey: bool = False, sigma=10.0, scale=1.0, seed=0):
    return noise.Noise(
        key=jax.random.key(seed),
        gaussian=jnp.bool_(gaussian),
        grey=jnp.bool_(grey),
        sigma=jnp.float32(sigma),
        scale=jnp.float32(scale),
    )


def photograph(size=(40, 56)):
    smooth = np.random.default_rng(0).random((5, 7, 3)).repeat(8, 0).repeat(8, 1)
    return (0.2 + 0.6 * smooth[: size[0], : size[1]]).astype(np.float32)


def draw_poisson(rate: float) -> np.ndarray:
    z = noise.symmetric_uniform(jax.random.key(5), (SIDE, SIDE))
    normal = math.sqrt(2) * jax.lax.erf_inv(z)
    rates = jnp.full((SIDE, SIDE), rate, jnp.float32)
    return np.asarray(jax.jit(noise.poisson)(rates, z, normal), np.float64).ravel()


@pytest.mark.parametrize("rate", [0.3, 2.5, 7.9, 8.1, 40.0, 256.0])
def test_mean_and_variance_of_poisson_are_within_three_standard_errors(rate):
    drawn = draw_poisson(rate)
    n = len(drawn)
    assert (drawn == np.round(drawn)).all()
    assert (drawn >= 0).all()
    of_mean = (rate / n) ** 0.5
    of_variance = ((rate + 2 * rate**2) / n) ** 0.5
    off_mean, off_variance = drawn.mean() - rate, drawn.var() - rate
    print(f"{off_mean / of_mean:.2f} and {off_variance / of_variance:.2f} standard errors off")
    assert abs(off_mean) <= 3 * of_mean
    assert abs(off_variance) <= 3 * of_variance


@pytest.mark.parametrize("rate", [0.3, 2.5, 7.9, 8.1, 40.0])
def test_every_number_is_as_frequent_as_poisson_says(rate):
    drawn = draw_poisson(rate)
    probabilities = [math.exp(-rate)]
    while len(probabilities) < 100:
        probabilities.append(probabilities[-1] * rate / len(probabilities))
    for number, probability in enumerate(probabilities):
        found = (drawn == number).mean()
        allowed = 4.5 * (probability / len(drawn)) ** 0.5 + 4e-4 * (rate >= 8)  # of an expansion
        assert abs(found - probability) <= allowed + 1 / len(drawn), number


def test_no_rate_no_noise():
    assert (draw_poisson(0.0) == 0).all()


@pytest.mark.parametrize("level", [0.25, 0.4, 0.5, 0.6, 0.75])
def test_shot_noise_of_an_image_has_the_variance_of_its_brightness(level):
    # Two colours: v is 2, so rates are twice the level, and the noise Poisson(2 level) / 2 - level.
    image = np.full((SIDE, SIDE, 3), np.round(255 * level) / 255, np.float32)
    image[0, 0] = 0
    scale = 0.01  # nothing is clipped
    noisy = add_noise(from_image(jnp.asarray(image)), make_noise(gaussian=False, scale=scale))
    drawn = (np.asarray(noisy.planes, np.float64)[:, 1:] - image[1, 1, 0]) / scale
    exact = np.round(255 * level) / 255
    n = drawn.size
    assert abs(drawn.mean()) <= 3 * (exact / 2 / n) ** 0.5
    standard_error = ((2 * exact + 2 * (2 * exact) ** 2) / n) ** 0.5 / 4
    assert abs(drawn.var() - exact / 2) <= 3 * standard_error


def shot_noise(image: np.ndarray, grey: bool, scale: float = 0.01) -> np.ndarray:
    """What Poisson noise adds to an image, divided by its scale; nothing is clipped."""
    drawn = make_noise(gaussian=False, grey=grey, scale=scale)
    noisy = add_noise(from_image(jnp.asarray(image)), drawn)
    return (np.asarray(noisy.planes, np.float64).transpose(1, 2, 0) - image) / scale


@pytest.mark.parametrize("grey", [False, True])
def test_shot_noise_is_that_of_the_image_in_8_bits(grey):
    x8 = 31 / 255
    image = np.full((64, 64, 3), x8 + 0.0015, np.float32)  # not of 8 bits; one value, so v is 1
    counts = shot_noise(image, grey) + x8
    assert np.abs(counts - np.round(counts)).max() < 1e-4
    assert set(np.round(counts).ravel()) >= {0, 1}


def test_grey_shot_noise_is_that_of_the_luma():
    # Red, green and blue of one luma, 77 in 8 bits: v is 1, where the colours would make it 4.
    weights = np.array([0.2989, 0.587, 0.114])
    image = np.full((SIDE, SIDE, 3), 0.25, np.float32)
    for channel in range(3):
        image[channel::3, :, channel] += 0.052 / weights[channel]
    rate = 77 / 255
    counts = shot_noise(image, grey=True)[..., 1] + rate
    assert np.abs(counts - np.round(counts)).max() < 1e-3
    assert abs(counts.mean() - rate) <= 3 * (rate / counts.size) ** 0.5


def test_gaussian_noise_of_faces():
    image = from_image(jnp.full((SIDE, SIDE, 3), 0.5))
    noisy = noise.add_gaussian(image, jax.random.key(0), jnp.float32(12))
    drawn = 255 * (np.asarray(noisy.planes) - 0.5)
    assert abs(drawn.std() - 12) <= 4 * 12 / (2 * drawn.size) ** 0.5
    as_colour = add_noise(image, make_noise(gaussian=True, sigma=12))
    assert_close(noisy.planes, as_colour.planes, 1e-6)


def test_gaussian_noise_has_its_standard_deviation():
    image = from_image(jnp.full((SIDE, SIDE, 3), 0.5))
    drawn = 255 * (np.asarray(add_noise(image, make_noise(gaussian=True)).planes) - 0.5)
    n = drawn.size
    assert abs(drawn.mean()) <= 4 * 10 / n**0.5
    assert abs(drawn.std() - 10) <= 4 * 10 / (2 * n) ** 0.5
    channels = np.corrcoef(drawn.reshape(3, -1))
    assert np.abs(channels - np.eye(3)).max() < 4 * 3 / n**0.5
    rows = np.corrcoef(drawn[0, :-1].ravel(), drawn[0, 1:].ravel())[0, 1]
    assert abs(rows) < 4 * 3**0.5 / n**0.5
    share = [(np.abs(drawn) > 10 * k).mean() for k in (1, 2, 3)]
    for k, found in enumerate(share, start=1):
        assert found == pytest.approx(math.erfc(k / 2**0.5), rel=0.05)


@pytest.mark.parametrize("gaussian", [False, True])
def test_grey_noise_is_one_for_the_three_channels(gaussian):
    image = photograph()
    noisy = add_noise(
        from_image(jnp.asarray(image)), make_noise(gaussian=gaussian, grey=True, scale=0.5)
    )
    drawn = np.asarray(noisy.planes.transpose(1, 2, 0)) - image
    assert drawn.std() > 0.005
    inside = ((image + drawn > 0.01) & (image + drawn < 0.99)).all(-1)
    assert_close(drawn[inside][:, 1:], drawn[inside][:, :1].repeat(2, 1), 1e-6)
    colour = add_noise(from_image(jnp.asarray(image)), make_noise(gaussian=gaussian))
    values = np.asarray(colour.planes.transpose(1, 2, 0)) - image
    assert np.abs(values[inside][:, 0] - values[inside][:, 1]).mean() > 0.005


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("gaussian", [False, True])
def test_noise_does_not_depend_on_the_canvas(gaussian, grey):
    canvas = from_image(jnp.asarray(photograph()))
    drawn = make_noise(gaussian=gaussian, grey=grey)
    small = add_noise(canvas, drawn)
    large = add_noise(on_larger_canvas(canvas), drawn)
    assert_close(large.planes[:, :40, :56], small.planes, 1e-6)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (3, 40), (0, 255), (31, 32), (200, 255)])
def test_distinct_values_are_counted_inside_the_image_alone(low, high):
    levels = np.random.default_rng(0).integers(low, high + 1, (3, 9, 31)).astype(np.uint32)
    inside = np.zeros((9, 31), bool)
    inside[:7, :20] = True
    expected = len(np.unique(levels[:, :7, :20]))
    assert noise.count_distinct(jnp.asarray(levels), jnp.asarray(inside)) == expected


@pytest.mark.parametrize(
    "config",
    [
        TRAINING.first_round.noise,
        TRAINING.second_round.noise,
        TEST_SET.first_round.noise,
    ],
    ids=["first", "second", "test set"],
)
def test_statistics(config):
    keys = jax.random.split(jax.random.key(4), 2000)
    drawn = jax.vmap(lambda key: with_numbers(key, lambda u: noise.draw_noise(u, key, config)))(
        keys
    )
    assert_share(drawn.gaussian, config.gaussian_prob)
    assert_share(drawn.grey, config.grey_prob)
    assert_share(np.asarray(drawn.grey)[np.asarray(drawn.gaussian)], config.grey_prob)
    assert_even(drawn.sigma, config.gaussian_sigma)
    assert_even(drawn.scale, config.poisson_scale)
