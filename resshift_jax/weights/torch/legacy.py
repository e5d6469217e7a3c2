"""The format of PyTorch before 1.6, which files published until 2020 still have: an object out.

A stream: pickles one after another, then the storages that they name, each a count and its numbers.
It has no checksums: all that can be checked are the lengths, and they are, before a tensor is given
out.
"""

import os
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from resshift_jax.weights.torch.pickle import (
    Storage,
    StorageType,
    WeightFileError,
    is_count,
    scan,
    unpickle,
)

HEAD = 32  # bytes that tell the format

_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
# A pickle is read in the first window that holds it; a state dict of 10000 tensors takes 2 MB.
_WINDOWS = (2**12, 2**18, 2**24)


def is_stream(head: bytes) -> bool:
    """Whether a file that begins so is a stream."""
    return _MAGIC.to_bytes(10, "little") in head


class _File:
    """The file that storages lie in, and where each begins."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._absolute, self._stamp = path, path.absolute(), _stamp(file)
        self.size = os.fstat(file.fileno()).st_size
        self.starts: dict[Any, int] = {}

    def read(self, start: int, length: int) -> bytes:
        try:
            with self._absolute.open("rb") as file:
                changed = _stamp(file) != self._stamp
                file.seek(start)
                data = file.read(length)
        except OSError as e:
            raise WeightFileError(f"{self._path}: cannot be read any more, {e}") from e
        if changed or len(data) != length:
            raise WeightFileError(f"{self._path}: changed since it was opened; read it again")
        return data


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class _FileStorage(Storage):
    file: _File
    key: Any
    first: int = 0  # its place among the numbers of the storage `key`

    def read(self) -> bytes:
        start = self.file.starts[self.key] + self.first * self.dtype.itemsize
        return self.file.read(start, self.numel * self.dtype.itemsize)


class _Reader:
    """A part of a file, read pickle by pickle and number by number."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self._file, self._end = file, end
        file.seek(start)

    def unpickle(self, find_storage: Callable[[Any], Any] | None = None) -> Any:
        start = self._file.tell()
        for window in _WINDOWS:
            data = self._file.read(min(window, self._end - start))
            self._file.seek(start)
            try:
                length = scan(data)
            except ValueError as e:
                if start + len(data) == self._end:
                    raise pickle.UnpicklingError(f"truncated or damaged ({e})") from e
            else:
                self._file.seek(start + length)
                return unpickle(data[:length], find_storage)
        raise pickle.UnpicklingError(f"damaged, or a pickle of more than {_WINDOWS[-1]} bytes")

    def count(self) -> int:
        self._file.seek(self.skip(8))
        return struct.unpack("<q", self._file.read(8))[0]

    def skip(self, length: int) -> int:
        """Goes on behind so many bytes; gives where they begin."""
        start = self._file.tell()
        if length > self._end - start:
            raise pickle.UnpicklingError(
                f"truncated, {length} bytes expected and {self._end - start} left"
            )
        self._file.seek(start + length)
        return start

    def finish(self) -> None:
        left = self._end - self._file.tell()
        if left:
            raise pickle.UnpicklingError(f"{left} bytes too many at its end")


def read_stream(path: Path, file: BinaryIO) -> Any:
    """The object in a stream, its tensors still in the file.

    Raises:
        Exception: it is damaged or hostile, or holds more than tensors, containers and numbers.
    """
    stored = _File(path, file)
    reader = _Reader(file, 0, stored.size)
    if reader.unpickle() != _MAGIC or reader.unpickle() != _STREAM_VERSION:
        raise pickle.UnpicklingError(f"a stream of a version other than {_STREAM_VERSION}")
    _require_little_endian(reader.unpickle())

    named: dict[str, tuple[np.dtype, int]] = {}

    def find_storage(pid: Any) -> Storage:
        match pid:
            case ("storage", StorageType(dtype=dtype), str(key), _, int(numel), view):
                pass
            case _:
                raise pickle.UnpicklingError("a storage that is not understood")
        if not is_count(numel) or numel * dtype.itemsize > stored.size:
            raise pickle.UnpicklingError(
                f"the storage {key[:30]} is cut short, or not one of {numel} numbers"
            )
        if named.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise pickle.UnpicklingError(f"the storage {key[:30]} is told of in two ways")
        storage = _FileStorage(dtype, numel, stored, key)
        return storage if view is None else _view_of(storage, view)

    state = reader.unpickle(find_storage)
    keys = reader.unpickle()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError("damaged, no list of storages behind its names")
    listed = set(keys)
    for key in named:
        if key not in listed:
            raise pickle.UnpicklingError(f"the storage {key[:30]} is missing")
    for key in keys:
        if key in stored.starts:
            raise pickle.UnpicklingError(f"the storage {key[:30]} is there twice")
        if key not in named:
            raise pickle.UnpicklingError(f"the storage {key[:30]} belongs to no tensor")
        dtype, numel = named[key]
        count = reader.count()
        if count != numel:
            raise pickle.UnpicklingError(
                f"the storage {key[:30]} holds {count} numbers, {numel} expected"
            )
        stored.starts[key] = reader.skip(numel * dtype.itemsize)
    reader.finish()
    return state


def _require_little_endian(machine: Any) -> None:
    if not isinstance(machine, Mapping) or machine.get("little_endian") is not True:
        raise pickle.UnpicklingError(
            "big-endian, or of an unknown machine, where a little-endian one is needed"
        )


def _view_of(storage: Any, view: Any) -> _FileStorage:
    """A part of a storage, which files of 2017 may name as a storage of its own."""
    match storage, view:
        case _FileStorage(), (_, int(offset), int(numel)) if (
            is_count(offset) and is_count(numel) and offset + numel <= storage.numel
        ):
            first = storage.first + offset
            return _FileStorage(storage.dtype, numel, storage.file, storage.key, first)
    raise pickle.UnpicklingError("a part of a storage that exceeds it, or of none")
