"""A pickle of nested dictionaries of float32 arrays in, its arrays by their paths out.

Such a pickle is NumPy's own way to store arrays. It is read as data: by an unpickler that knows
dictionaries, numbers and such arrays, puts stand-ins in the place of NumPy's functions, and refuses
all else by name before anything of it is called.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from resshift_jax.console import printable
from resshift_jax.weights.torch.file import WeightFileError

# All that such a file needs. What is not here could reserve memory that the file does not fill
# (a memo's place of any number, a buffer of any length) or make objects of other classes.
_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip


class _Float32:
    """Stands for numpy.dtype("f4")."""

    def __init__(self, code: Any, *_: Any):
        if code != "f4":
            found = f", {code[:10]!r} found" if isinstance(code, str) else ""
            raise pickle.UnpicklingError(f"float32 ('f4') expected{found}")

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), "<", None, None, None, int(), int(), int()):
                pass
            case _:
                raise pickle.UnpicklingError("float32 that are not little-endian and plain")


class StoredArray:
    """Stands for a numpy.ndarray: float32 that are not copied before `load`."""

    dtype = np.dtype(np.float32)

    def __init__(self) -> None:
        self._values: np.ndarray = np.empty(0, self.dtype)

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), tuple(shape), _Float32(), bool(fortran), bytes(data)):
                pass
            case _:
                raise pickle.UnpicklingError("an array that is not understood")
        if len(shape) > 4 or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array with a malformed shape")
        if math.prod(shape) * self.dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} in {len(data)} bytes")
        self._values = np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    def load(self) -> np.ndarray:
        """The values, float32, C-contiguous."""
        return self._values.astype(np.float32, order="C")


# What a pickle may name, made anew each time that it does: a pickle can set attributes of what it
# holds, and must not reach anything that the next file is read with.
_ADMITTED: dict[tuple[str, str], Callable[[], Any]] = {
    ("numpy", "dtype"): lambda: lambda *args: _Float32(*args),
    ("numpy", "ndarray"): lambda: "numpy.ndarray",  # named, never called
    ("numpy.core.multiarray", "_reconstruct"): lambda: lambda *args: StoredArray(),
    ("numpy._core.multiarray", "_reconstruct"): lambda: lambda *args: StoredArray(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]()
        except KeyError:
            raise pickle.UnpicklingError(
                f"its pickle asks for {printable(f'{module}.{name}')}; only dictionaries, numbers "
                f"and arrays of float32 are admitted, and nothing of it was run"
            ) from None


def read(path: Path, names: Iterable[str]) -> dict[str, StoredArray]:
    """Those of the arrays `names`, as "a/b/c", that a file holds.

    Raises:
        FileNotFoundError: no such file.
        WeightFileError: damaged, not a pickle, or one with anything but dictionaries, numbers and
            arrays of float32.
    """
    try:
        content = path.read_bytes()
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise pickle.UnpicklingError(
                    f"its pickle holds more than dictionaries, numbers and arrays of float32 "
                    f"({opcode.name}), and nothing of it was run"
                )
        tree = _Unpickler(io.BytesIO(content)).load()
        found = {name: _look_up(tree, name) for name in names}
        return {name: leaf for name, leaf in found.items() if isinstance(leaf, StoredArray)}
    except OSError:
        raise
    except pickle.UnpicklingError as e:
        raise WeightFileError(f"{path}: refused, {e}") from e
    except Exception as e:  # a hostile or damaged pickle can raise anything
        raise WeightFileError(f"{path}: damaged, or not a pickle of arrays ({e})") from e


def _look_up(tree: Any, name: str) -> Any:
    for key in name.split("/"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
