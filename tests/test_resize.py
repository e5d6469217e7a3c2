"""Bicubic enlargement against the published one, and its simple facts."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, golden

from resshift_jax.resize import upsample_bicubic


def test_the_published_enlargement():
    stored = golden("upsample_bicubic")
    assert_close(upsample_bicubic(jnp.asarray(stored["image"])[None], 4), stored["x4"], 1e-6)


def test_scale_1_is_the_image_itself():
    image = jnp.asarray(np.random.default_rng(0).random((2, 5, 7, 3)))
    assert upsample_bicubic(image, 1) is image


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 7)])
def test_constants_stay_and_sizes_multiply(scale, shape):
    image = jnp.full((2, *shape, 3), 0.3)
    large = upsample_bicubic(image, scale)
    assert_close(large, np.full((2, scale * shape[0], scale * shape[1], 3), 0.3), 2e-7)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_ramp_stays_a_ramp_away_from_the_edges(scale):
    ramp = jnp.broadcast_to(jnp.arange(12.0)[:, None, None], (1, 12, 12, 1))
    # Output pixel i lies at (i + 1/2) / scale - 1/2 of the input.
    expected = (np.arange(12 * scale) + 0.5) / scale - 0.5
    inner = slice(2 * scale, -2 * scale)
    rows = upsample_bicubic(ramp, scale)[0, inner, 0, 0]
    columns = upsample_bicubic(ramp.swapaxes(1, 2), scale)[0, 0, inner, 0]
    # The cubic of a = -0.75 bends a ramp a little between pixels; one of a = -0.5 would not.
    assert_close(rows, expected[inner], 0.05)
    assert_close(columns, rows, 2e-6)
