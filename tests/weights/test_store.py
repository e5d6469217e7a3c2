"""Our files: what comes back, and which are refused with what message."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import MINI_OVERRIDES, MINI_UNET

from resshift_jax.config import ModelConfig, PixelConfig
from resshift_jax.settings import to_dict
from resshift_jax.weights import store
from resshift_jax.weights.load import load_weights
from resshift_jax.weights.torch.file import WeightFileError


@pytest.fixture(scope="module")
def model(mini_files):
    return load_weights(
        mini_files["unet"],
        first_stage=mini_files["autoencoder"],
        task="realsrx4",
        version="v3",
        overrides=MINI_OVERRIDES,
    )


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "mini.safetensors"
    store.save(path, *model)
    return path


def header(**changes):
    """A header of ours, with entries replaced, or taken away by None."""
    entries = {
        "format": "resshift-jax",
        "version": "1",
        "config": json.dumps(to_dict(ModelConfig())),
    }
    return {key: value for key, value in {**entries, **changes}.items() if value is not None}


def write(path, metadata):
    safetensors.numpy.save_file({"unet/a": np.zeros(3, np.float32)}, path, metadata=metadata)
    return path


def assert_refused(path, *parts):
    with pytest.raises(WeightFileError) as caught:
        store.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("dtype", store.STORAGE_DTYPES.values(), ids=store.STORAGE_DTYPES.keys())
def test_a_model_comes_back(model, tmp_path, dtype):
    config, params = model
    path = tmp_path / "folder" / "mini.safetensors"
    store.save(path, config, params, dtype)
    found_config, found = store.load(path)
    assert found_config == store.load_config(path) == config
    for part in ("unet", "first_stage"):
        assert set(found[part]) == set(params[part])
        for name, value in params[part].items():
            assert found[part][name].dtype == dtype
            np.testing.assert_array_equal(found[part][name], value.astype(dtype))
    assert [p.name for p in path.parent.iterdir()] == ["mini.safetensors"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # readable by whom other files are


def test_sixteen_bits_halve_the_file(model, tmp_path):
    sizes = []
    for dtype in (np.float32, ml_dtypes.bfloat16):
        store.save(tmp_path / "mini.safetensors", *model, dtype)
        sizes.append((tmp_path / "mini.safetensors").stat().st_size)
    assert sizes[1] < 0.55 * sizes[0]


def test_the_header_tells_the_configuration_to_anyone(saved, model):
    with safetensors.safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "resshift-jax"
    assert json.loads(metadata["config"]) == json.loads(json.dumps(to_dict(model[0])))


def test_notes_in_the_header_come_back(model, saved, tmp_path):
    assert store.load_notes(saved) == {}
    path = tmp_path / "noted.safetensors"
    notes = {"sources": "[1, 2]", "by": "me"}
    store.save(path, *model, notes={**notes, "version": "9"})  # which does not replace ours
    assert store.load_notes(path) == notes
    assert store.load(path)[0] == model[0]
    with pytest.raises(FileNotFoundError):
        store.load_notes(tmp_path / "absent.safetensors")


def test_a_file_that_cannot_be_written_is_named(model, tmp_path, monkeypatch):
    def fail(tensors, target, metadata=None):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    path = tmp_path / "a.safetensors"
    with pytest.raises(OSError, match=f"^{path}: cannot be written, .*No space left on device"):
        store.save(path, *model)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_first_stage_comes_back(model, tmp_path):
    config, params = model
    store.save(tmp_path / "a.safetensors", config, {"unet": params["unet"], "first_stage": {}})
    assert store.load(tmp_path / "a.safetensors")[1]["first_stage"] == {}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        store.load(tmp_path / "absent.safetensors")


def test_another_safetensors_is_refused_with_advice(tmp_path):
    assert_refused(write(tmp_path / "a.safetensors", None), "resshift-jax header", "convert")
    assert_refused(write(tmp_path / "b.safetensors", {"format": "pt"}), "resshift-jax header")


def test_another_version_is_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", header(version="2"))
    assert_refused(path, "version 2 of the format, this package reads 1")


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (None, "config"),
        ("{", "cannot be read"),
        ('{"scale": "4"}', "scale: '4' given"),
        ('{"unet": {"wings": 2}}', "unet.wings: unknown key"),
        ('{"unet": {"head_channels": 0}}', "unet.head_channels: 0 given"),
        ("[]", "cannot be read"),
        ("4", "cannot be read"),
    ],
)
def test_a_header_that_makes_no_configuration_is_refused(tmp_path, config, part):
    assert_refused(write(tmp_path / "a.safetensors", header(config=config)), part)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert_refused(saved, "damaged")


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert_refused(path, "not a safetensors file")


def test_tensors_that_do_not_fit_are_listed_together(model, tmp_path):
    config, params = model
    unet, stage = dict(params["unet"]), dict(params["first_stage"])
    del unet["conv_in/bias"]
    stage["codebook"] = stage["codebook"][:, :2]
    stage["decoder/extra"] = np.zeros(3, np.float32)
    path = tmp_path / "a.safetensors"
    store.save(path, config, {"unet": unet, "first_stage": stage, "lora": {"a": np.zeros(2)}})
    assert_refused(
        path,
        "4 tensors do not fit its configuration:",
        "missing: unet/conv_in/bias (32,)",
        "shape: first_stage/codebook is (256, 2), (256, 3) expected",
        "unknown: first_stage/decoder/extra",
        "unknown: lora/a",
    )


def test_parameters_of_a_stage_that_has_none_are_refused(model, tmp_path):
    config, params = model
    pixels = ModelConfig("own", 1, unet=MINI_UNET, first_stage=PixelConfig(), chain=config.chain)
    path = tmp_path / "a.safetensors"
    store.save(path, pixels, params)
    assert_refused(path, "unknown: first_stage/codebook")


@pytest.mark.parametrize("existing", [b"", b"the old model"])
def test_a_write_that_fails_leaves_all_as_it_was(model, tmp_path, monkeypatch, existing):
    path = tmp_path / "a.safetensors"
    if existing:
        path.write_bytes(existing)

    def fail(tensors, target, metadata=None):
        with open(target, "wb") as file:
            file.write(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        store.save(path, *model)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([existing] if existing else [])
