"""What the pickles of a PyTorch file may hold: tensors, containers and numbers, and nothing else.

The unpickler refuses every other name before anything of it is called. A tensor is only described
by its pickle; its storage stays in the file until the tensor is asked for.
"""

import io
import math
import pickle
import pickletools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from resshift_jax.console import printable

STORAGE_DTYPES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_MOST_DIMENSIONS = 64


class WeightFileError(ValueError):
    """A weight file that cannot be used; the message names the file and what is wrong with it."""


class _Fixed:
    """What a pickle cannot change once it is made: its bounds are checked only then."""

    def __setstate__(self, state: Any) -> None:
        # Parameters of early versions tell here of gradients and hooks, which are not kept.
        pass


@dataclass(frozen=True)
class Storage(_Fixed, ABC):
    """`numel` numbers of a file, one after another."""

    dtype: np.dtype
    numel: int

    @abstractmethod
    def read(self) -> bytes:
        """Their bytes, little-endian.

        Raises:
            WeightFileError: the file is damaged, or gone.
        """


@dataclass(frozen=True)
class TorchTensor(_Fixed):
    """A tensor that is still in its file.

    Attributes:
        shape, dtype: of the array that `load` gives.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _storage: Storage
    _offset: int
    _strides: tuple[int, ...]

    def load(self) -> np.ndarray:
        """The values, C-contiguous.

        Raises:
            WeightFileError: the bytes do not match the checksum in the file, where it has one.
        """
        base = np.frombuffer(self._storage.read(), self.dtype, self._storage.numel)
        strides = [s * self.dtype.itemsize for s in self._strides]
        view = np.lib.stride_tricks.as_strided(base[self._offset :], self.shape, strides)
        return view.copy()


class StorageType(_Fixed):
    """Stands for a storage class of torch, e.g. torch.FloatStorage."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TorchTensor:
    """The tensor that lies in a storage so.

    Raises:
        UnpicklingError: it does not, or these are no storage and numbers.
    """
    if (
        not isinstance(storage, Storage)
        or not all(isinstance(n, tuple | list) for n in (shape, strides))
        or len(shape) != len(strides)
        or len(shape) > _MOST_DIMENSIONS
        or not all(is_count(n) for n in (offset, *shape, *strides))
        or math.prod(n or 1 for n in shape) * storage.dtype.itemsize >= 2**63
    ):
        raise pickle.UnpicklingError("a tensor with a malformed shape")
    if 0 in shape:
        return TorchTensor(tuple(shape), storage.dtype, storage, 0, (0,) * len(shape))
    # Where there is one place, the stride leads nowhere and may be any number.
    strides = tuple(s if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
    end = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    if end > storage.numel:
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(shape)} that exceeds its storage")
    return TorchTensor(tuple(shape), storage.dtype, storage, offset, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _size(numbers: Any = ()) -> tuple:
    if len(numbers) > _MOST_DIMENSIONS:  # a long list, named often, would fill the memory
        raise pickle.UnpicklingError(f"a shape of {len(numbers)} dimensions")
    return tuple(numbers)


# What a pickle may name, made anew each time that it does: a pickle can set attributes of what it
# holds, and must not reach anything that the next file is read with.
ADMITTED: dict[tuple[str, str], Callable[[], Any]] = {
    ("torch._utils", "_rebuild_tensor"): lambda: lambda *args: rebuild_tensor(*args),  # until 0.3
    ("torch._utils", "_rebuild_tensor_v2"): lambda: lambda *args: rebuild_tensor(*args),
    ("torch._utils", "_rebuild_parameter"): lambda: lambda *args: _rebuild_parameter(*args),
    ("torch.nn.parameter", "Parameter"): lambda: lambda *args: _rebuild_parameter(*args),
    ("torch", "Size"): lambda: lambda *args: _size(*args),
    **{("torch", name): partial(StorageType, dtype) for name, dtype in STORAGE_DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, find_storage: Callable[[Any], Any] | None):
        super().__init__(io.BytesIO(data), encoding="utf-8")  # of what Python 2 wrote
        self._find_storage = find_storage
        self._entries_left = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *args: self._ordered_dict(*args)
        try:
            return ADMITTED[module, name]()
        except KeyError:
            raise pickle.UnpicklingError(
                f"its pickle asks for {printable(f'{module}.{name}'[:100])}; only tensors, "
                f"containers and numbers are admitted, and nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        if self._find_storage is None:
            raise pickle.UnpicklingError("a storage where none belongs")
        return self._find_storage(pid)

    def _ordered_dict(self, items: Any = ()) -> OrderedDict:
        # Python 2 wrote a list of pairs. One list, named often, would fill the memory.
        self._entries_left -= len(items)
        if self._entries_left < 0:
            raise pickle.UnpicklingError("dictionaries of more entries than the pickle holds")
        return OrderedDict(items)


def scan(data: bytes) -> int:
    """The length of the pickle that `data` begins with.

    Raises:
        ValueError: `data` ends before it does, or begins with something else.
        UnpicklingError: it would reserve memory that it does not fill.
    """
    end = 0
    for opcode, argument, position in pickletools.genops(data):
        # A place in the memo reserves all places before it.
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > position:  # type: ignore[operator]
            raise pickle.UnpicklingError(f"a pickle of {position} bytes that has {argument} parts")
        end = position + 1  # type: ignore[operator]
    return end


def unpickle(data: bytes, find_storage: Callable[[Any], Any] | None = None) -> Any:
    """The object in a pickle that `scan` has passed.

    Args:
        find_storage: gives what a persistent id in the pickle stands for.

    Raises:
        UnpicklingError: it names anything but ADMITTED.
        Exception: of any other kind, from a hostile pickle.
    """
    return _Unpickler(data, find_storage).load()
