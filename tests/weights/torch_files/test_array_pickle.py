"""Pickles of arrays as data: round trips, and files to refuse without running them."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
from pickle_writer import Build, Call, Name, Pickler

from resshift_jax.weights.torch import array_pickle
from resshift_jax.weights.torch.file import WeightFileError

NUMBERS = np.arange(24, dtype=np.float32)
BYTES = NUMBERS.tobytes()
DTYPE, NDARRAY = Name("numpy", "dtype"), Name("numpy", "ndarray")
RECONSTRUCT = Name("numpy.core.multiarray", "_reconstruct")
FLOAT32 = Build(Call(DTYPE, ("f4", False, True)), (3, "<", None, None, None, -1, -1, 0))
EMPTY = Call(RECONSTRUCT, (NDARRAY, (0,), b"b"))


def array(shape=(24,), dtype=FLOAT32, fortran=False, data=BYTES):
    return Build(EMPTY, (1, shape, dtype, fortran, data))


def write(path, tree, protocol=3):
    with path.open("wb") as file:
        Pickler(file, protocol).dump(tree)
    return path


def load(path, *names):
    return {name: found.load() for name, found in array_pickle.read(path, names).items()}


def assert_refused(path, *culprits):
    with pytest.raises(WeightFileError) as caught:
        load(path, "a")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    for culprit in culprits:
        assert culprit in message


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4, 1), (300, 70)], ids=str)
def test_what_numpy_writes_comes_back(tmp_path, shape, protocol):
    values = np.asarray(np.random.default_rng(0).standard_normal(shape), np.float32)
    tree = {
        "net": {"conv": {"kernel": values, "bias": np.negative(values, out=np.empty_like(values))}},
        "step": 3,
    }
    path = tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol))
    found = load(path, "net/conv/kernel", "net/conv/bias", "net/conv/scale", "net/conv", "step")
    assert list(found) == ["net/conv/kernel", "net/conv/bias"]
    np.testing.assert_array_equal(found["net/conv/kernel"], values, strict=True)
    np.testing.assert_array_equal(found["net/conv/bias"], -np.asarray(values), strict=True)


def test_what_old_numpy_wrote_comes_back(tmp_path):
    path = write(tmp_path / "a.ckpt", {"a": array((4, 6)), "b": array((4, 6), fortran=True)})
    np.testing.assert_array_equal(load(path, "a")["a"], NUMBERS.reshape(4, 6))
    np.testing.assert_array_equal(load(path, "b")["b"], NUMBERS.reshape(6, 4).T)
    plain = pickle.loads(path.read_bytes())  # so that these are pickles as NumPy reads them
    np.testing.assert_array_equal(plain["b"], NUMBERS.reshape(6, 4).T)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (Name("os", "system"), ("touch {}",)),
        (Name("posix", "system"), ("touch {}",)),
        (Name("builtins", "eval"), ("open('{}', 'w')",)),
        (Name("builtins", "exec"), ("open('{}', 'w')",)),
        (Name("builtins", "getattr"), ("{}", "upper")),
        (Name("numpy", "fromfile"), ("{}",)),
        (Name("numpy", "load"), ("{}", None, True)),
        (Name("numpy", "dtype.__class__"), ()),
        (Name("numpy.core.multiarray", "scalar"), ("f8", b"12345678")),
        (Name("numpy._core.numeric", "_frombuffer"), (b"1234", "f4", (1,), "C")),
    ],
    ids=lambda x: x.attribute if isinstance(x, Name) else "",
)
def test_code_is_refused_and_not_run(tmp_path, function, args):
    victim = tmp_path / "victim"
    args = tuple(a.format(victim) if isinstance(a, str) else a for a in args)
    path = write(tmp_path / "a.ckpt", {"a": array(), "b": Call(function, args)})
    assert_refused(path, f"{function.module}.{function.attribute}", "nothing of it was run")
    assert not victim.exists()


def test_the_attack_would_work_on_a_plain_pickle(tmp_path):
    """So that the test above cannot pass by a malformed file."""
    victim = tmp_path / "victim"
    attack = Call(Name("os", "system"), (f"touch {victim}",))
    pickle.loads(write(tmp_path / "a.ckpt", {"a": array(), "b": attack}).read_bytes())
    assert victim.exists()


@pytest.mark.parametrize("function", [DTYPE, NDARRAY, RECONSTRUCT], ids=lambda f: f.attribute)
@pytest.mark.parametrize(
    "state",
    [
        {"dtype": 5, "__setstate__": None, "load": None},
        (None, {"dtype": 5, "__setstate__": None, "load": None}),
        (None, {"__code__": 5}),
        (None, {"__defaults__": (5,), "__call__": 5}),
    ],
    ids=["attributes", "slots", "code", "defaults"],
)
def test_a_file_cannot_change_how_the_next_is_read(tmp_path, monkeypatch, function, state):
    monkeypatch.setattr(array_pickle, "_ADMITTED", copy.deepcopy(array_pickle._ADMITTED))
    good = write(tmp_path / "good.ckpt", {"a": array()})
    for target in (function, Call(function, ("f4",)), array()):
        bad = write(tmp_path / "bad.ckpt", {"a": array(), "b": Build(target, state)})
        with contextlib.suppress(WeightFileError):
            load(bad, "a")
        np.testing.assert_array_equal(load(good, "a")["a"], NUMBERS)


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (array((25,)), "shape (25,) in 96 bytes"),
        (array((23,)), "shape (23,) in 96 bytes"),
        (array((2**31 - 1,) * 4), "in 96 bytes"),
        (array((2**31 - 1, 0, 2), data=b"abcd"), "in 4 bytes"),
        (array((1,) * 4 + (24,)), "malformed"),
        (array((-24,)), "malformed"),
        (array((-4, -6)), "malformed"),
        (array((True, 24)), "malformed"),
        (array((24, None)), "malformed"),
        (array([24]), "EMPTY_LIST"),
        (array(data="text"), "not understood"),
        (array(data=(1, 2)), "not understood"),
        (array(dtype="f4"), "not understood"),
        (array(dtype=DTYPE), "not understood"),
        (Build(EMPTY, {"shape": (3,)}), "not understood"),
        (array(dtype=Call(DTYPE, ("O8", False, True))), "'O8' found"),
        (array(dtype=Call(DTYPE, ("f8", False, True))), "'f8' found"),
        (array(dtype=Call(DTYPE, ("V4", False, True))), "'V4' found"),
        (array(dtype=Call(DTYPE, ((("a", "f4"),), False, True))), "float32 ('f4') expected"),
        (array(dtype=Build(Call(DTYPE, ("f4",)), (3, ">", None, None, None, -1, -1, 0))), "little"),
        (array(dtype=Build(Call(DTYPE, ("f4",)), (3, "<", None, ("a",), None, 4, 4, 0))), "plain"),
        (bytearray(b"1"), "BYTEARRAY8"),
        (1.5, "BINFLOAT"),
        (2**70, "LONG1"),
    ],
)
def test_what_is_no_array_of_float32_is_refused(tmp_path, value, culprit):
    assert_refused(write(tmp_path / "a.ckpt", {"a": array(), "b": value}, 5), culprit)


@pytest.mark.parametrize(
    ("opcodes", "culprit"),
    [
        (b"Nr\xff\xff\xff\x7f.", "LONG_BINPUT"),  # a memo of 16 GiB
        (b"Np2147483647\n.", "PUT"),
        (b"\x96\x00\x00\x00\x00\x04\x00\x00\x00.", "damaged"),  # bytes of 16 GiB
        (b"\x8e\x00\x00\x00\x00\x04\x00\x00\x00.", "damaged"),
        (b"B\xff\xff\xff\x7f.", "damaged"),
        (b"(ios\nsystem\n.", "INST"),
        (b"cos\nsystem\n)\x81.", "NEWOBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"P1\n.", "PERSID"),
    ],
)  # fmt: skip
def test_opcodes_of_no_use_are_refused_before_they_take_memory(tmp_path, opcodes, culprit):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"\x80\x04" + opcodes)
    assert_refused(path, culprit)


def test_names_are_printed_on_one_line(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"\x80\x04\x8c\x05o\ns\x1b[\x8c\x01x\x93.")
    assert_refused(path, r"o\ns\x1b[.x")


def test_an_array_that_was_never_filled_is_empty(tmp_path):
    path = write(tmp_path / "a.ckpt", {"a": EMPTY})
    assert array_pickle.read(path, ["a"])["a"].shape == (0,)


def test_a_dictionary_within_itself_is_no_trap(tmp_path):
    tree = {"a": NUMBERS}
    tree["self"] = tree
    path = tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps(tree, 4))
    found = load(path, "self/self/a", "self/self")
    np.testing.assert_array_equal(found.pop("self/self/a"), NUMBERS)
    assert not found


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"PK\3\4" + bytes(99)])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    assert_refused(path, "not a pickle of arrays")


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        array_pickle.read(tmp_path / "none.ckpt", ["a"])


def test_damage_gives_an_error_or_arrays_and_nothing_else(tmp_path):
    path = write(tmp_path / "a.ckpt", {"a": array((4, 6)), "b": {"c": array()}})
    content = path.read_bytes()
    damaged = [content[:n] for n in range(len(content))]
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            damaged.append(bytes(changed))
    refused = 0
    for changed in damaged:
        path.write_bytes(changed)
        try:
            found = load(path, "a", "b/c")
        except WeightFileError as e:
            assert str(e).startswith(f"{path}: ")  # noqa: PT017
            refused += 1
        else:
            assert all(value.dtype == np.float32 for value in found.values())
    assert refused > len(content)  # the truncated ones, at the least
