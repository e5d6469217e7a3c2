"""The conversion command, run as a user runs it: what it writes, prints and refuses."""

import shutil

import numpy as np
import pytest
import safetensors.numpy
from conftest import MINI_OVERRIDES, assert_one_line_error, manifest, manifest_state

from resshift_jax.cli.convert import main
from resshift_jax.weights import store
from resshift_jax.weights.bundled import PATH
from resshift_jax.weights.torch import file as torch_file

SETTINGS = [f"--set={key}={value}" for key, value in MINI_OVERRIDES.items()]
REALSR = ["--task=realsrx4", "--version=v3", *SETTINGS]


@pytest.fixture(autouse=True)
def no_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def converted(mini_files, tmp_path_factory):
    """Our file of the small model, first stage and all, by the command itself."""
    path = tmp_path_factory.mktemp("converted") / "mini.safetensors"
    stage = f"--first-stage={mini_files['autoencoder']}"
    assert main([str(mini_files["unet"]), str(path), stage, *REALSR]) == 0
    return path


@pytest.fixture
def empty(tmp_path):
    """A folder in which nothing may be left."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_says_what_it_has_written(mini_files, empty, capsys):
    out = empty / "slim.safetensors"
    assert main([str(mini_files["unet"]), str(out), *REALSR]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for part in (str(out), "realsrx4, scale 4, 4 steps", "unet: ", "autoencoder_vq_f4.pth"):
        assert part in printed.out
    assert names(empty) == ["slim.safetensors"]
    assert store.load(out)[1]["first_stage"] == {}


def test_info_prints_and_writes_nothing(converted, capsys):
    before = names(converted.parent)
    assert main([str(converted), "--info"]) == 0
    printed = capsys.readouterr().out
    sizes = {
        part: sum(value.size for value in flat.values())
        for part, flat in store.load(converted)[1].items()
    }
    assert f"unet: {sizes['unet']:,} parameters, float32" in printed
    assert f"first_stage: {sizes['first_stage']:,} parameters, float32" in printed
    assert '"base_channels": 32' in printed
    assert names(converted.parent) == before


def test_info_of_a_pth(mini_files, capsys):
    assert main([str(mini_files["unet"]), "--info", *REALSR]) == 0
    assert "not embedded, needs autoencoder_vq_f4.pth" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(converted, empty, suffix):
    unet, stage = empty / f"unet{suffix}", empty / f"autoencoder_vq_f4{suffix}"
    assert main([str(converted), str(unet), "--to-torch", f"--first-stage={stage}"]) == 0
    assert names(empty) == [stage.name, unet.name]

    for path, name in ((unet, "unet"), (stage, "autoencoder")):
        if suffix == ".pth":
            found = {key: value.load() for key, value in torch_file.read(path).items()}
        else:
            found = safetensors.numpy.load_file(path)
        assert {key: (v.shape, str(v.dtype)) for key, v in found.items()} == manifest(name)
        for key, value in manifest_state(name).items():
            np.testing.assert_array_equal(found[key], value)

    if suffix == ".pth":
        again = empty / "again.safetensors"
        assert main([str(unet), str(again), f"--first-stage={stage}", *REALSR]) == 0
        (config, params), (found_config, found) = store.load(converted), store.load(again)
        assert found_config == config
        for part, leaves in params.items():
            assert set(found[part]) == set(leaves)
            for key, value in leaves.items():
                np.testing.assert_array_equal(found[part][key], value)


def test_bfloat16_halves_the_file(converted, empty):
    half = empty / "half.safetensors"
    assert main([str(converted), str(half), "--dtype=bfloat16"]) == 0
    assert half.stat().st_size < 0.55 * converted.stat().st_size
    assert {v.dtype.name for v in store.load(half)[1]["unet"].values()} == {"bfloat16"}
    back = empty / "back.pth"
    assert main([str(half), str(back), "--to-torch"]) == 0
    assert {str(t.dtype) for t in torch_file.read(back).values()} == {"float32", "int64"}


def test_a_file_may_be_replaced_by_its_own_conversion(converted, empty):
    path = empty / "mini.safetensors"
    shutil.copy(converted, path)
    assert main([str(path), str(path), "--dtype=float16"]) == 0
    assert names(empty) == ["mini.safetensors"]
    assert {v.dtype.name for v in store.load(path)[1]["unet"].values()} == {"float16"}


# Refusals: each is (arguments made from the files at hand, parts of the message).
REFUSALS = {
    "source absent": lambda f: (["absent.pth", f.out], ["absent.pth"]),
    "source absent, ours": lambda f: (["absent.safetensors", f.out], ["absent.safetensors"]),
    "layers that are not published": lambda f: (
        [f.bundled, f"{f.folder}/out.pth", "--to-torch"], [f.bundled, "unet.pixel_channels"],
    ),
    "source a folder": lambda f: ([f.folder, f.out], [f.folder, "a folder"]),
    "source a text": lambda f: ([f.text, f.out], [f.text, "not a PyTorch file"]),
    "source truncated": lambda f: ([f.truncated, f.out, *REALSR], [f.truncated, "truncated"]),
    "source truncated, ours": lambda f: ([f.truncated_ours, f.out], [f.truncated_ours, "damaged"]),
    "source another safetensors": lambda f: ([f.foreign, f.out], [f.foreign, "header"]),
    "source an autoencoder": lambda f: ([f.stage, f.out, *REALSR], [f.stage, "autoencoder alone"]),
    "no task": lambda f: ([f.unet, f.out], [f.unet, "--task"]),
    "no version": lambda f: ([f.unet, f.out, "--task=realsrx4"], [f.unet, "--version"]),
    "odd version": lambda f: ([f.unet, f.out, "--task=faceir", "--version=v9"], [f.unet, "v9"]),
    "another task": lambda f: ([f.ours, f.out, "--task=faceir"], [f.ours, "faceir"]),
    "setting": lambda f: ([f.unet, f.out, *REALSR, "--set=chian.steps=8"], ["chian.steps"]),
    "setting's type": lambda f: (
        [f.unet, f.out, *REALSR, "--set=chain.num_timesteps=x"], ["chain.num_timesteps"],
    ),
    "setting's value": lambda f: (
        [f.unet, f.out, *REALSR, "--set=chain.num_timesteps=1"], ["chain.num_timesteps"],
    ),
    "stage absent": lambda f: (
        [f.unet, f.out, *REALSR, "--first-stage=absent.pth"],
        ["absent.pth"],
    ),
    "stage truncated": lambda f: (
        [f.unet, f.out, *REALSR, f"--first-stage={f.truncated}"],
        [f.truncated, "truncated"],
    ),
    "suffix": lambda f: ([f.unet, f"{f.folder}/out.ckpt", *REALSR], ["out.ckpt", ".safetensors"]),
    "no suffix": lambda f: ([f.unet, f"{f.folder}/out", *REALSR], ["out", ".safetensors"]),
    "suffix of torch": lambda f: (
        [f.ours, f"{f.folder}/out.ckpt", "--to-torch"], ["out.ckpt", ".pth"],
    ),
    "target a folder": lambda f: ([f.ours, f.folder_as_target], ["folder.safetensors"]),
    "target's folder a file": lambda f: ([f.ours, f"{f.text}/out.safetensors"], [f.text]),
    "no stage to write": lambda f: (
        [f.unet, f"{f.folder}/out.pth", *REALSR, "--to-torch",
         f"--first-stage={f.folder}/stage.pth"],
        ["stage.pth", "no first stage"],
    ),
}  # fmt: skip


class Files:
    """What the refusals start from."""

    def __init__(self, tmp_path, folder, mini_files, converted):
        self.folder, self.out = str(folder), str(folder / "out.safetensors")
        self.unet, self.stage = str(mini_files["unet"]), str(mini_files["autoencoder"])
        self.ours, self.bundled = str(converted), str(PATH)
        self.text = self._file(tmp_path / "text.pth", b"version https://git-lfs.github.com/spec/v1")
        unet = mini_files["unet"].read_bytes()
        self.truncated = self._file(tmp_path / "truncated.pth", unet[: len(unet) // 2])
        ours = converted.read_bytes()
        self.truncated_ours = self._file(tmp_path / "cut.safetensors", ours[: len(ours) // 2])
        self.foreign = str(tmp_path / "foreign.safetensors")
        safetensors.numpy.save_file({"a": np.zeros(3)}, self.foreign)
        self.folder_as_target = str(tmp_path / "folder.safetensors")
        (tmp_path / "folder.safetensors").mkdir()

    @staticmethod
    def _file(path, content):
        path.write_bytes(content)
        return str(path)


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_line_and_leave_nothing(
    case, tmp_path, empty, mini_files, converted, capsys
):
    files = Files(tmp_path, empty, mini_files, converted)
    before = names(tmp_path)
    argv, parts = REFUSALS[case](files)
    assert main(argv) == 1
    assert_one_line_error(capsys, *parts)
    assert names(empty) == []
    assert names(tmp_path) == before


def test_the_network_and_its_first_stage_go_to_two_files(converted, empty, capsys):
    path = str(empty / "both.pth")
    assert main([str(converted), path, "--to-torch", f"--first-stage={path}"]) == 1
    assert_one_line_error(capsys, path)
    assert names(empty) == []


@pytest.mark.parametrize("name", ["unet_mask", "autoencoder_f8"])
def test_a_file_that_does_not_fit_is_listed_tensor_by_tensor(name, mini_files, empty, capsys):
    out = str(empty / "out.safetensors")
    if name == "unet_mask":
        argv = [str(mini_files[name]), out, *REALSR]
    else:
        argv = [str(mini_files["unet"]), out, *REALSR, f"--first-stage={mini_files[name]}"]
    assert main(argv) == 1
    first, *problems = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {mini_files[name]}: does not fit as ")
    assert f"{len(problems)} tensors do not fit" in first
    assert all(line.startswith(("  missing: ", "  unknown: ", "  shape: ")) for line in problems)
    assert names(empty) == []


def test_a_disk_that_is_full_leaves_nothing(converted, empty, capsys, monkeypatch):
    def fail(tensors, target, metadata=None):
        with open(target, "wb") as file:
            file.write(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    assert main([str(converted), str(empty / "out.safetensors")]) == 1
    assert_one_line_error(capsys, "No space left")
    assert names(empty) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["a.pth"],
        ["a.pth", "b.safetensors", "--info"],
        ["a.pth", "b.safetensors", "--set", "steps"],
        ["a.pth", "b.safetensors", "--task", "deblur"],
        ["a.pth", "b.safetensors", "--dtype", "float8"],
    ],
)
def test_a_command_line_that_makes_no_sense_shows_the_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err
