"""PyTorch files without PyTorch: round trips, files that PyTorch may write, files to refuse."""

import contextlib
import copy
import itertools
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from pickle_writer import (
    NUMBERS,
    Build,
    Call,
    Name,
    Persistent,
    Raw,
    Storage,
    storage_class,
    tensor,
    vector,
    write_stream,
    write_zip,
)

from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch import pickle as torch_pickle
from resshift_jax.weights.torch.file import WeightFileError

DTYPES = [
    np.float32, np.float64, np.float16, ml_dtypes.bfloat16,
    np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_,
]  # fmt: skip
WRITERS = {"zip": write_zip, "stream": write_stream}


@pytest.fixture(params=WRITERS)
def write(request):
    """Writes a file of one of the two formats."""
    return WRITERS[request.param]


def load_all(path):
    return {name: value.load() for name, value in torch_file.read(path).items()}


def assert_refused(path, *culprits):
    with pytest.raises(WeightFileError) as caught:
        load_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < len(str(path)) + 420
    for culprit in culprits:
        assert culprit in message


# Round trips.


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_dtype_comes_back(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype)
    torch_file.write(tmp_path / "a.pth", {"a.weight": values})
    (stored,) = torch_file.read(tmp_path / "a.pth").values()
    assert stored.shape == (3, 4)
    assert stored.dtype == np.dtype(dtype)
    found = stored.load()
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (0,),
        (3, 0, 2),
        (2, 3, 4, 5),
        (300, 70),
    ],
    ids=str,
)
def test_every_shape_comes_back(tmp_path, shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    torch_file.write(tmp_path / "a.pth", {"a": values, "b": -np.asarray(values)})
    found = torch_file.read(tmp_path / "a.pth")
    assert found["a"].shape == found["b"].shape == shape
    assert found["a"].load().shape == shape
    np.testing.assert_array_equal(found["a"].load(), values)
    np.testing.assert_array_equal(found["b"].load(), -values)


def test_a_transposed_array_comes_back(tmp_path):
    values = NUMBERS.reshape(4, 6).T
    torch_file.write(tmp_path / "a.pth", {"a": values})
    found = load_all(tmp_path / "a.pth")["a"]
    np.testing.assert_array_equal(found, values)
    assert found.flags.c_contiguous


def test_names_and_their_order_come_back(tmp_path):
    names = ["z.weight", "a.0.bias", "überraschend", "x" * 300]
    torch_file.write(tmp_path / "a.pth", dict.fromkeys(names, NUMBERS))
    assert list(torch_file.read(tmp_path / "a.pth")) == names


def test_an_array_that_torch_does_not_know_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="odd: PyTorch files hold no complex64"):
        torch_file.write(tmp_path / "a.pth", {"odd": np.zeros(3, np.complex64)})
    assert list(tmp_path.iterdir()) == []


# What PyTorch may write.


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_dtype_is_read(write, tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 2, 12).astype(dtype)
    state = {"a": tensor(Storage("7", 12, storage_class(dtype)), (3, 4), (4, 1))}
    (found,) = load_all(write(tmp_path / "a.pth", state, {"7": values})).values()
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values.reshape(3, 4))


def test_several_storages(write, tmp_path):
    storages = {"30": NUMBERS + 30, "4": NUMBERS + 4, "100": NUMBERS[:0], "5": NUMBERS[:1] + 5}
    state = {"a": vector("4"), "b": vector("30"), "c": vector("4")}
    state |= {"d": tensor(Storage("5", 1), (), ()), "e": tensor(Storage("100", 0), (0, 3), (3, 1))}
    found = load_all(write(tmp_path / "a.pth", state, storages))
    expected = {"a": NUMBERS[:4] + 4, "b": NUMBERS[:4] + 30, "c": NUMBERS[:4] + 4,
                "d": np.float32(5), "e": np.zeros((0, 3), np.float32)}  # fmt: skip
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_views_of_one_storage(write, tmp_path):
    storage = Storage("0", 24)
    state = {
        "whole": tensor(storage, (4, 6), (6, 1)),
        "transposed": tensor(storage, (6, 4), (1, 6)),
        "row": tensor(storage, (6,), (1,), offset=12),
        "every_other": tensor(storage, (2, 3), (6, 2), offset=7),
        "expanded": tensor(storage, (3, 6), (0, 1)),
        "scalar": tensor(storage, (1,), (1,), offset=23),
        "empty": tensor(storage, (0, 6), (6, 1), offset=24),
    }
    found = load_all(write(tmp_path / "a.pth", state))
    grid = NUMBERS.reshape(4, 6)
    np.testing.assert_array_equal(found["whole"], grid)
    np.testing.assert_array_equal(found["transposed"], grid.T)
    np.testing.assert_array_equal(found["row"], grid[2])
    np.testing.assert_array_equal(found["every_other"], [[7, 9, 11], [13, 15, 17]])
    np.testing.assert_array_equal(found["expanded"], [grid[0]] * 3)
    np.testing.assert_array_equal(found["scalar"], [23])
    assert found["empty"].shape == (0, 6)
    assert all(value.flags.c_contiguous for value in found.values())


def test_a_storage_may_be_longer_than_its_tensors(tmp_path):
    path = write_zip(tmp_path / "a.pth", {"a": tensor(Storage("0", 4), (4,), (1,))})
    np.testing.assert_array_equal(load_all(path)["a"], NUMBERS[:4])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_prefixes_of_wrapped_models_are_taken_off(write, tmp_path, prefix):
    path = write(tmp_path / "a.pth", {f"{prefix}out.module.weight": vector()})
    assert list(torch_file.read(path)) == ["out.module.weight"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        OrderedDict,
        lambda tensors: {"state_dict": tensors, "step": 7, "name": "x", "lr": 1e-4, "ok": True},
        lambda tensors: {"state_dict": OrderedDict(tensors)},
        # As Module.state_dict() leaves it.
        lambda tensors: Build(OrderedDict(tensors), {"_metadata": {"": {"version": 1}}}),
    ],
    ids=["dict", "OrderedDict", "state_dict", "state_dict of OrderedDict", "metadata"],
)
def test_containers_of_a_state_dict(write, tmp_path, wrap):
    state = wrap({"a": vector(), "number": 3})
    path = write(tmp_path / "a.pth", state)
    assert list(torch_file.read(path)) == ["a"]


def test_the_folder_in_the_archive_may_have_any_name(tmp_path):
    path = write_zip(tmp_path / "a.pth", {"a": vector()}, folder="resshift_s15")
    assert list(torch_file.read(path)) == ["a"]


@pytest.mark.parametrize(
    "parameter",
    [
        Call(Name("torch._utils", "_rebuild_parameter"), (vector(), True, OrderedDict())),
        # Of 2016 and of 2017.
        Build(Call(Name("torch.nn.parameter", "Parameter"), (vector(), True)), (None, None)),
        Build(Call(Name("torch.nn.parameter", "Parameter"), (vector(),)), (True, False, None)),
    ],
    ids=["now", "2016", "2017"],
)
def test_parameters_and_sizes(write, tmp_path, parameter):
    state = {"a": parameter, "shape": Call(Name("torch", "Size"), ([2, 3],))}
    found = load_all(write(tmp_path / "a.pth", state))
    np.testing.assert_array_equal(found["a"], [0, 1, 2, 3])


def test_tensors_as_of_2017(write, tmp_path):
    args = (Storage("0", 24), 7, (2, 3), (6, 2))
    state = {"a": Call(Name("torch._utils", "_rebuild_tensor"), args)}
    found = load_all(write(tmp_path / "a.pth", state))
    np.testing.assert_array_equal(found["a"], [[7, 9, 11], [13, 15, 17]])


# What is refused.


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "a.pth"
    torch_file.write(path, {f"layer.{i}": NUMBERS for i in range(9)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(path, "truncated", "fetch it again")


@pytest.mark.parametrize("content", [b"PLACEHOLDER: run git lfs pull", b"\x80\x02}q\x00.", b"PK"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert_refused(path, "not a PyTorch file")


def test_another_archive_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday/photo.png", b"123")
    assert_refused(path, "no data.pkl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        torch_file.read(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (Name("os", "system"), ("touch {}",)),
        (Name("posix", "system"), ("touch {}",)),
        (Name("builtins", "eval"), ("open('{}', 'w')",)),
        (Name("builtins", "exec"), ("open('{}', 'w')",)),
        (Name("builtins", "getattr"), ("{}", "upper")),
        (Name("subprocess", "Popen"), (["touch", "{}"],)),
        (Name("torch", "load"), ("{}",)),
        (Name("numpy.core.multiarray", "scalar"), ("f8", b"12345678")),
        (Name("collections", "OrderedDict.fromkeys"), ("ab",)),
        (Name("torch._utils", "_rebuild_tensor_v2.__globals__"), ()),
    ],
    ids=lambda x: x.attribute if isinstance(x, Name) else "",
)
def test_code_is_refused_and_not_run(write, tmp_path, function, args):
    victim = tmp_path / "victim"
    args = tuple(a.format(victim) if isinstance(a, str) else a for a in args)
    args = tuple([b.format(victim) for b in a] if isinstance(a, list) else a for a in args)
    path = write(tmp_path / "a.pth", {"a": vector(), "b": Call(function, args)})
    assert_refused(path, f"{function.module}.{function.attribute}", "nothing of it was run")
    assert not victim.exists()


def test_the_attack_would_work_on_a_plain_pickle(tmp_path):
    """So that the test above cannot pass by a malformed file."""
    victim = tmp_path / "victim"
    attack = Call(Name("os", "system"), (f"touch {victim}",))
    path = write_zip(tmp_path / "a.pth", {"b": attack})
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert victim.exists()


def test_a_file_cannot_change_how_the_next_is_read(write, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "ADMITTED", copy.deepcopy(torch_pickle.ADMITTED))
    good = write(tmp_path / "good.pth", {"a": vector()})
    attack = Build(Name("torch", "FloatStorage"), {"dtype": 5})
    bad = write(tmp_path / "bad.pth", {"a": vector(), "b": attack})
    with contextlib.suppress(WeightFileError):
        torch_file.read(bad)
    np.testing.assert_array_equal(load_all(good)["a"], NUMBERS[:4])


def test_a_file_cannot_change_what_was_checked(write, tmp_path):
    """Or a tensor would be read from memory beyond its storage."""
    changes = {"shape": (10**6,), "_strides": (1,), "_offset": 10**6, "_storage": None}
    state = {"a": Build(vector(), changes), "b": Build(vector(), (None, changes))}
    for value in load_all(write(tmp_path / "a.pth", state)).values():
        np.testing.assert_array_equal(value, NUMBERS[:4])


@pytest.mark.parametrize(
    ("storage", "changes"),
    [
        (Storage("0", 24), {"numel": 10**9}),
        (Storage("0", 24, Build(Name("torch", "FloatStorage"), {"dtype": 0})), {"dtype": 0}),
    ],
)
def test_a_file_cannot_change_its_storages(write, tmp_path, storage, changes):
    value = tensor(Build(storage, changes), (25,), (1,))
    assert_refused(write(tmp_path / "a.pth", {"a": value}), "exceeds its storage")


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (tensor(Storage("0", 24), (5, 5), (5, 1)), "exceeds its storage"),
        (tensor(Storage("0", 24), (4,), (1,), offset=21), "exceeds its storage"),
        (tensor(Storage("0", 24), (2, 6), (24, 1)), "exceeds its storage"),
        (tensor(Storage("0", 24), (2, 6), (2**62, 1)), "exceeds its storage"),
        (tensor(Storage("0", 24), (2,), (-1,), offset=4), "malformed"),
        (tensor(Storage("0", 24), (-2,), (1,)), "malformed"),
        (tensor(Storage("0", 24), (2,), (1,), offset=-1), "malformed"),
        (tensor(Storage("0", 24), (2**40, 2**40), (0, 0)), "malformed"),
        (tensor(Storage("0", 24), (2**40, 0, 2**40), (0, 0, 0)), "malformed"),
        (tensor(Storage("0", 24), (1,) * 65, (1,) * 65), ""),
    ],
)
def test_tensors_that_do_not_fit_are_refused(write, tmp_path, value, culprit):
    assert_refused(write(tmp_path / "a.pth", {"a": vector(), "b": value}), culprit)


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (tensor(Storage("0", 24), (2, 2), (1,)), "malformed"),
        (tensor(Storage("0", 24), (2.0,), (1,)), "malformed"),
        (tensor(Storage("0", 24), (True,), (1,)), "malformed"),
        (tensor(Storage("0", 24), (2**63,), (0,)), "malformed"),
        (tensor(Storage("0", 24), (2,), "1"), "malformed"),
        (tensor(NUMBERS.tolist(), (4,), (1,)), "malformed"),
        (tensor(Storage("0", 24, Name("torch", "QInt8Storage")), (4,), (1,)), "QInt8Storage"),
        (tensor(Storage("0", -24), (0,), (1,)), "storage"),
        (tensor(Storage("0", 24.0), (0,), (1,)), "not understood"),
        (tensor(Storage("0", 10**5000), (0,), (1,)), "refused"),
        (tensor(Storage(0, 24), (0,), (1,)), "not understood"),
        (Persistent(("storage", 1)), "not understood"),
        (Persistent("a"), "not understood"),
    ],
)
def test_malformed_tensors_are_refused(write, tmp_path, value, culprit):
    assert_refused(write(tmp_path / "a.pth", {"a": vector(), "b": value}), culprit)


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (tensor(Storage("7", 24), (4,), (1,)), "archive/data/7 is missing"),
        (tensor(Storage("0", 25), (4,), (1,)), "archive/data/0 is cut short"),
        (tensor(Storage("0", 24, Name("torch", "DoubleStorage")), (4,), (1,)), "cut short"),
        (tensor(Storage("../data.pkl", 4), (4,), (1,)), "../data.pkl is missing"),
        (tensor(Storage("7\nfine", 24), (4,), (1,)), "archive/data/7\\nfine is missing"),
    ],
)
def test_storages_that_are_not_there_are_refused(tmp_path, value, culprit):
    assert_refused(write_zip(tmp_path / "a.pth", {"a": vector(), "b": value}), culprit)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


PAIRS = [[f"k{i}", i] for i in range(1000)]


# Functions, as pytest would fill the memory with some of the values when it shows a failure.
SMALL_ATTACKS = {
    "memo": lambda: Raw(b"Nr\xff\xff\xff\xff"),  # the last of four milliards of places
    "memo in text": lambda: Raw(b"Np4000000000\n"),
    "string": lambda: Raw(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x00text"),  # of four letters
    "bytes": lambda: Raw(b"\x96\xff\xff\xff\xff\xff\x00\x00\x00bytes"),
    "copies": lambda: [Call(Name("collections", "OrderedDict"), (PAIRS,)) for _ in PAIRS],
    "sizes": lambda: [Call(Name("torch", "Size"), (PAIRS,)) for _ in PAIRS],
    # Whose text would fill the memory.
    "storage": lambda: Persistent(("storage", nested(60))),
    "storage of a dict": lambda: Persistent(("storage", {"": nested(60)}, "0", "cpu", 24)),
    "arguments": lambda: Call(Name("torch", "Size"), (nested(60), 1)),
    "strides": lambda: tensor(Storage("0", 24), (4,), nested(60)),
}


@pytest.mark.parametrize("attack", SMALL_ATTACKS)
def test_a_small_file_does_not_fill_the_memory(write, tmp_path, attack):
    path = write(tmp_path / "a.pth", {"a": vector(), "b": SMALL_ATTACKS[attack]()})
    tracemalloc.start()
    try:
        assert_refused(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_big_endian_file_is_refused(tmp_path, kind):
    def write(little):
        name = "little" if little else "big"
        told = {"extra": [("byteorder", name), ("version", "3\n")]}
        if kind != "zip":
            told = {"machine": {"protocol_version": 1001, "little_endian": little}}
        return WRITERS[kind](tmp_path / f"{name}.pth", {"a": vector()}, **told)

    assert list(torch_file.read(write(True))) == ["a"]
    assert_refused(write(False), "big-endian", "save its state dict again")


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({}, "dict"),
        ({"state_dict": {}}, "dict"),
        ({"step": 3}, "dict"),
        ([1, 2], "list"),
        (vector(), "TorchTensor"),
    ],
)
def test_a_file_without_tensors_is_refused(write, tmp_path, state, found):
    storages = {"0": NUMBERS} if isinstance(state, Call) else {}
    assert_refused(write(tmp_path / "a.pth", state, storages), "no state dict", f"{found} found")


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """(expected tensors, what reading gave or raised, file by file) for a bit flipped all over."""
    folder = tmp_path_factory.mktemp("flipped")
    path, damaged = folder / "a.pth", folder / "damaged.pth"
    torch_file.write(path, {f"layer.{i}": NUMBERS + i for i in range(2)})
    content = path.read_bytes()
    outcomes = []
    for position, bit in itertools.product(range(len(content)), (0, 4)):
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        damaged.write_bytes(changed)
        try:
            outcomes.append(load_all(damaged))
        except Exception as e:
            outcomes.append(e)
    return load_all(path), outcomes


def test_a_flipped_bit_never_gives_other_values(flipped):
    expected, outcomes = flipped
    loaded = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    # Some bits mean nothing, such as those of a date.
    assert len(loaded) < len(outcomes) / 2
    for tensors in loaded:
        assert list(tensors) == list(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(tensors[name], value)


def test_a_flipped_bit_gives_an_error_that_names_the_file(flipped):
    errors = [outcome for outcome in flipped[1] if isinstance(outcome, Exception)]
    assert {type(error) for error in errors} == {WeightFileError}
    assert all("damaged.pth: " in str(error) for error in errors)


def test_tensors_stay_in_the_file_until_they_are_asked_for(tmp_path):
    large = np.arange(100_000, dtype=np.float32)
    state = {"a": vector(), "b": tensor(Storage("1", len(large)), large.shape, (1,))}
    path = write_zip(tmp_path / "a.pth", state, {"0": NUMBERS, "1": large})
    tensors = torch_file.read(path)
    start = path.read_bytes().index(large.tobytes())
    with path.open("r+b") as file:
        file.seek(start + 300_000)
        file.write(bytes(8))
    np.testing.assert_array_equal(tensors["a"].load(), [0, 1, 2, 3])
    with pytest.raises(WeightFileError, match=f"^{path}: damaged"):
        tensors["b"].load()
