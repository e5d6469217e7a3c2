"""Distillation into one step: the published teacher, losses and gradient, and whole runs of it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    MINI_UNET,
    MINI_VQ,
    assert_close,
    golden,
    jit,
    manifest_state,
    save_model,
    stored,
    variables_of,
)
from runs import (
    SMALLEST,
    TINY,
    assert_same_run,
    save_photos,
    start_training,
    train,
    wait_for,
)

from resshift_jax.cli import export, restore
from resshift_jax.config import ModelConfig
from resshift_jax.data.config import CropConfig, DataConfig
from resshift_jax.degradation.pairs import Pair
from resshift_jax.latent_model import LatentModel, flatten
from resshift_jax.settings import ConfigError
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.config_file import find_config, read_config
from resshift_jax.training.dry_run import describe
from resshift_jax.training.gradients import draw
from resshift_jax.training.losses import LossConfig, sample_losses, teacher_of
from resshift_jax.training.weights import load_init, load_teacher
from resshift_jax.weights import store
from resshift_jax.weights.mapping import to_torch, unet_rules
from resshift_jax.weights.zoo import FIFTEEN_STEPS, ONE_STEP, released_config

STUDENT = ModelConfig(task="sinsr", chain=ONE_STEP, unet=MINI_UNET, first_stage=MINI_VQ)
SINSR = LossConfig(
    weights={"distill": 1.0, "inverse": 1.0, "ground_truth": 1.0}, teacher="teacher.pth",
    teacher_model=replace(STUDENT, task="realsrx4", chain=FIFTEEN_STEPS), remat=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def published():
    params = variables_of(stored(manifest_state("unet")), MINI_UNET)["params"]
    stage = variables_of(stored(manifest_state("autoencoder")), MINI_VQ)["params"]
    return golden("mini_sinsr_training"), params, {"first_stage": stage, "teacher": params}


def test_the_published_teacher(published):
    expected, params, frozen = published
    teacher = teacher_of(LatentModel(STUDENT), SINSR)

    @jit
    def run(params, lq, noise):
        cond = teacher.condition(lq, None)
        params = {"unet": params, **frozen}
        z_y = teacher.encode_lq(params, cond)
        chain = teacher.chain(sampler="deterministic")
        return chain.trajectory(teacher.denoiser(params, cond), z_y, noise=lambda _: noise)

    went = run(params, expected["lq"], expected["noise"])
    assert_close(went.x_T, expected["x_T"], 2e-5)
    assert_close(went.samples[:-2], expected["teacher_samples"][:-2], 2e-5)
    assert_close(went.samples[-2:], expected["teacher_samples"][-2:], 4e-5)


@pytest.mark.slow
def test_the_published_losses_and_gradient(published):
    expected, params, frozen = published
    pair = Pair(jnp.asarray(expected["gt"]), jnp.asarray(expected["lq"]))
    t = jnp.full(2, 14)

    def mean_loss(params):
        total, terms, _ = sample_losses(
            LatentModel(STUDENT), params, frozen, pair, t, expected["noise"], loss=SINSR
        )
        return total.mean(), (total, terms)

    grads, (total, terms) = jit(jax.grad(mean_loss, has_aux=True))(params)
    for name, values in (*terms.items(), ("total", total)):
        difference = np.abs(values / expected[f"loss:{name}"] - 1).max()
        print(f"{name}: {difference:.2g} relative")
        assert difference <= 1e-5, name
    flat = {name: np.asarray(value) for name, value in flatten(grads).items()}
    norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in flat.values()))
    print(f"norm of the gradient: {abs(norm / expected['grad_global_norm'] - 1):.2g} relative")
    assert abs(norm / expected["grad_global_norm"] - 1) <= 1e-4
    ours = to_torch(flat, unet_rules(MINI_UNET))
    for name in (key for key in expected if key.startswith("grad:")):
        greatest = np.abs(expected[name]).max()
        assert np.abs(ours[name.removeprefix("grad:")] - expected[name]).max() <= 1e-4 * greatest


# The smallest model, in one step.
ONE = (*SMALLEST, "model.chain.sampler=one_step")
TAUGHT = "loss={weights: {distill: 1, inverse: 1, ground_truth: 1}, teacher: %s}"


def test_a_teacher_in_pixels_of_another_target(tmp_path):
    """What it samples is clipped, what the student predicts is not: x_T lies beyond the pixels'."""
    student = read_config(TINY, [*ONE, TAUGHT % "teacher.safetensors"]).model
    model = replace(student, chain=replace(student.chain, sampler="ancestral", target="x0"))
    path = save_model(tmp_path / "teacher.safetensors", model)
    config = read_config(TINY, [*ONE, TAUGHT % path])
    teacher = load_teacher(config)
    assert teacher.model == model
    loss = replace(config.loss, teacher_model=teacher.model)
    params = load_init(config, teacher)
    rng = np.random.default_rng(0)
    hq, lq = (jnp.asarray(rng.uniform(-1, 1, (2, n, n, 3)), jnp.float32) for n in (32, 8))
    noise = 9 * jnp.asarray(rng.standard_normal((2, 8, 8, 48)), jnp.float32)
    call = jit(partial(sample_losses, LatentModel(config.model), loss=loss, with_image=True))
    frozen = {"first_stage": {}, "teacher": params}
    total, terms, image = call(params, frozen, Pair(hq, lq), jnp.full(2, 1), noise)
    assert np.isfinite(total).all()
    assert np.abs(image).max() <= 1
    # The inverse term, by hand: t is the first time-step, the input is scaled as x_T.
    latent = LatentModel(teacher.model)
    chain, cond = latent.chain(sampler="deterministic"), latent.condition(lq, None)
    z_y = latent.encode_lq(frozen, cond)
    denoise = latent.denoiser({"unet": params}, cond)
    went = jit(lambda: chain.trajectory(denoise, z_y, noise=lambda _: noise))()
    taught = went.samples[-1]
    assert np.abs(taught).max() <= 1
    assert np.abs(went.x_T).max() > 2
    scaled = chain.scale_input(taught, 1)
    output = jit(latent.predict)({"unet": params}, scaled, jnp.zeros(2, jnp.int32), cond)
    expected = jnp.square(z_y - output - went.x_T).mean((1, 2, 3))
    np.testing.assert_allclose(terms["inverse"], expected, rtol=1e-4)


def test_where_a_teacher_comes_from(tmp_path, mini_files, caplog, monkeypatch):
    """A file tells its model; a student of another network starts from random parameters."""
    config = read_config(TINY, [*ONE, TAUGHT % (tmp_path / "absent.safetensors")])
    with pytest.raises(FileNotFoundError, match="absent"):
        load_teacher(config)
    path = save_model(tmp_path / "teacher.safetensors", config.model)
    config = read_config(TINY, [*ONE, TAUGHT % path])
    teacher = load_teacher(config)
    copied = flatten(load_init(config, teacher))
    assert all((copied[name] == value).all() for name, value in teacher.params.items())
    larger = read_config(TINY, [*ONE, TAUGHT % path, "model.unet.swin_depth=2"])
    with caplog.at_level("INFO", "resshift_jax"):
        assert load_init(larger, teacher) is None
    assert "random parameters" in caplog.messages[-1]
    # A released one is asked for by name, as the first stage is.
    asked = []

    def load_released(*names):
        asked.append(names)
        return store.load(path)

    monkeypatch.setattr("resshift_jax.training.weights.load_released", load_released)
    for name in ("resshift_realsrx4_s15", "resshift_realsrx4_s4_v3.pth"):
        load_teacher(read_config(TINY, [*ONE, TAUGHT % name]))
    assert asked == [("realsrx4", "v2"), ("realsrx4", "v3")]
    # A .pth of no known name needs the configuration of its model.
    own = replace(SINSR, teacher=str(mini_files["unet"]))
    crop = CropConfig(size=64)
    found = load_teacher(TrainingConfig(model=STUDENT, data=DataConfig(crop=crop), loss=own))
    assert found.model == SINSR.teacher_model
    expected = variables_of(stored(manifest_state("unet")), MINI_UNET)["params"]
    assert found.params.keys() == flatten(expected).keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([TAUGHT % "null"], "loss.teacher: None given, but distill, inverse, ground_truth of"),
        (["loss.teacher=a.pth"], "loss.teacher: a.pth given, but none of loss.weights"),
        ([TAUGHT % "a.pth", "model.chain.sampler=ancestral"], "a.pth given, but the student's"),
        (["model.chain.target=epsilon"], "model.chain.target: epsilon given, but of a draw"),
        (["timestep_weights=[1, 1]"], "a model of one step is trained at the last"),
        (["timestep_weights=[1]"], "timestep_weights: .* but chain.num_timesteps is 2"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        read_config(TINY, [*ONE, *settings])


def test_a_teacher_of_another_latent_is_refused(tmp_path):
    config = read_config(TINY, [*ONE, TAUGHT % "a.safetensors"])
    other = replace(config.model, chain=replace(config.model.chain, kappa=0.9))
    with pytest.raises(ConfigError, match=r"loss.teacher: its model has chain.kappa=0.9, .* 0.3"):
        replace(config, loss=replace(config.loss, teacher_model=other))


def test_time_steps_as_a_distribution():
    config = read_config(TINY, [*SMALLEST, "model.chain.num_timesteps=4",
                                "timestep_weights=[1, 0, 0, 3]"])  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 2000)
    counts = np.bincount(jax.vmap(partial(draw, config))(keys)[0], minlength=4)
    assert counts[1] == counts[2] == 0
    assert abs(counts[3] / 2000 - 0.75) < 0.05
    assert read_config(TINY, ONE).timestep_probs == (0.0, 1.0)
    assert read_config(TINY, SMALLEST).timestep_probs is None


def test_what_is_trained_does_not_depend_on_the_steps_that_are_sampled():
    """With sampling_steps, too, t means the same time-steps, of the whole schedule."""
    model = LatentModel(read_config(TINY, SMALLEST).model)
    chain = model.config.chain
    fewer = LatentModel(replace(model.config, chain=replace(chain, sampling_steps=1)))
    np.testing.assert_array_equal(
        fewer.training_chain().schedule.etas, model.training_chain().schedule.etas
    )


def test_the_published_recipe_and_what_it_costs():
    config = read_config(find_config("sinsr_x4"))
    assert config.model == released_config("SinSR_v1")  # so that it converts to one
    assert config.loss.of("teacher") == {"distill": 1.0, "inverse": 1.0, "ground_truth": 1.0}
    assert (config.train_steps, config.optimizer.learning_rate) == (30_000, 5e-5)
    assert teacher_of(LatentModel(config.model), config.loss).config.chain.num_timesteps == 15
    text = describe(read_config(TINY, [*ONE, TAUGHT % "a.safetensors"]), jax.devices()[:1])
    (time,) = (line for line in text.splitlines() if line.startswith("time:"))
    assert "chip-hours" in time
    assert "teacher:     a.safetensors" in text


@pytest.mark.slow
def test_a_run_that_is_killed_ends_the_same(tmp_path):
    """Bit for bit, with a teacher, a discriminator, changes of colour and given pairs."""
    photos, cache = save_photos(tmp_path / "photos"), tmp_path / "cache"
    given, lq = (save_photos(tmp_path / name, 3, side) for name, side in (("hq", 40), ("lq", 10)))
    config = read_config(TINY, ONE)
    whole = replace(config.model, chain=replace(config.model.chain, sampler="ancestral"))
    teacher = save_model(tmp_path / "teacher.safetensors", whole)
    settings = (
        "model.chain.sampler=one_step",
        "train_steps=24",
        TAUGHT % teacher,
        f"data.sources=[{{path: {photos}, weight: 2}}, {{path: {given}, lq: {lq}, weight: 1}}]",
        "discriminator={weight: 0.1, base_channels: 8, strided: 1, start: 4, adaptive: true}",
        "colours={prob: 0.5, exposure: [0.3, 1.2]}",
    )
    train("--workdir", tmp_path / "whole", *settings, cache=cache)
    folder = tmp_path / "run"
    process = start_training("--workdir", folder, *settings, cache=cache)
    wait_for(process, folder / "checkpoints" / "8")
    process.kill()
    process.communicate()
    teacher.unlink()  # it is kept with the run
    train("--workdir", folder, *settings, cache=cache)
    assert_same_run(tmp_path / "whole", folder, ("params", "ema", "optimizer", "discriminator"))
    out = tmp_path / "student.safetensors"
    assert export.main([str(folder), str(out)]) == 0
    assert store.load(out)[0].chain.is_one_step
    assert restore.main(["-i", str(lq), "-o", str(tmp_path / "out"), "--weights", str(out)]) == 0
