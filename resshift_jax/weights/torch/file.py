"""PyTorch .pth files in and out, without PyTorch: {name: tensor} <-> file.

A .pth is a zip of a pickle (names, shapes, strides) and one raw file per storage; those of before
PyTorch 1.6 are read, too. The pickle is read by an unpickler that knows tensors, containers and
numbers and refuses all else by name. Tensors stay in the file until they are asked for.
"""

import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resshift_jax.console import printable
from resshift_jax.files import written_whole
from resshift_jax.weights.torch import legacy as torch_legacy
from resshift_jax.weights.torch.pickle import (
    STORAGE_DTYPES,
    Storage,
    StorageType,
    TorchTensor,
    WeightFileError,
    is_count,
    scan,
    unpickle,
)

__all__ = ["TorchTensor", "WeightFileError", "read", "write"]

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}


def read(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a .pth: a state dict, or one under the key "state_dict".

    The prefixes `module.` and `_orig_mod.` of distributed and compiled models are taken off.

    Raises:
        FileNotFoundError: no such file.
        WeightFileError: not a .pth, truncated, without tensors, or with a pickle that asks for
            anything but tensors, containers and numbers.
    """
    try:
        state = _read_state(path)
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        tensors = dict(_named_tensors(state)) if isinstance(state, dict) else {}
    except zipfile.BadZipFile as e:
        raise WeightFileError(
            f"{path}: truncated, or not a PyTorch file ({e}); "
            f"fetch it again, or save it again with torch.save"
        ) from e
    except FileNotFoundError:
        raise
    except Exception as e:  # a hostile pickle can raise anything
        raise WeightFileError(
            f"{path}: refused, {printable(str(e)[:300])}; "
            f"fetch it again, or save its state dict again with torch.save"
        ) from e
    if not tensors:
        raise WeightFileError(f"{path}: no state dict in it, {type(state).__name__} found")
    return tensors


def _read_state(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(torch_legacy.HEAD)
        if torch_legacy.is_stream(head):
            return torch_legacy.read_stream(path, file)
    return _read_zip(zipfile.ZipFile(path))


def _named_tensors(state: dict) -> Iterator[tuple[str, TorchTensor]]:
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, TorchTensor):
            while name.startswith(("module.", "_orig_mod.")):
                name = name.split(".", 1)[1]
            yield name, value


@dataclass(frozen=True)
class _Member(Storage):
    archive: zipfile.ZipFile
    name: str

    def read(self) -> bytes:
        try:
            return self.archive.read(self.name)
        except Exception as e:  # zipfile raises many kinds on damaged headers
            raise WeightFileError(f"{self.archive.filename}: damaged file, {e}") from e


def _read_zip(archive: zipfile.ZipFile) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError("a zip archive, but not a PyTorch file (no data.pkl)")
    folder = pickles[0].removesuffix("/data.pkl")
    byte_order = f"{folder}/byteorder"
    if byte_order in archive.namelist() and archive.read(byte_order) != b"little":
        raise pickle.UnpicklingError("big-endian, where a little-endian machine's is needed")

    def find_storage(pid: Any) -> Storage:
        match pid:
            case ("storage", StorageType(dtype=dtype), str(key), _, numel) if is_count(numel):
                pass
            case _:
                raise pickle.UnpicklingError("a storage that is not understood")
        member = f"{folder}/data/{key}"
        try:
            size = archive.getinfo(member).file_size
        except KeyError:
            raise pickle.UnpicklingError(f"the storage {member} is missing") from None
        if size < numel * dtype.itemsize:
            raise pickle.UnpicklingError(f"the storage {member} is cut short")
        return _Member(dtype, numel, archive, member)

    data = archive.read(pickles[0])
    return unpickle(data[: scan(data)], find_storage)


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
