"""The eta schedule against the published coefficients, and which steps respacing keeps."""

import numpy as np
import pytest
from conftest import golden

from resshift_jax.config import ChainConfig
from resshift_jax.schedule import make_schedule
from resshift_jax.weights.zoo import FIFTEEN_STEPS, FOUR_STEPS, ONE_STEP

CONFIGS = {"s15": FIFTEEN_STEPS, "s4": FOUR_STEPS}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("sqrt_etas", "sqrt_etas"),
        ("etas", "etas"),
        ("alphas", "alpha"),
        ("posterior_variance", "posterior_variance"),
        ("posterior_log_variance_clipped", "posterior_log_variance_clipped"),
        ("posterior_mean_coef_xt", "posterior_mean_coef1"),
        ("posterior_mean_coef_x0", "posterior_mean_coef2"),
        ("loss_weight_x0", "weight_loss_mse"),
    ],
)
def test_coefficients_of_the_released_chains(name, ours, theirs):
    found = getattr(make_schedule(CONFIGS[name]), ours)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, golden("schedules")[f"{name}:{theirs}"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [2, 4, 15, 1000])
def test_ends_of_the_schedule(steps):
    schedule = make_schedule(ChainConfig(num_timesteps=steps, min_noise_level=0.04, kappa=2.0))
    assert schedule.sqrt_etas[0] == pytest.approx(0.02, rel=1e-12)
    assert schedule.sqrt_etas[-1] == pytest.approx(0.99, rel=1e-12)
    assert (schedule.alphas > 0).all()
    assert schedule.alphas.sum() == pytest.approx(schedule.etas[-1], rel=1e-12)


def test_kappa_below_one_leaves_the_least_noise_level_alone():
    assert make_schedule(ChainConfig(kappa=0.5)).sqrt_etas[0] == pytest.approx(0.04, rel=1e-12)


def test_the_epsilon_weight_is_the_x0_weight_of_the_error_it_makes():
    schedule = make_schedule(FIFTEEN_STEPS)
    # An error d of epsilon moves x_0 by kappa sqrt(eta) / (1 - eta) d.
    moved = schedule.kappa * schedule.sqrt_etas / (1 - schedule.etas)
    np.testing.assert_allclose(
        schedule.loss_weight_epsilon, schedule.loss_weight_x0 * moved**2, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("kept", "timesteps"),
    [
        (5, [0, 3, 6, 9, 12]),
        (4, [0, 3, 7, 11]),
        (1, [14]),
        (15, range(15)),
        (20, range(15)),
        (None, range(15)),
    ],
)
def test_fewer_steps_keep_the_published_indices(kept, timesteps):
    schedule = make_schedule(FIFTEEN_STEPS, kept)
    assert schedule.timesteps.tolist() == list(timesteps)
    whole = make_schedule(FIFTEEN_STEPS)
    np.testing.assert_array_equal(schedule.etas, whole.etas[schedule.timesteps])
    assert schedule.alphas.sum() == pytest.approx(schedule.etas[-1], rel=1e-12)


def test_one_step_keeps_the_last_index_alone():
    schedule = make_schedule(ONE_STEP, 1)
    assert schedule.timesteps.tolist() == [14]
    assert schedule.posterior_mean_coef_x0.tolist() == [1.0]
    assert schedule.posterior_mean_coef_xt.tolist() == [0.0]
    assert schedule.posterior_variance.tolist() == [0.0]
    assert np.isfinite(schedule.posterior_log_variance_clipped).all()


@pytest.mark.parametrize("kept", [0, -3])
def test_no_steps_are_refused(kept):
    with pytest.raises(ValueError, match=f"sampling_steps={kept}: at least 1"):
        make_schedule(FOUR_STEPS, kept)
