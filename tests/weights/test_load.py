"""From any weight file to a configuration and parameters: where the first stage comes from, and
what is said when a file is not what it should be."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import MINI_OVERRIDES, MINI_UNET, MINI_VQ, manifest_state

from resshift_jax.settings import ConfigError
from resshift_jax.weights import store
from resshift_jax.weights.load import load_weights, read_first_stage
from resshift_jax.weights.mapping import ConversionError
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch.file import WeightFileError
from resshift_jax.weights.zoo import UnknownModelError, released_config

REALSR = {"task": "realsrx4", "version": "v3", "overrides": MINI_OVERRIDES}
STAGE = "autoencoder_vq_f4.pth"  # the name of a x4 model's first stage


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, so that none of this machine's is found."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("RESSHIFT_CACHE", str(folder))
    return folder


@pytest.fixture
def alone(tmp_path, mini_files):
    """The U-Net's file in a folder of its own."""
    folder = tmp_path / "weights"
    folder.mkdir()
    return shutil.copy(mini_files["unet"], folder / "model.pth")


def test_a_released_file_with_its_first_stage_named(mini_files):
    config, params = load_weights(
        mini_files["unet"], first_stage=mini_files["autoencoder"], **REALSR
    )
    assert config.unet == MINI_UNET
    assert config.first_stage.codebook_size == MINI_VQ.codebook_size
    assert (config.scale, config.chain.num_timesteps) == (4, 4)
    assert params["unet"]["conv_in/kernel"].dtype == np.float32
    assert params["first_stage"]["codebook"].shape == (256, 3)


def test_the_first_stage_is_found_beside_the_file_and_then_in_the_cache(alone, cache, mini_files):
    cached = shutil.copy(mini_files["autoencoder"], cache / STAGE)
    in_cache = load_weights(alone, **REALSR)[1]["first_stage"]
    assert len(in_cache) == len(load_weights(alone, **REALSR, first_stage=cached)[1]["first_stage"])

    shutil.copy(mini_files["autoencoder_f8"], alone.parent / STAGE)
    with pytest.raises(ConversionError, match=str(alone.parent / STAGE)):
        load_weights(alone, **REALSR)


def test_an_absent_first_stage_is_named_with_both_places(alone, cache):
    with pytest.raises(FileNotFoundError) as caught:
        load_weights(alone, **REALSR)
    message = str(caught.value)
    for part in (str(alone), STAGE, "beside it", str(cache), "first_stage=FILE"):
        assert part in message
    assert "\n" not in message


def test_the_default_cache_is_named(alone, monkeypatch, tmp_path):
    monkeypatch.delenv("RESSHIFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "xdg" / "resshift-jax")):
        load_weights(alone, **REALSR)


def test_the_first_stage_may_be_left_out(alone):
    assert load_weights(alone, **REALSR, need_first_stage=False)[1]["first_stage"] == {}


def test_a_first_stage_that_is_absent_or_does_not_fit_is_named(alone, mini_files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_weights(alone, **REALSR, first_stage=tmp_path / "absent.pth")
    for name in ("autoencoder_f8", "unet"):
        path = mini_files[name]
        with pytest.raises(ConversionError, match=f"^{path}: does not fit as autoencoder_vq_f4"):
            load_weights(alone, **REALSR, first_stage=path)


def test_a_first_stage_by_itself(mini_files):
    config, params = read_first_stage(mini_files["autoencoder"])
    assert config == MINI_VQ
    assert params["codebook"].shape == (256, 3)


def test_an_autoencoder_is_no_model(mini_files):
    path = mini_files["autoencoder"]
    with pytest.raises(ConversionError, match=f"^{path}: an autoencoder alone.*first_stage=FILE"):
        load_weights(path, **REALSR)


def test_a_name_that_tells_nothing_needs_a_task_and_a_version(alone):
    with pytest.raises(UnknownModelError, match=f"^{alone}: .*task=NAME"):
        load_weights(alone)
    with pytest.raises(UnknownModelError, match=f"^{alone}: .*version=NAME"):
        load_weights(alone, task="realsrx4")


def test_a_released_name_tells_all(alone):
    renamed = alone.rename(alone.parent / "resshift_realsrx4_s4_v3.pth")
    config, _ = load_weights(renamed, overrides=MINI_OVERRIDES, need_first_stage=False)
    assert (config.task, config.chain.num_timesteps, config.unet) == ("realsrx4", 4, MINI_UNET)


def test_a_file_of_another_task_lists_its_misfits(mini_files):
    with pytest.raises(ConversionError) as caught:
        load_weights(mini_files["unet_mask"], task="realsrx4", version="v3")
    first, *problems = str(caught.value).splitlines()
    assert first.startswith(f"{mini_files['unet_mask']}: does not fit as realsrx4; ")
    assert f"{len(problems)} tensors do not fit" in first
    assert "  unknown: feature_extractor.0.weight (16, 4, 3, 3)" in problems
    assert any(line.startswith("  shape: input_blocks.0.0.weight is (32, 68") for line in problems)


def test_a_damaged_network_is_compared_with_that_of_its_released_name(tmp_path):
    state = manifest_state("unet")
    del state["out.2.weight"]
    path = tmp_path / "resshift_faceir_s4.pth"
    torch_file.write(path, state)
    with pytest.raises(ConversionError, match=f"^{path}: does not fit as faceir"):
        load_weights(path)


def test_a_damaged_network_is_compared_with_that_of_its_task(tmp_path):
    state = manifest_state("unet")
    del state["out.2.weight"]
    path = tmp_path / "own.pth"
    torch_file.write(path, state)
    with pytest.raises(ConversionError, match=r"does not fit as faceir(.*\n)*.*missing: out.2.wei"):
        load_weights(path, task="faceir")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"chian.steps": 8}, r"^chian\.steps: unknown key"),
        ({"chain.step": 8}, r"^chain\.step: unknown key"),
        ({"chain.num_timesteps.x": 8}, r"^chain\.num_timesteps\.x: unknown key"),
        ({"steps": 8}, "^steps: unknown key"),
        ({"chain.num_timesteps": "8"}, r"^chain\.num_timesteps: '8' given"),
        ({"chain": 8}, "^chain: 8 given"),
    ],
)
def test_settings_that_are_none_are_named(alone, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_weights(alone, task="realsrx4", version="v3", overrides=overrides)


def test_a_task_by_its_original_name(alone, mini_files):
    task = {**REALSR, "task": "realsr"}
    config, _ = load_weights(alone, **task, first_stage=mini_files["autoencoder"])
    assert config.task == "realsrx4"


def test_nothing_is_recognised_where_a_configuration_is_expected(alone, mini_files):
    mini = load_weights(alone, **REALSR, first_stage=mini_files["autoencoder"])[0]
    found, params = load_weights(alone, first_stage=mini_files["autoencoder"], expected=mini)
    assert found == mini
    assert params["unet"]["conv_in/kernel"].shape[-1] == 32

    with pytest.raises(ConversionError) as caught:
        load_weights(alone, expected=released_config("resshift_realsrx4_s4_v3"))
    first, *problems = str(caught.value).splitlines()
    assert first.startswith(
        f"{alone}: does not fit as realsrx4; {len(problems)} tensors do not fit"
    )
    assert "  shape: out.0.weight is (32,), (160,) expected" in problems
    wider = replace(mini, first_stage=replace(MINI_VQ, codebook_size=8192))
    with pytest.raises(ConversionError, match=r"shape: quantize\.embedding\.weight is \(256, 3\)"):
        load_weights(alone, first_stage=mini_files["autoencoder"], expected=wider)


def test_a_setting_replaces_what_no_name_tells(alone):
    overrides = {**MINI_OVERRIDES, "chain.num_timesteps": 8, "unet.window_mask": "swin"}
    config, _ = load_weights(
        alone, task="realsrx4", version="v3", overrides=overrides, need_first_stage=False
    )
    assert (config.chain.num_timesteps, config.unet.window_mask) == (8, "swin")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_not_there_is_named(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"absent{suffix}"):
        load_weights(tmp_path / f"absent{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises((FileNotFoundError, WeightFileError), match=f"folder{suffix}"):
        load_weights(folder)


class TestOurFiles:
    @pytest.fixture
    def ours(self, mini_files, tmp_path):
        model = load_weights(mini_files["unet"], first_stage=mini_files["autoencoder"], **REALSR)
        store.save(tmp_path / "ours.safetensors", *model)
        return tmp_path / "ours.safetensors"

    @pytest.fixture
    def without_stage(self, mini_files, tmp_path):
        model = load_weights(mini_files["unet"], **REALSR, need_first_stage=False)
        store.save(tmp_path / "slim.safetensors", *model)
        return tmp_path / "slim.safetensors"

    def test_nothing_more_is_needed(self, ours):
        config, params = load_weights(ours)
        assert config.unet == MINI_UNET
        assert params["first_stage"]["codebook"].shape == (256, 3)
        assert load_weights(ours, task="realsrx4")[0] == config

    def test_the_first_stage_that_it_lacks_is_looked_for(self, without_stage, cache, mini_files):
        with pytest.raises(FileNotFoundError, match=f"{without_stage}: needs the first stage"):
            load_weights(without_stage)
        shutil.copy(mini_files["autoencoder"], cache / STAGE)
        assert load_weights(without_stage)[1]["first_stage"]["codebook"].shape == (256, 3)

    def test_a_named_first_stage_replaces_the_embedded_one(self, ours, tmp_path, mini_files):
        path = tmp_path / "other.pth"
        state = store.load(ours)[1]["first_stage"]
        changed = manifest_state("autoencoder")
        changed["quantize.embedding.weight"] = changed["quantize.embedding.weight"] + 1
        torch_file.write(path, changed)
        found = load_weights(ours, first_stage=path)[1]["first_stage"]
        np.testing.assert_array_equal(found["codebook"], state["codebook"] + 1)

    def test_another_task_is_refused(self, ours):
        with pytest.raises(UnknownModelError, match=f"^{ours}: its task is realsrx4.*faceir"):
            load_weights(ours, task="faceir")

    def test_a_task_by_its_original_name(self, ours):
        assert load_weights(ours, task="realsr")[0].task == "realsrx4"

    def test_a_version_is_checked_as_far_as_it_can_be(self, ours):
        assert load_weights(ours, version="v3")[0].chain.num_timesteps == 4
        with pytest.raises(UnknownModelError) as caught:
            load_weights(ours, version="v2")
        for part in (f"{ours}: ", "version=v2", "4 steps", "v2 with 15"):
            assert part in str(caught.value)
        with pytest.raises(UnknownModelError, match=f"^{ours}: version=v4: unknown.*v1, v2, v3$"):
            load_weights(ours, version="v4")

    def test_another_configuration_than_the_expected_one_is_refused(self, ours):
        config = load_weights(ours)[0]
        assert load_weights(ours, expected=config)[0] == config
        other = replace(config, task="own", chain=replace(config.chain, num_timesteps=15))
        with pytest.raises(ConversionError, match=f"^{ours}: not the model own .*task, chain diff"):
            load_weights(ours, expected=other)

    def test_settings_are_refused(self, ours):
        with pytest.raises(ConfigError, match=f"^{ours}: has its own settings"):
            load_weights(ours, overrides={"chain.num_timesteps": 8})
