"""The whole degradation: against its steps one by one, how often each is drawn, one result."""

from dataclasses import replace
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES, assert_close
from data_checks import assert_even, assert_share, drawn_shapes
from PIL import Image

from resshift_jax.degradation import real_esrgan as degrade
from resshift_jax.degradation.config import TEST_SET, MixtureConfig, RealEsrganConfig
from resshift_jax.degradation.ops import blur, jpeg, noise, resize
from resshift_jax.degradation.ops.canvas import Canvas
from resshift_jax.pixels import as_unit

TRAINING = RealEsrganConfig()
KEYS = jax.random.split(jax.random.key(7), 24)
SIDE = 64


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(24, 64, 64, 3) uint8: crops of a photograph."""
    photo = np.asarray(Image.open(FIXTURES / "astronaut_300x200.jpg"))
    offsets = [(y, x) for y in (0, 45, 90, 135) for x in (0, 47, 94, 141, 188, 235)]
    return np.stack([photo[y : y + SIDE, x : x + SIDE] for y, x in offsets])


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(partial(degrade.degrade, config=TRAINING))


@pytest.fixture(scope="module")
def degraded(compiled, images) -> np.ndarray:
    return np.asarray(compiled(KEYS, images))


class OneByOne:
    """The steps in the order of the publication, each compiled alone, on one large canvas."""

    def __init__(self, config: RealEsrganConfig):
        side = 96  # of the canvas: 64 times 1.5
        self.config = config
        self.blur = jax.jit(blur.blur, static_argnums=2)
        self.noise = jax.jit(noise.add_noise)
        self.jpeg = jax.jit(lambda canvas, quality: jpeg.compress(clipped(canvas), quality))
        self.by = jax.jit(partial(resize.resize_by, shape=(side, side)))
        self.to = jax.jit(
            lambda canvas, size, mode: resize.resize_to(canvas, (size, size), mode, (side, side))
        )

    def __call__(self, draws: degrade.Draws, image: np.ndarray) -> np.ndarray:
        config, lq_side = self.config, image.shape[0] // self.config.scale
        planes = jnp.pad(
            jnp.asarray(image / 255, jnp.float32).transpose(2, 0, 1), ((0, 0), (0, 32), (0, 32))
        )
        x = Canvas(planes, jnp.int32(SIDE), jnp.int32(SIDE))
        x = self.blur(x, draws.first_round.blur, config.first_round.blur.sizes[1])
        x = self.by(x, draws.first_round.resize.factor, draws.first_round.resize.mode)
        x = self.noise(x, draws.first_round.noise)
        x = self.jpeg(x, draws.first_jpeg)
        if draws.twice:
            x = self.blur(x, draws.second_round.blur, config.second_round.blur.sizes[1])
            size = int(lq_side * np.float32(draws.second_round.resize.factor))
            x = self.to(x, jnp.int32(size), draws.second_round.resize.mode)
            x = self.noise(x, draws.second_round.noise)
        if draws.jpeg_first:
            x = self.jpeg(x, draws.jpeg)
        x = self.to(x, jnp.int32(lq_side), draws.mode)
        x = self.blur(x, draws.sinc, config.sinc.sizes[1])
        if not draws.jpeg_first:
            x = self.jpeg(x, draws.jpeg)
        return np.clip(
            np.round(255 * np.asarray(x.planes).transpose(1, 2, 0)[:lq_side, :lq_side]), 0, 255
        )


def clipped(canvas: Canvas) -> Canvas:
    return canvas._replace(planes=jnp.clip(canvas.planes, 0, 1))


def assert_same_levels(found, expected) -> None:
    """Equal 8-bit images, but for the few pixels that rounding on the way may move."""
    difference = np.abs(np.asarray(found, np.float64) - expected)
    print(f"{(difference > 0.5).mean():.2%} of the values differ, most by {difference.max():.0f}")
    assert (difference > 0.5).mean() <= 0.005
    assert difference.mean() <= 0.02


def test_the_whole_is_its_steps_one_by_one(degraded, images):
    steps = OneByOne(TRAINING)
    draws = jax.vmap(partial(degrade.draw, config=TRAINING))(KEYS)
    expected = [steps(jax.tree.map(itemgetter(i), draws), image) for i, image in enumerate(images)]
    # All ways through are among them.
    ways = set(zip(draws.twice.tolist(), draws.jpeg_first.tolist(), strict=True))
    assert len(ways) == 4
    assert_same_levels(255 * degraded, np.stack(expected))


def test_results_have_8_bits(degraded, images):
    assert degraded.shape == (24, 16, 16, 3)
    assert degraded.dtype == np.float32
    assert_close(255 * degraded, np.round(255 * degraded), 1e-4)
    assert degraded.min() >= 0
    assert degraded.max() <= 1


def test_one_result_alone_and_in_any_batch(compiled, degraded, images):
    again = compiled(KEYS[::-1], images[::-1])
    np.testing.assert_array_equal(again[::-1], degraded)
    alone = compiled(KEYS[5:6], images[5:6])
    np.testing.assert_array_equal(alone[0], degraded[5])
    other = compiled(KEYS[6:7], images[5:6])
    assert np.abs(other[0] - degraded[5]).mean() > 0.01


def test_one_program_whatever_is_drawn_for_oblong_images_too(images):
    config = replace(TEST_SET, scale=2)
    compiled = jax.jit(partial(degrade.degrade, config=config))
    for seed in range(3):
        found = compiled(jax.random.split(jax.random.key(seed), 2), images[:2, :, :48])
        assert found.shape == (2, 32, 24, 3)
        # Mild as it is, it does not move the picture.
        means = images[:2, :, :48].reshape(2, 32, 2, 24, 2, 3).mean((2, 4)) / 255
        assert np.abs(found - means).mean() < 0.08
    assert compiled._cache_size() == 1


def test_8_bit_images_are_those_in_the_unit_range(images):
    floats = jnp.asarray(images / 255, jnp.float32)
    assert_close(as_unit(jnp.asarray(images)), floats, 1e-7)
    np.testing.assert_array_equal(as_unit(floats), floats)


def test_canvases_and_vmap_give_the_same_result(degraded, images):
    draws = jax.vmap(partial(degrade.draw, config=TRAINING))(KEYS)
    apply = partial(degrade.degrade_image, config=TRAINING)  # without smaller canvases
    together = jax.jit(jax.vmap(apply))
    found = together(draws, images.astype(np.float32) / 255)
    assert_same_levels(255 * found, 255 * degraded)
    few = jax.tree.map(itemgetter(slice(4, 7)), draws)
    alone = together(few, images[4:7].astype(np.float32) / 255)
    assert_same_levels(255 * alone, 255 * np.asarray(found[4:7]))


def test_whole_numbers_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="images of int32 given, uint8 or floats"):
        as_unit(jnp.zeros((1, 64, 64, 3), jnp.int32))


def test_sides_must_be_multiples_of_the_scale():
    with pytest.raises(ValueError, match=r"images of 30x64 given, sides must be multiples .* 4"):
        degrade.degrade(KEYS[:1], jnp.zeros((1, 64, 30, 3)), TRAINING)


@pytest.mark.parametrize("config", [TRAINING, TEST_SET], ids=["training", "test set"])
def test_statistics(config):
    keys = jax.random.split(jax.random.key(8), 2000)
    drawn = jax.jit(jax.vmap(partial(degrade.draw, config=config)))(keys)
    assert_share(drawn.twice, config.second_round_prob)
    assert_share(drawn.jpeg_first, config.jpeg_first_prob)
    assert_share(drawn.sinc.used, config.sinc.prob)
    assert_share(drawn.second_round.blur.used, config.second_round.blur.prob)
    rounds = (
        (drawn.first_round, config.first_round),
        (drawn.second_round, config.second_round),
    )
    for found, its in rounds:
        assert_even(found.noise.sigma, its.noise.gaussian_sigma)
        assert_even(found.noise.scale, its.noise.poisson_scale)
        factor = np.asarray(found.resize.factor)
        assert_even(factor[factor < 1], its.resize.down)
        assert_even(factor[factor > 1], its.resize.up)
        assert_even(found.blur.sigma[:, 0], its.blur.sigma)
        assert np.asarray(found.blur.size).max() == its.blur.sizes[1]
    assert_even(drawn.first_jpeg, config.first_jpeg)
    assert_even(drawn.jpeg, config.jpeg)
    for mode in resize.MODES:
        assert_share(np.asarray(drawn.mode) == mode, 1 / 3)
    # What is drawn for one purpose tells nothing of what is drawn for another.
    independent = np.stack(
        [
            drawn.first_jpeg,
            drawn.jpeg,
            drawn.twice,
            drawn.jpeg_first,
            drawn.mode,
            drawn.first_round.noise.sigma,
            drawn.second_round.noise.sigma,
            drawn.first_round.blur.size,
            drawn.sinc.size,
        ]
    )
    independent = independent[independent.std(1) > 0]
    assert np.abs(np.corrcoef(independent) - np.eye(len(independent))).max() < 0.1
    noise_keys = np.concatenate(
        [jax.random.key_data(found.noise.key) for found in (drawn.first_round, drawn.second_round)]
    )
    assert len(np.unique(noise_keys, axis=0)) == 4000


def test_as_many_numbers_are_drawn_as_were_counted_by_hand(monkeypatch):
    """19 for each round, 3 for the sinc and 5: their number is part of the result."""
    for config in (TRAINING, TEST_SET):
        draw = partial(degrade.draw, KEYS[0], config)
        assert drawn_shapes(monkeypatch, draw) == [(46,)]


def test_a_mixture_degrades_each_image_in_one_of_its_ways(degraded, images):
    config = MixtureConfig(weights=(3, 1))
    found = jax.jit(partial(degrade.degrade_mixed, config=config))(KEYS, images)
    mild = jax.jit(partial(degrade.degrade, config=TEST_SET))(KEYS, images)
    is_first, is_second = (
        np.abs(found - part).mean((1, 2, 3)) < 1e-3  # but for rounding
        for part in (degraded, mild)
    )
    assert (is_first != is_second).all()
    # Each image's way depends on its key alone.
    again = jax.jit(partial(degrade.degrade_mixed, config=config))(KEYS[5:8], images[5:8])
    assert_close(again, found[5:8], 1.5 / 255)
    keys = jax.random.split(jax.random.key(8), 4000)
    assert_share(degrade.draw_part(keys, config) == 0, 0.75)
    assert_share(degrade.draw_part(keys, MixtureConfig()) == 0, 0.5)
