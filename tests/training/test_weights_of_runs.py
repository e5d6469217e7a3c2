"""Weights into a run and out of it: what training starts from, and the file that it ends in."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from conftest import (
    MINI_UNET,
    MINI_VQ,
    TINY,
    TINY_VQ,
    manifest_state,
    save_model,
    stored,
    variables_of,
)
from PIL import Image

import sample
from resshift_jax.cli import export
from resshift_jax.config import ModelConfig
from resshift_jax.data.config import CropConfig, DataConfig
from resshift_jax.degradation.config import RealEsrganConfig
from resshift_jax.latent_model import LatentModel, flatten
from resshift_jax.settings import ConfigError, to_dict
from resshift_jax.training.checkpoints.checkpoint import Checkpoints
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.config_file import read_config
from resshift_jax.training.losses import LossConfig
from resshift_jax.training.state import init_state
from resshift_jax.training.weights import (
    CHECKPOINTS,
    keep_frozen,
    load_frozen,
    load_init,
    read_ema,
)
from resshift_jax.weights import store, zoo

MINI = ModelConfig("mini", 4, zoo.FIFTEEN_STEPS, MINI_UNET, MINI_VQ)
CONFIG = TrainingConfig(
    model=replace(TINY, task="mine"),
    data=DataConfig(crop=CropConfig(size=16)),
    degradation=RealEsrganConfig(scale=2),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A model with its first stage."""
    return save_model(tmp_path_factory.mktemp("weights") / "model.safetensors", CONFIG.model)


@pytest.fixture(scope="module")
def run(file, tmp_path_factory) -> Path:
    """The folder of a run that began from that file, with one checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    config = replace(CONFIG, init=str(file))
    state = init_state(config, load_init(config))
    state = state._replace(params={"none": np.zeros(1, np.float32)})
    keep_frozen(folder, flatten(load_frozen(config, folder)["first_stage"]), None)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    checkpoints.save(7, state, {"config": to_dict(config)})
    checkpoints.wait()
    checkpoints.close()
    return folder


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_run_starts_from_a_file_or_from_another_run(file, run):
    _, params = store.load(file)
    for init in (file, run):
        assert_same(flatten(load_init(replace(CONFIG, init=str(init)))), params["unet"])
    assert load_init(CONFIG) is None


def test_a_run_starts_from_a_released_file(mini_files):
    config = replace(CONFIG, model=MINI, data=DataConfig(crop=CropConfig(size=64)),
                     degradation=RealEsrganConfig())  # fmt: skip
    loaded = load_init(replace(config, init=str(mini_files["unet"])))
    frozen = load_frozen(
        replace(config, first_stage_weights=str(mini_files["autoencoder"])), Path("absent")
    )
    expected = variables_of(stored(manifest_state("unet")), MINI.unet)["params"]
    assert_same(flatten(loaded), flatten(expected))
    stage = variables_of(stored(manifest_state("autoencoder")), MINI.first_stage)["params"]
    assert_same(flatten(frozen["first_stage"]), flatten(stage))


def test_another_network_is_refused(file, run):
    other = replace(CONFIG.model, unet=replace(CONFIG.model.unet, swin_depth=2))
    for init in (file, run):
        with pytest.raises(
            ConfigError,
            match=r"init: .* another network, with model\.unet\.swin_depth=1, here it is 2",
        ):
            load_init(replace(CONFIG, model=other, init=str(init)))


def test_a_pixel_head_may_grow(tmp_path, caplog):
    config = read_config(runs.TINY, [*runs.SMALLEST, "model.unet.pixel_channels=8"])
    file = tmp_path / "model.safetensors"
    params = flatten(LatentModel(config.model).init(jax.random.key(1)))
    store.save(file, config.model, {"unet": params, "first_stage": {}})
    grown = replace(config.model.unet, pixel_blocks=2)
    config = replace(config, init=str(file), model=replace(config.model, unet=grown))
    with caplog.at_level("INFO", "resshift_jax"):
        found = flatten(load_init(config))
    assert "fewer pixel_blocks" in caplog.messages[-1]
    before = store.load(file)[1]["unet"]
    assert_same({name: found[name] for name in before}, before)
    assert {name.split("/")[1][:5] for name in found.keys() - before.keys()} == {"block"}


def test_the_first_stage_stays_with_the_run(run):
    """Although the file that it came from is not named, and another may be in the cache."""
    kept = flatten(load_frozen(CONFIG, run)["first_stage"])
    assert_same(kept, store.read_tensors(run / "first_stage.safetensors"))
    other = replace(CONFIG.model, first_stage=replace(TINY_VQ, codebook_size=32))
    with pytest.raises(ConfigError, match=r"first_stage\.safetensors: not the first stage"):
        load_frozen(replace(CONFIG, model=other), run)


def test_lpips_comes_with_the_loss(run):
    config = replace(CONFIG, loss=LossConfig({"lpips_vgg": 1.0}, vgg_weights="absent.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt"):
        load_frozen(config, run)


def test_what_is_exported_is_sampled_from(file, run, tmp_path, capsys):
    assert export.main([str(run), str(tmp_path / "out.safetensors")]) == 0
    assert "after 7 steps" in capsys.readouterr().out
    model, params = store.load(tmp_path / "out.safetensors")
    assert model == CONFIG.model
    original = store.load(file)[1]
    for part in ("unet", "first_stage"):
        assert_same(params[part], original[part])
    notes = store.load_notes(tmp_path / "out.safetensors")
    assert notes == {"weights": f"the EMA of {run.name} after 7 steps"}

    assert export.main([str(run), str(tmp_path / "half.safetensors"), "--dtype", "bfloat16"]) == 0
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("out", "half")]
    assert 0.45 < sizes[1] / sizes[0] < 0.7

    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    weights = str(tmp_path / "out.safetensors")
    arguments = ["-i", tmp_path / "grey.png", "-o", tmp_path / "results", "--weights", weights]
    assert sample.main(list(map(str, arguments))) == 0
    assert Image.open(tmp_path / "results" / "grey.png").size == (16, 16)


def test_the_mean_of_a_run_and_of_files_is_exported(file, run, tmp_path, capsys):
    model, params = store.load(file)
    other = {name: value + 1 for name, value in params["unet"].items()}
    moved = tmp_path / "moved.safetensors"
    store.save(moved, model, {**params, "unet": other})
    target = tmp_path / "mean.safetensors"
    assert export.main(list(map(str, [run, moved, moved, target]))) == 0
    words = f"the EMA of {run.name} after 7 steps; moved.safetensors; moved.safetensors"
    assert capsys.readouterr().out == f"{target}: the mean of {words}\n"
    assert store.load_notes(target) == {"weights": words}
    mean = store.load(target)[1]
    for name, value in params["unet"].items():
        np.testing.assert_allclose(mean["unet"][name], value + 2 / 3, rtol=1e-6, atol=1e-6)
    assert_same(mean["first_stage"], params["first_stage"])


def test_no_mean_of_different_models(file, run, tmp_path, capsys):
    model, params = store.load(file)
    steps, stage = tmp_path / "steps.safetensors", tmp_path / "stage.safetensors"
    store.save(steps, replace(model, chain=replace(model.chain, num_timesteps=5)), params)
    moved = {name: value + 1 for name, value in params["first_stage"].items()}
    store.save(stage, model, {**params, "first_stage": moved})
    target = tmp_path / "mean.safetensors"
    for other in (steps, stage):
        assert export.main(list(map(str, [file, run, other, target]))) == 1
        said = capsys.readouterr().err
        assert said == (
            f"error: {other}: not the model and the first stage of {file}, which a mean needs\n"
        )
        assert not target.exists()


def test_export_of_nothing(run, tmp_path, capsys):
    target = str(tmp_path / "out.safetensors")
    assert export.main([str(tmp_path), target]) == 1
    assert "no checkpoints there" in capsys.readouterr().err
    assert export.main([str(tmp_path / "no.safetensors"), target]) == 1
    assert "no.safetensors: no such file" in capsys.readouterr().err
    assert export.main([target, str(run)]) == 1
    assert f"{run}: cannot be written, name a .safetensors file" in capsys.readouterr().err
    assert export.main([str(run), target, "--step", "8"]) == 1
    assert "no checkpoint of step 8; there: 7" in capsys.readouterr().err
    assert not Path(target).exists()
    assert read_ema(run)[0] == 7
