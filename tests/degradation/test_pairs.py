"""Training pairs of every kind: shapes, ranges, masks; and what a row of the table says."""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close

from resshift_jax.degradation.pairs import (
    DEGRADATIONS,
    Degradation,
    DegradationSettings,
    Pair,
    make_pairs,
)
from resshift_jax.settings import ConfigError

KEYS = jax.random.split(jax.random.key(0), 2)
CROPS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_pairs_of_every_kind(kind):
    row = DEGRADATIONS[kind]
    config = row.settings()
    side = 64 // config.scale
    crops = {"hq": jax.numpy.asarray(CROPS)}
    if row.takes_pairs:
        crops["lq"] = crops["hq"][:, ::4, ::4]
    pair = jax.jit(lambda keys, crops: make_pairs(keys, crops, config))(KEYS, crops)
    assert pair.hq.shape == (2, 64, 64, 3)
    assert pair.lq.shape == (2, side, side, 3)
    assert pair.hq.dtype == pair.lq.dtype == np.float32
    # Compiled, x / 255 is x times the rounded 1 / 255: white is 1.0000001.
    assert np.abs(pair.hq).max() <= 1 + 2e-7
    if kind != "faces":  # some of which are made grey
        assert_close(pair.hq, CROPS / 127.5 - 1, 1e-6)
    assert (pair.mask is not None) == row.draws_masks
    if row.draws_masks:
        assert pair.mask.shape == (2, side, side, 1)
        assert set(np.unique(pair.mask)) == {0, 1}
        np.testing.assert_array_equal(pair.lq, pair.hq)
    if row.takes_pairs:
        np.testing.assert_array_equal(pair.lq, pair.hq[:, ::4, ::4])


def test_some_pairs_are_given():
    config = DEGRADATIONS["bicubic"].settings()
    lq = np.full((2, 16, 16, 3), 7, np.uint8)
    crops = {"hq": CROPS, "lq": lq, "given": np.array([True, False])}
    pair, made = make_pairs(KEYS, crops, config), make_pairs(KEYS, {"hq": CROPS}, config)
    assert_close(pair.lq[0], lq[0] / 127.5 - 1, 1e-6)
    np.testing.assert_array_equal(pair.lq[1], made.lq[1])
    np.testing.assert_array_equal(pair.hq, made.hq)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_row_stands_at_the_kind_of_its_settings(kind):
    config = DEGRADATIONS[kind].settings()
    assert config.kind == kind
    assert isinstance(config, DegradationSettings)


@dataclass(frozen=True)
class NearestConfig:
    """Settings of a toy degradation."""

    kind: Literal["nearest"] = "nearest"
    scale: int = 2


def nearest(keys, crops, config):
    return Pair(crops["hq"], crops["hq"][:, :: config.scale, :: config.scale])


def test_a_degradation_is_one_function_and_one_row(monkeypatch):
    crops = {"hq": jnp.asarray(CROPS)}
    with pytest.raises(ConfigError, match=r"degradation\.kind: nearest: unknown kind, .*bicubic"):
        make_pairs(KEYS, crops, NearestConfig())
    monkeypatch.setitem(DEGRADATIONS, "nearest", Degradation(NearestConfig, nearest))
    for config in (NearestConfig(), replace(NearestConfig(), scale=4)):
        pair = make_pairs(KEYS, crops, config)
        np.testing.assert_array_equal(pair.lq, pair.hq[:, :: config.scale, :: config.scale])
        assert pair.mask is None
