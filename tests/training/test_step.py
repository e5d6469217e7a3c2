"""The compiled step: what it draws, skips, averages and leaves alone."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_checks import assert_even
from runs import SMALLEST, TINY

from resshift_jax.degradation.pairs import Pair
from resshift_jax.latent_model import LatentModel
from resshift_jax.platform import COMPUTE_DTYPES, Compute
from resshift_jax.settings import ConfigError
from resshift_jax.training.config_file import read_config
from resshift_jax.training.gradients import draw
from resshift_jax.training.mesh import make_mesh, require_divisible, spec_of
from resshift_jax.training.optimizer import AdamWConfig, learning_rate
from resshift_jax.training.state import abstract_state, init_state, sharded_init
from resshift_jax.training.step import (
    TIME_GROUPS,
    by_group,
    make_prepare,
    make_step,
    sample_keys,
    update,
)

CONFIG = read_config(TINY, [*SMALLEST, "ema=0.9", "optimizer.warmup=4"])
MODEL = LatentModel(CONFIG.model)
MESH = make_mesh(jax.devices()[:1])


@cache
def program(micro_batches: int = 1):
    return make_step(replace(CONFIG, micro_batches=micro_batches), MODEL, MESH)


@cache
def pairs() -> Pair:
    hq = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return make_prepare(CONFIG, MESH)(0, {"hq": hq})


@cache
def initial():
    return jax.tree.map(np.asarray, sharded_init(CONFIG, MESH))


def first_state():
    """Fresh arrays, which a step consumes."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(CONFIG, MESH))
    return jax.tree.map(jax.device_put, initial(), shardings)


def step(state, pairs, micro_batches: int = 1):
    return program(micro_batches)(state, {"first_stage": {}}, pairs)


def assert_same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_step_moves_the_parameters_and_their_average():
    before = first_state()
    after, metrics = step(first_state(), pairs())
    assert int(after.step) == 1
    assert float(metrics.learning_rate) == pytest.approx(CONFIG.optimizer.learning_rate / 4)
    for p, q, ema in zip(*map(jax.tree.leaves, (before.params, after.params, after.ema)),
                         strict=True):  # fmt: skip
        np.testing.assert_allclose(ema, 0.9 * p + 0.1 * q, rtol=1e-6, atol=1e-8)
    # AdamW's first step is the learning rate, up or down, whatever the gradient.
    moves = np.concatenate([
        np.abs(q - p).ravel()
        for p, q in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)
    ])  # fmt: skip
    moved = moves[moves > 0]  # behind convolutions that start as zero nothing moves at first
    assert moved.size > 1000
    assert np.median(moved) == pytest.approx(float(metrics.learning_rate), rel=1e-3)
    assert moves.max() <= float(metrics.learning_rate) * 1.01
    assert float(metrics.loss) == pytest.approx(float(metrics.terms["mse"]))
    counts = np.asarray(metrics.group_count)
    assert counts.sum() == 4
    assert (counts * metrics.group_loss).sum() / 4 == pytest.approx(float(metrics.loss), rel=1e-5)


def test_parts_of_a_batch_add_up_to_it():
    whole, metrics = step(first_state(), pairs())
    parts, of_parts = step(first_state(), pairs(), micro_batches=2)
    np.testing.assert_allclose(of_parts.loss, metrics.loss, rtol=1e-5)
    np.testing.assert_allclose(of_parts.grad_norm, metrics.grad_norm, rtol=1e-4)
    assert_same(of_parts.group_count, metrics.group_count)
    for a, b in zip(*map(jax.tree.leaves, (whole.optimizer, parts.optimizer)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_bfloat16_computes_nearly_the_same():
    """With parameters, moments and losses in float32."""
    half = make_step(CONFIG, replace(MODEL, compute=Compute(COMPUTE_DTYPES["bfloat16"])), MESH)
    state, metrics = half(first_state(), {"first_stage": {}}, pairs())
    _, expected = step(first_state(), pairs())
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves((state, metrics)))
    assert float(metrics.loss) == pytest.approx(float(expected.loss), rel=0.02)
    assert float(metrics.grad_norm) == pytest.approx(float(expected.grad_norm), rel=0.05)
    assert float(metrics.loss) != float(expected.loss)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    broken = pairs()._replace(lq=pairs().lq.at[1, 2, 3, 0].set(jnp.nan))
    state, metrics = step(step(first_state(), pairs())[0], broken)
    assert not np.isfinite(metrics.loss)
    expected = step(first_state(), pairs())[0]
    assert_same(state.params, expected.params)
    assert_same(state.ema, expected.ema)
    assert_same(state.optimizer, expected.optimizer)
    assert [int(x) for x in (state.step, state.skipped, state.skipped_in_a_row)] == [2, 1, 1]
    state, metrics = step(state, pairs())
    assert [int(x) for x in (state.step, state.skipped, state.skipped_in_a_row)] == [3, 1, 0]
    assert int(metrics.skipped) == 1


def test_clipping_bounds_the_gradient_and_decay_shrinks_weights():
    """Of one weight, where Adam's first step is the sign of the gradient."""
    config = replace(
        CONFIG,
        optimizer=AdamWConfig(learning_rate=0.1, warmup=0, clip_norm=1.0, weight_decay=0.5),
    )
    state = init_state(config, {"w": jnp.array([2.0])})
    state, norm, _ = update(config, state, {"w": jnp.array([30.0])}, jnp.float32(1))
    assert norm == 30
    np.testing.assert_allclose(state.params["w"], 2 - 0.1 * (1 + 0.5 * 2), rtol=1e-6)
    np.testing.assert_allclose(state.optimizer.mean["w"], 0.1 * 1.0, rtol=1e-6)


def test_draws_are_functions_of_seed_step_and_index():
    config = read_config(TINY, [*SMALLEST, "model.chain.num_timesteps=15"])
    sample = jax.vmap(partial(draw, config))
    keys = sample_keys(7, jnp.int32(5), 4096)
    t, noise, offset = sample(keys)
    assert_same(sample(sample_keys(7, jnp.int32(5), 100)), (t[:100], noise[:100], offset[:100]))
    for other in (sample_keys(8, jnp.int32(5), 100), sample_keys(7, jnp.int32(6), 100)):
        assert (sample(other)[1] != noise[:100]).all()
        assert (sample(other)[2] != offset[:100]).all()
    counts = np.bincount(t, minlength=15)
    assert counts.size == 15
    expected = 4096 / 15
    assert ((counts - expected) ** 2 / expected).sum() < 36.1  # chi^2 of 14 at 0.1 %
    assert abs(float(noise.mean())) < 4 / np.sqrt(noise.size)
    assert abs(float(noise.std()) - 1) < 4 / np.sqrt(2 * noise.size)
    assert_even(offset[:, 0], (0, 1))
    assert_even(offset[:, 1], (0, 1))
    assert abs(np.corrcoef(offset.T)[0, 1]) < 4 / np.sqrt(4096)


def test_losses_by_groups_of_steps():
    loss, t = jnp.array([1.0, 3.0, 5.0, 7.0]), jnp.array([0, 3, 4, 14])
    mean, count = by_group(loss, t, 15)
    assert len(mean) == TIME_GROUPS
    np.testing.assert_array_equal(count, [2, 1, 0, 1])
    np.testing.assert_array_equal(mean, [2, 5, 0, 7])


def test_the_published_learning_rate():
    """As published, but for a first step at the full rate, which was an accident."""
    constant = AdamWConfig(learning_rate=5e-5, warmup=5000)
    cosine = replace(constant, decay="cosine", final_learning_rate=2e-5)

    def rate(config, n):  # of update number n
        return float(learning_rate(config, n - 1, 400_000))

    for config in (constant, cosine):
        assert rate(config, 1) == pytest.approx(5e-5 / 5000)
        assert rate(config, 2500) == pytest.approx(2.5e-5)
        assert rate(config, 5000) == pytest.approx(5e-5)
    assert rate(constant, 400_000) == pytest.approx(5e-5)
    for n in (5001, 100_000, 202_500, 399_999):
        published = 2e-5 + 1.5e-5 * (1 + np.cos(np.pi * (n - 5001) / (400_000 - 5000)))
        assert rate(cosine, n) == pytest.approx(published, rel=1e-4)
    assert rate(cosine, 400_000) == pytest.approx(2e-5, rel=1e-4)


def test_what_is_divided_among_devices():
    assert tuple(spec_of((3, 3, 128, 256), 4)) == (None, None, None, "fsdp")
    assert tuple(spec_of((3, 3, 256, 126), 4)) == (None, None, "fsdp")
    assert tuple(spec_of((256,), 4)) == ()  # too small
    assert tuple(spec_of((255, 257), 4)) == ()  # cannot be
    assert tuple(spec_of((512, 512), 1)) == ()
    require_divisible(64, 2, 8)
    with pytest.raises(ConfigError, match=r"batch_size: 60 given, which 8 devices .* give 64"):
        require_divisible(60, 1, 8)
    with pytest.raises(ConfigError, match=r"mesh\.fsdp: 3 given, must divide 1 devices"):
        make_mesh(jax.devices()[:1], 3)
