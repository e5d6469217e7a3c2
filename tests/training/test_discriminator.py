"""A discriminator beside a training: its losses and weight, when it learns, on many devices."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import golden
from jax.sharding import PartitionSpec as P
from runs import SMALLEST, TINY

from resshift_jax.latent_model import LatentModel, flatten
from resshift_jax.settings import ConfigError
from resshift_jax.training.config_file import read_config
from resshift_jax.training.discriminator import adaptive_weight, adversarial_error, hinge_loss
from resshift_jax.training.gradients import gradient_of_part
from resshift_jax.training.mesh import make_mesh
from resshift_jax.training.state import sharded_init
from resshift_jax.training.step import make_prepare, make_step

JUDGED = (
    "discriminator.weight=0.5", "discriminator.base_channels=8", "discriminator.strided=1",
)  # fmt: skip


def config_of(*settings: str):
    return read_config(TINY, [*SMALLEST, *JUDGED, *settings])


def start(config, devices=1):
    """The mesh, the state before the first step, and a batch of noise."""
    mesh = make_mesh(jax.devices()[:devices])
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return mesh, sharded_init(config, mesh), make_prepare(config, mesh)(0, {"hq": images})


def steps(config, count=1, devices=1):
    """The metrics of some steps on one batch, and the last state."""
    mesh, state, pairs = start(config, devices)
    step, found = make_step(config, LatentModel(config.model), mesh), []
    for _ in range(count):
        state, metrics = step(state, {"first_stage": {}}, pairs)
        found.append(jax.device_get(metrics))
    return found, jax.device_get(state)


def test_losses_against_the_published_ones():
    expected = golden("mini_vqgan_training")
    for step in ("step1", "step2"):
        real, fake = expected[f"{step}:logits_real"], expected[f"{step}:logits_fake"]
        assert hinge_loss(real, fake) == pytest.approx(expected[f"{step}:d_loss"], rel=1e-6)
        np.testing.assert_allclose(adversarial_error(fake), -fake.mean((1, 2, 3)), rtol=1e-6)


def test_the_adaptive_weight():
    of_others, of_adversarial = jnp.full(4, 3.0), jnp.full(4, 0.5)
    assert adaptive_weight(of_others, of_adversarial) == pytest.approx(6 / 1.0001, rel=1e-6)
    assert adaptive_weight(of_others, 0 * of_adversarial) == 1e4


def test_a_step_with_a_discriminator():
    config = config_of()
    (metrics,), state = steps(config)
    terms = metrics.terms
    assert set(terms) == {"mse", "adversarial", "discriminator"}
    assert metrics.loss == pytest.approx(terms["mse"] + 0.5 * terms["adversarial"], rel=1e-5)
    before = start(config)[1]
    for part in ("params", "discriminator"):
        one, other = (jax.tree.leaves(getattr(s, part)) for s in (before, state))
        assert any((np.asarray(a) != b).any() for a, b in zip(one, other, strict=True)), part
    assert state.discriminator.optimizer.updates == 1


def test_before_its_start_nothing_is_other_than_without():
    late, without = (
        steps(config_of(f"discriminator.{part}"), 3) for part in ("start=2", "weight=0")
    )
    for i in (0, 1):
        assert late[0][i].loss == without[0][i].loss
        assert late[0][i].grad_norm == without[0][i].grad_norm
    assert late[0][2].grad_norm != without[0][2].grad_norm
    assert without[1].discriminator is None
    assert late[1].discriminator.optimizer.updates == 1


def test_an_adaptive_weight_makes_both_gradients_of_the_last_layer_alike():
    config = config_of("discriminator.adaptive=true", "discriminator.weight=1")
    mesh, *made = start(config)
    state, pairs = jax.device_get(made)
    keys = jax.random.split(jax.random.key(0), 4)
    model = LatentModel(config.model)

    def gradients(weight, adaptive):
        settings = replace(config, discriminator=replace(config.discriminator, adaptive=adaptive))
        judge, frozen = state.discriminator.params, {"first_stage": {}}
        compute = jax.shard_map(
            partial(gradient_of_part, settings, model, state.params, judge, jnp.float32(weight)),
            mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False,
        )  # fmt: skip
        return jax.jit(compute)(frozen, pairs, keys)[0]

    apart, alone, together = gradients(1, True), gradients(0, False), gradients(0.3, False)
    both = jax.tree.map(lambda g, a: g + 0.3 * a, apart.params, apart.adversarial)
    norm = optax.tree.norm(apart.params)
    for one, other in ((apart.params, alone.params), (both, together.params)):
        assert optax.tree.norm(jax.tree.map(jnp.subtract, one, other)) <= 1e-5 * norm

    (metrics,), _ = steps(config)
    head, of_gan = (flatten(tree)["conv_out/kernel"] for tree in (apart.params, apart.adversarial))
    weight = (metrics.loss - metrics.terms["mse"]) / metrics.terms["adversarial"]
    print(f"weight {weight:.3g}, of other draws {adaptive_weight(head, of_gan):.3g}")
    assert weight > 0


def compare_devices() -> None:
    """Run where there are four of them."""
    one, four = (steps(config_of(), 2, devices)[0] for devices in (1, 4))
    for a, b in zip(one, four, strict=True):
        for name in a.terms:
            assert b.terms[name] == pytest.approx(a.terms[name], rel=2e-4), name


@pytest.mark.slow
def test_more_devices_change_rounding_alone():
    """The norms of the discriminator see the whole batch, on whichever devices it is."""
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", "import test_discriminator as t; t.compare_devices()"],
        cwd=here, check=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
             "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, here.parents[1])))},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["discriminator.weight=-1"], "discriminator.weight: -1.0 given, 0 or more"),
        (["discriminator.strided=5"], "data.crop.size: 32 given, a discriminator of 5 strided"),
        (["discriminator.optimizer.b1=2"], "optimizer.b1: 2.0 given, 0 to below 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_of(*settings)
