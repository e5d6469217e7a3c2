"""Changes of colour and exposure: what they do, alone and beside given pairs."""

import jax
import numpy as np
import pytest

from resshift_jax.degradation.colours import LUMA, ColourConfig, change_colours
from resshift_jax.settings import ConfigError

KEYS = jax.random.split(jax.random.key(3), 400)
IMAGES = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), np.uint8)


def changed(config: ColourConfig, **crops) -> np.ndarray:
    """In grey levels of 255, whole numbers."""
    levels = 255 * np.asarray(change_colours(KEYS, {"hq": IMAGES} | crops, config))
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    return np.rint(levels)


def test_by_default_nothing_is_changed():
    np.testing.assert_array_equal(changed(ColourConfig()), IMAGES)
    np.testing.assert_array_equal(changed(ColourConfig(prob=1.0)), IMAGES)


def test_a_share_is_changed_each_by_its_own_key():
    found = changed(ColourConfig(prob=0.5, exposure=(0.1, 0.8)))
    is_changed = (found != IMAGES).any((1, 2, 3))
    assert abs(is_changed.mean() - 0.5) < 0.1
    factors = found[is_changed].mean((1, 2, 3)) / IMAGES[is_changed].mean((1, 2, 3))
    assert 0.095 <= factors.min() < 0.13
    assert 0.75 < factors.max() <= 0.805
    assert abs(np.median(factors) - np.sqrt(0.1 * 0.8)) < 0.03  # evenly in the logarithm


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"saturation": (0.0, 0.0)}, lambda x: np.repeat((x @ LUMA)[..., None], 3, -1)),
        ({"saturation": (9.0, 9.0)}, lambda x: (x @ LUMA)[..., None] * -8 + 9 * x),
        ({"gamma": (2.0, 2.0)}, lambda x: x**2),
        ({"exposure": (3.0, 3.0)}, lambda x: 3 * x),
    ],
)
def test_each_change(settings, expected):
    wanted = 255 * np.clip(expected(IMAGES / 255), 0, 1)
    assert np.abs(changed(ColourConfig(prob=1.0, **settings)) - wanted).max() <= 0.51


def test_a_tint_is_of_each_channel():
    found = changed(ColourConfig(prob=1.0, tint=(0.5, 1.0)))
    factors = found.mean((1, 2)) / IMAGES.mean((1, 2))
    assert (np.ptp(factors, axis=1) > 0.02).mean() > 0.9
    assert 0.49 < factors.min() < factors.max() < 1.01


def test_given_pairs_stay_as_they_are():
    config = ColourConfig(prob=1.0, exposure=(0.5, 0.5))
    lq = np.zeros((400, 1, 1, 3), np.uint8)
    np.testing.assert_array_equal(changed(config, lq=lq), IMAGES)
    given = np.arange(400) % 2 == 0
    found = changed(config, lq=lq, given=given)
    np.testing.assert_array_equal(found[given], IMAGES[given])
    assert (found[~given].mean((1, 2, 3)) < 0.6 * IMAGES[~given].mean((1, 2, 3))).all()


def test_settings_that_cannot_be():
    for settings, message in (
        ({"prob": 2.0}, "colours.prob: 2.0 given"),
        ({"exposure": (0.0, 1.0)}, "colours.exposure: .* must be positive"),
        ({"saturation": (2.0, 1.0)}, "colours.saturation: .* the smaller one first"),
    ):
        with pytest.raises(ConfigError, match=message):
            ColourConfig(**settings)
