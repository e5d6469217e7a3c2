"""Configurations as they were called before are taken: YAML files, run folders, weight files.

fixtures/configs_before.json has the YAML files, and the resolved configurations that checkpoints
and weight files then held.
"""

import json

import pytest
from conftest import FIXTURES

from resshift_jax.config import model_config
from resshift_jax.settings import ConfigError
from resshift_jax.training.config import RENAMED, what_changed
from resshift_jax.training.config_file import find_config, read_config
from resshift_jax.weights.zoo import RELEASED

BEFORE = json.loads((FIXTURES / "configs_before.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("before")
    for name, text in BEFORE["yaml"].items():
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize("name", BEFORE["training"])
def test_yaml_files(folder, name, caplog):
    config = read_config(folder / f"{name}.yaml")
    now = read_config(find_config(name))
    assert [key for key, *_ in what_changed(now, BEFORE["training"][name])] == (
        ["model.task"] if name == "bicsr_x4_opencv" else []
    )
    if name != "bicsr_x4_opencv":
        assert config == now
    assert any(": steps is called train_steps now" in line for line in caplog.messages)


@pytest.mark.parametrize("release", RELEASED, ids=lambda release: release.file)
def test_headers_of_weight_files(release):
    assert model_config(BEFORE["models"][release.file]) == release.config


def test_settings_of_the_command_line(folder, caplog):
    config = read_config(
        folder / "small_x4.yaml",
        ["steps=7", "loss.gradient=2", "loss.vgg_window=32", "validation.high=a",
         "model.chain.steps=3", "data.sources=[{path: a, low: null}]",
         "degradation.parts=[{second_prob: 0.25}, {}]", "validation.lpips=[vgg]"],
    )  # fmt: skip
    assert config.train_steps == 7
    assert config.loss.weights["edge"] == 2
    assert config.loss.lpips_window == 32
    assert config.validation.hq == "a"
    assert config.validation.metrics == ("psnr_y", "ssim_y", "lpips_vgg")
    assert config.model.chain.num_timesteps == 3
    assert config.degradation.parts[0].second_round_prob == 0.25
    assert "validation.high=a: validation.high is called validation.hq now" in caplog.messages


def test_values_that_cannot_be_understood_are_named_as_they_are_called_now(folder):
    for setting, key in (
        ("model.chain.one_step=7", "model.chain.sampler"),
        ("validation.lpips=5", "validation.metrics"),
        ("degradation.parts=5", "degradation.parts"),
        ("steps=many", "train_steps"),
    ):
        with pytest.raises(ConfigError, match=rf"{key}: "):
            read_config(folder / "small_x4.yaml", [setting])


def test_no_name_of_before_is_a_name_of_now():
    for name in BEFORE["training"]:
        config = read_config(find_config(name))
        assert what_changed(config, json.loads(json.dumps(_plain(config)))) == []
    assert not set(RENAMED) & {
        new if isinstance(new, str) else new[0]
        for old, new in RENAMED.items()
        if old not in ("data.sources", "degradation.parts")
    }


def _plain(config):
    from resshift_jax.settings import to_dict

    return to_dict(config)
