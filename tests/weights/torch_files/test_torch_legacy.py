"""The format of PyTorch before 1.6: what only it has, and how it breaks."""

import os
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from pickle_writer import (
    MACHINE,
    NUMBERS,
    Call,
    Name,
    Persistent,
    Raw,
    Storage,
    tensor,
    vector,
    write_stream,
)

from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch import legacy as torch_legacy
from resshift_jax.weights.torch.file import WeightFileError

TWO = {"1": NUMBERS + 1, "2": NUMBERS + 2}


def two_vectors():
    return {"a": vector("1"), "b": vector("2")}


def load_all(path):
    return {name: value.load() for name, value in torch_file.read(path).items()}


def assert_refused(path, *culprits):
    with pytest.raises(WeightFileError) as caught:
        load_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert "fetch it again" in message
    for culprit in culprits:
        assert culprit in message


# What PyTorch wrote.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_stream_of_any_protocol_that_torch_takes(tmp_path, protocol):
    path = write_stream(tmp_path / "a.pth", two_vectors(), TWO, protocol=protocol)
    found = load_all(path)
    np.testing.assert_array_equal(found["a"], NUMBERS[:4] + 1)
    np.testing.assert_array_equal(found["b"], NUMBERS[:4] + 2)


def test_a_dictionary_as_python_2_wrote_it(tmp_path):
    """As in the files of the package lpips: texts as bytes, pairs in lists."""
    name = Raw(b"U\x05lin0.")
    pairs = [[name, vector()], [Raw(b"U\x02\xc3\xbc"), vector()]]
    path = write_stream(tmp_path / "a.pth", Call(Name("collections", "OrderedDict"), (pairs,)))
    assert list(torch_file.read(path)) == ["lin0.", "ü"]


def test_the_order_of_storages_is_that_of_their_list(tmp_path):
    path = write_stream(tmp_path / "a.pth", two_vectors(), dict(reversed(TWO.items())))
    np.testing.assert_array_equal(load_all(path)["b"], NUMBERS[:4] + 2)


def test_parts_of_a_storage_of_a_stream(tmp_path):
    state = {
        "part": tensor(Storage("1", 24, view=("3", 4, 8)), (2, 3), (3, 1), offset=2),
        "whole": tensor(Storage("1", 24), (24,), (1,)),
        "none": tensor(Storage("1", 24, view=("4", 24, 0)), (0,), (1,)),
    }
    found = load_all(write_stream(tmp_path / "a.pth", state, {"1": NUMBERS}))
    np.testing.assert_array_equal(found["part"], [[6, 7, 8], [9, 10, 11]])
    np.testing.assert_array_equal(found["whole"], NUMBERS)
    assert found["none"].shape == (0,)


def test_more_names_than_the_first_window_holds(tmp_path):
    names = [f"layer.{'x' * 100}.{i}" for i in range(4000)]
    path = write_stream(tmp_path / "a.pth", {name: vector() for name in names})
    assert list(torch_file.read(path)) == names


def test_values_stay_in_the_file_until_they_are_asked_for(tmp_path):
    large = np.arange(4_000_000, dtype=np.float32)
    state = {"a": vector("1"), "b": tensor(Storage("2", large.size), (2_000_000,), (2,))}
    path = write_stream(tmp_path / "a.pth", state, {"1": NUMBERS, "2": large})
    tracemalloc.start()
    try:
        tensors = torch_file.read(path)
        np.testing.assert_array_equal(tensors["a"].load(), [0, 1, 2, 3])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(tensors["b"].load(), large[::2])


def test_a_file_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write_stream(tmp_path / "a.pth", {"a": vector()}).relative_to(tmp_path)
    tensors = torch_file.read(path)
    monkeypatch.chdir(tmp_path / "other")
    np.testing.assert_array_equal(tensors["a"].load(), [0, 1, 2, 3])


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = write_stream(tmp_path / "a.pth", {"a": vector()})
    (value,) = torch_file.read(path).values()
    time = path.stat().st_mtime_ns + 10**9
    write_stream(path, {"a": vector()}, {"0": -NUMBERS})
    os.utime(path, ns=(time, time))
    with pytest.raises(WeightFileError, match=f"^{path}: changed since it was opened"):
        value.load()
    path.unlink()
    with pytest.raises(WeightFileError, match=f"^{path}: cannot be read any more"):
        value.load()


# What is refused.


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = write_stream(tmp_path / "a.pth", two_vectors(), TWO)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        assert_refused(path)


def test_a_stream_cut_in_its_storages_is_told_as_such(tmp_path):
    path = write_stream(tmp_path / "a.pth", two_vectors(), TWO)
    path.write_bytes(path.read_bytes()[:-50])
    assert_refused(path, "truncated, 96 bytes expected and 46 left")
    path.write_bytes(path.read_bytes()[:-50])
    assert_refused(path, "truncated, 8 bytes expected and 4 left")


def test_a_flipped_bit_gives_an_error_that_names_the_file(tmp_path):
    """Or other values: this format has no checksums."""
    path = write_stream(tmp_path / "a.pth", {"a": vector(), "b": vector()})
    content = bytearray(path.read_bytes())
    errors = []
    for position in range(len(content)):
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        try:
            load_all(path)
        except Exception as e:
            errors.append(e)
        content[position] ^= 1 << position % 8
    assert {type(error) for error in errors} == {WeightFileError}
    assert all(str(error).startswith(f"{path}: ") for error in errors)
    assert len(errors) > 100


@pytest.mark.parametrize(
    ("told", "culprit"),
    [
        ({"magic": 5}, "not a PyTorch file"),
        ({"version": 1000}, "other than 1001"),
        ({"version": "1001"}, "other than 1001"),
        ({"machine": {**MACHINE, "little_endian": False}}, "big-endian"),
        ({"machine": {}}, "big-endian, or of an unknown machine"),
        ({"machine": 5}, "big-endian, or of an unknown machine"),
        ({"keys": ["1"]}, "the storage 2 is missing"),
        ({"keys": ["1", "2", "3"]}, "the storage 3 belongs to no tensor"),
        ({"keys": ["1", "2", "1"]}, "the storage 1 is there twice"),
        ({"keys": ["1", 2]}, "no list of storages"),
        ({"keys": 2}, "no list of storages"),
        ({"keys": [vector("1")]}, "a storage where none belongs"),
        ({"count": 25}, "the storage 1 holds 25 numbers, 24 expected"),
        ({"count": 23}, "the storage 1 holds 23 numbers, 24 expected"),
        ({"count": -1}, "the storage 1 holds -1 numbers, 24 expected"),
        ({"count": 2**62}, "numbers, 24 expected"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused(tmp_path, told, culprit):
    assert_refused(write_stream(tmp_path / "a.pth", two_vectors(), TWO, **told), culprit)


def test_bytes_behind_a_stream_are_refused(tmp_path):
    path = write_stream(tmp_path / "a.pth", two_vectors(), TWO)
    path.write_bytes(path.read_bytes() + b"abc")
    assert_refused(path, "3 bytes too many at its end")


@pytest.mark.parametrize(
    ("storage", "culprit"),
    [
        (Storage("2", 25), "the storage 2 holds 24 numbers, 25 expected"),
        (Storage("2", 10**12), "the storage 2 is cut short"),
        (Storage("2", 2**62), "the storage 2 is cut short"),
        (Storage("2", -1), "the storage 2 is cut short, or not one of -1 numbers"),
        (Storage("2", 24, Name("torch", "DoubleStorage")), "truncated, 192 bytes expected"),
        (Storage("1", 24, Name("torch", "IntStorage")), "the storage 1 is told of in two ways"),
        (Storage("1", 23), "the storage 1 is told of in two ways"),
        (Storage("3", 24), "the storage 3 is missing"),
        (Storage("2\n" * 9, 24), r"the storage 2\n2\n2\n"),
        (Storage("2", 24, view=("5", 20, 5)), "exceeds it"),
        (Storage("2", 24, view=("5", -1, 5)), "exceeds it"),
        (Storage("2", 24, view=("5", 0, -1)), "exceeds it"),
        (Storage("2", 24, view=("5", 0)), "exceeds it"),
        (Storage("2", 24, view=("5", 0, 3)), "exceeds its storage"),
    ],
)
def test_storages_that_are_not_in_the_stream_are_refused(tmp_path, storage, culprit):
    state = {"a": vector("1"), "b": tensor(storage, (4,), (1,))}
    assert_refused(write_stream(tmp_path / "a.pth", state, TWO), culprit)


def test_a_pickle_without_an_end_is_refused_without_being_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_legacy, "_WINDOWS", (2**8, 2**10))
    path = write_stream(tmp_path / "a.pth", {"a": vector(), "b": [None] * 5000})
    assert_refused(path, "a pickle of more than 1024 bytes")


def test_a_module_is_refused_by_the_name_of_its_class(tmp_path):
    module = Persistent(("module", Name("my_package", "Network"), "a.py", "class Network: ..."))
    path = write_stream(tmp_path / "a.pth", OrderedDict(a=vector(), b=module))
    assert_refused(path, "my_package.Network", "nothing of it was run")


def test_a_beginning_of_the_magic_number_is_another_kind_of_file(tmp_path):
    path = write_stream(tmp_path / "a.pth", two_vectors(), TWO)
    content = path.read_bytes()
    for length in range(14):
        path.write_bytes(content[:length])
        assert_refused(path, "truncated, or not a PyTorch file")
