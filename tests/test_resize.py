"""Resizing by fixed factors against the programs that it follows, and its simple facts."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, golden

from resshift_jax.degradation.bicubic import BicubicConfig, reduce_bicubic
from resshift_jax.resize import resize_matlab, resize_opencv, upsample_bicubic


def test_the_published_enlargement():
    stored = golden("degradation_ops")
    image = jnp.asarray(stored["image"])[None, :32, :48]
    assert_close(upsample_bicubic(image, 4), stored["upsample_x4_bicubic"], 1e-6)


def test_scale_1_is_the_image_itself():
    image = jnp.asarray(np.random.default_rng(0).random((2, 5, 7, 3)))
    assert upsample_bicubic(image, 1) is image


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 7)])
def test_constants_stay_and_sizes_multiply(scale, shape):
    image = jnp.full((2, *shape, 3), 0.3)
    large = upsample_bicubic(image, scale)
    expected = np.full((2, scale * shape[0], scale * shape[1], 3), 0.3)
    assert_close(large, expected, 2e-7)
    assert_close(resize_matlab(image, scale), expected, 2e-7)
    assert_close(resize_opencv(image, expected.shape[1:3]), expected, 2e-7)


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
    matlab = resize_matlab(ramp, scale)[0, inner, 0, 0]
    assert_close(matlab, expected[inner], 2e-6)
    opencv = resize_opencv(ramp, (12 * scale, 12 * scale))[0, inner, 0, 0]
    assert_close(opencv, rows, 2e-6)


def test_matlab():
    stored = golden("resize_metrics")
    image = stored["image"][None].astype(np.float32) / 255
    small = stored["matlab_bicubic_x0.25"]
    assert_close(resize_matlab(image, 0.25)[0], small, 1e-6)
    assert_close(resize_matlab(small[None, :24, :20], 4)[0], stored["matlab_bicubic_x4"], 1e-6)
    odd = resize_matlab(image[:, :101, :75], 0.5)[0]
    assert_close(odd, stored["matlab_bicubic_x0.5_101x75"], 1e-6)


def test_opencv_within_a_grey_level():
    stored = golden("resize_metrics")
    found = resize_opencv(stored["image"][None].astype(np.float32), (64, 64))[0]
    found = np.clip(np.round(found), 0, 255)
    expected = stored["opencv_cubic_x0.25"].astype(np.float32)
    assert_close(found, expected, 1)
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("uint8", [False, True])
def test_reduction_of_a_batch(uint8):
    stored = golden("resize_metrics")
    images = np.stack([stored["image"], stored["image"][::-1]])
    images = jnp.asarray(images if uint8 else images / np.float32(255))
    matlab = reduce_bicubic(images, BicubicConfig(method="matlab"))
    assert_close(matlab[0], stored["matlab_bicubic_x0.25"], 1e-6)
    assert_close(matlab[1], stored["matlab_bicubic_x0.25"][::-1], 1e-6)
    opencv = reduce_bicubic(images, BicubicConfig(method="opencv"))
    assert_close(opencv[0], stored["opencv_cubic_x0.25"] / 255, 1.001 / 255)
    assert reduce_bicubic(images[:, :254, :253], BicubicConfig(scale=2)).shape == (2, 127, 127, 3)
