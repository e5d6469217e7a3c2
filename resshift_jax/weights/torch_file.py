"""PyTorch .pth files in and out, without PyTorch: {name: tensor} <-> zip archive.

A .pth is a zip of a pickle (names, shapes, strides) and one raw file per storage. The pickle is
read by an unpickler that knows tensors, containers and numbers and refuses all else by name before
anything of it is called. Tensors stay in the file until they are asked for.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from resshift_jax.files import written_whole

_STORAGE_DTYPES: dict[str, np.dtype] = {
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
_STORAGE_NAMES = {dtype: name for name, dtype in _STORAGE_DTYPES.items()}


class WeightFileError(ValueError):
    """A weight file that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class TorchTensor:
    """A tensor that is still in its file.

    Attributes:
        shape, dtype: of the array that `load` gives.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _storage: "_Storage"
    _offset: int
    _strides: tuple[int, ...]

    def load(self) -> np.ndarray:
        """The values, C-contiguous.

        Raises:
            WeightFileError: the bytes do not match the checksum in the file.
        """
        base = np.frombuffer(self._storage.read(), self.dtype)
        strides = [s * self.dtype.itemsize for s in self._strides]
        view = np.lib.stride_tricks.as_strided(base[self._offset :], self.shape, strides)
        return view.copy()


@dataclass(frozen=True)
class _Storage:
    archive: zipfile.ZipFile
    member: str
    dtype: np.dtype
    numel: int

    def read(self) -> bytes:
        try:
            return self.archive.read(self.member)
        except Exception as e:  # zipfile raises many kinds on damaged headers
            raise WeightFileError(f"{self.archive.filename}: damaged file, {e}") from e


class _Dtype:
    """Stands for a storage class of torch, e.g. torch.FloatStorage."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def _rebuild_tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, meta=None):
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(strides)
        or not all(type(n) is int and n >= 0 for n in numbers)
    ):
        raise pickle.UnpicklingError("a tensor with a malformed shape")
    end = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    if math.prod(shape) and end > storage.numel:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} that exceeds its storage")
    return TorchTensor(shape, storage.dtype, storage, offset, strides)


def _rebuild_parameter(tensor, requires_grad=False, hooks=None):
    return tensor


# What a pickle may name, made anew each time that it does: a pickle can set attributes of what it
# holds, and must not reach anything that the next file is read with.
_ADMITTED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda: lambda *args: _rebuild_tensor(*args),
    ("torch._utils", "_rebuild_parameter"): lambda: lambda *args: _rebuild_parameter(*args),
    ("torch", "Size"): lambda: tuple,
    **{("torch", name): partial(_Dtype, dtype) for name, dtype in _STORAGE_DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(data))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]()
        except KeyError:
            raise pickle.UnpicklingError(
                f"its pickle asks for {module}.{name}; only tensors, containers and numbers are "
                f"admitted, and nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Dtype(dtype=dtype), str(key), _, int(numel)):
                pass
            case _:
                raise pickle.UnpicklingError(f"a storage that is not understood: {pid!r}")
        member = f"{self._folder}/data/{key}"
        try:
            size = self._archive.getinfo(member).file_size
        except KeyError:
            raise pickle.UnpicklingError(f"the storage {member} is missing") from None
        if size < numel * dtype.itemsize:
            raise pickle.UnpicklingError(f"the storage {member} is cut short")
        return _Storage(self._archive, member, dtype, numel)


def read(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a .pth: a state dict, or one under the key "state_dict".

    The prefixes `module.` and `_orig_mod.` of distributed and compiled models are taken off.

    Raises:
        FileNotFoundError: no such file.
        WeightFileError: not a .pth, truncated, without tensors, or with a pickle that asks for
            anything but tensors, containers and numbers.
    """
    try:
        archive = zipfile.ZipFile(path)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightFileError(f"{path}: a zip archive, but not a PyTorch file (no data.pkl)")
        folder = pickles[0].removesuffix("/data.pkl")
        _check_byte_order(archive, folder, path)
        state = _Unpickler(archive.read(pickles[0]), archive, folder).load()
    except zipfile.BadZipFile as e:
        raise WeightFileError(
            f"{path}: truncated, or not a PyTorch file of version 1.6 or later ({e}); "
            f"fetch it again, or save it again with torch.save"
        ) from e
    except WeightFileError:
        raise
    except FileNotFoundError:
        raise
    except Exception as e:  # a hostile pickle can raise anything
        raise WeightFileError(f"{path}: refused, {e}") from e

    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    tensors = dict(_named_tensors(state)) if isinstance(state, Mapping) else {}
    if not tensors:
        raise WeightFileError(f"{path}: no state dict in it, {type(state).__name__} found")
    return tensors


def _check_byte_order(archive: zipfile.ZipFile, folder: str, path: Path) -> None:
    member = f"{folder}/byteorder"
    if member in archive.namelist() and archive.read(member) != b"little":
        raise WeightFileError(f"{path}: big-endian; save it again on a little-endian machine")


def _named_tensors(state: Mapping) -> Iterator[tuple[str, TorchTensor]]:
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, TorchTensor):
            while name.startswith(("module.", "_orig_mod.")):
                name = name.split(".", 1)[1]
            yield name, value


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a .pth that torch.load reads as a state dict, without PyTorch.

    Raises:
        ValueError: an array of a dtype that PyTorch files do not hold.
    """
    with written_whole(path) as temporary:
        _write_archive(temporary, {k: np.asarray(v, order="C") for k, v in tensors.items()})


def _write_archive(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle_state_dict(tensors))
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(tensors.values()):
            with archive.open(f"archive/data/{i}", "w", force_zip64=True) as member:
                member.write(array.reshape(-1).view(np.uint8).data)
        archive.writestr("archive/version", "3\n")


def _pickle_state_dict(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of {name: tensor} in protocol 2, opcode by opcode: torch need not be there."""

    def text(s: str) -> bytes:
        data = s.encode()
        return pickle.BINUNICODE + struct.pack("<I", len(data)) + data

    def integer(n: int) -> bytes:
        return pickle.LONG1 + bytes([8]) + struct.pack("<q", n)

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    def integers(numbers: tuple[int, ...]) -> bytes:
        return pickle.MARK + b"".join(map(integer, numbers)) + pickle.TUPLE

    out = [pickle.PROTO, bytes([2]), pickle.EMPTY_DICT, pickle.MARK]
    for i, (key, array) in enumerate(tensors.items()):
        if array.dtype not in _STORAGE_NAMES:
            raise ValueError(f"{key}: PyTorch files hold no {array.dtype}")
        storage = name("torch", _STORAGE_NAMES[array.dtype])
        strides = tuple(s // array.itemsize for s in array.strides)
        out += [
            text(key), name("torch._utils", "_rebuild_tensor_v2"), pickle.MARK,
            pickle.MARK, text("storage"), storage, text(str(i)), text("cpu"), integer(array.size),
            pickle.TUPLE, pickle.BINPERSID,
            integer(0), integers(array.shape), integers(strides), pickle.NEWFALSE,
            name("collections", "OrderedDict"), pickle.EMPTY_TUPLE, pickle.REDUCE,
            pickle.TUPLE, pickle.REDUCE,
        ]  # fmt: skip
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])
