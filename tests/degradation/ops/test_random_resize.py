"""Resizing by random factors against the published operators, and how often each is drawn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, golden
from data_checks import assert_even, assert_share, on_larger_canvas

from resshift_jax.degradation.config import TEST_SET, RealEsrganConfig
from resshift_jax.degradation.ops import resize
from resshift_jax.degradation.ops.canvas import from_image, to_image
from resshift_jax.degradation.ops.draws import with_numbers

TRAINING = RealEsrganConfig()
NAMES = {resize.AREA: "area", resize.BILINEAR: "bilinear", resize.BICUBIC: "bicubic"}

resize_by = jax.jit(resize.resize_by, static_argnums=3)
resize_to = jax.jit(resize.resize_to, static_argnums=3)


def image_canvas(larger: bool):
    canvas = from_image(jnp.asarray(golden("degradation_ops")["image"]))
    return on_larger_canvas(canvas) if larger else canvas


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("mode", resize.MODES, ids=NAMES.get)
def test_the_published_resizing(mode, larger):
    ops = golden("degradation_ops")
    canvas = image_canvas(larger)
    for factor in (0.37, 0.73, 1.31):
        expected = ops[f"resize:{NAMES[mode]}_{factor}"][0]
        found = resize_by(canvas, jnp.float32(factor), jnp.int32(mode), (144, 176))
        assert (found.height, found.width) == expected.shape[:2]
        height, width = expected.shape[:2]
        assert_close(to_image(found)[:height, :width], expected, 2e-5)
        assert not to_image(found)[height:].any()
    found = resize_to(canvas, (24, 32), jnp.int32(mode), (24, 32))
    assert_close(to_image(found), ops[f"resize:{NAMES[mode]}_to_24x32"][0], 1e-6)


@pytest.mark.parametrize("mode", resize.MODES, ids=NAMES.get)
def test_a_mode_that_is_not_drawn(mode):
    found = resize.resize_to(image_canvas(False), (24, 32), mode, (24, 32))
    expected = golden("degradation_ops")[f"resize:{NAMES[mode]}_to_24x32"][0]
    assert_close(to_image(found), expected, 1e-6)


@pytest.mark.parametrize("mode", resize.MODES, ids=NAMES.get)
def test_the_same_size_is_the_image_itself(mode):
    canvas = image_canvas(True)
    found = resize_by(canvas, jnp.float32(1), jnp.int32(mode), (96, 128))
    assert_close(to_image(found), golden("degradation_ops")["image"], 1e-6)


@pytest.mark.parametrize(
    "config",
    [
        TRAINING.first_round.resize,
        TRAINING.second_round.resize,
        TEST_SET.first_round.resize,
    ],
    ids=["first", "second", "test set"],
)
def test_statistics(config):
    keys = jax.random.split(jax.random.key(3), 2000)
    drawn = jax.vmap(lambda key: with_numbers(key, partial(resize.draw_resize, config=config)))(
        keys
    )
    factor, mode = np.asarray(drawn.factor), np.asarray(drawn.mode)
    assert_share(factor > 1, config.up_prob)
    assert_share(factor < 1, config.down_prob)
    assert_share(factor == 1, 1 - config.up_prob - config.down_prob)
    assert_even(factor[factor > 1], config.up)
    assert_even(factor[factor < 1], config.down)
    for each in resize.MODES:
        assert_share(mode == each, 1 / 3)
        assert_share(mode[factor < 1] == each, 1 / 3)
        assert_even(factor[(factor < 1) & (mode == each)], config.down)
