"""Pickles that a library or an attacker might write, put together without what they name.

And the two kinds of PyTorch file around them, of a state and {key: array} of its storages.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Name:
    """A global, written by its name without being looked up."""

    module: str
    attribute: str


@dataclass(frozen=True)
class Call:
    """function(*args) when the file is read."""

    function: Name
    args: tuple


@dataclass(frozen=True)
class Build:
    """An object whose state is set when the file is read."""

    target: object
    state: object


@dataclass(frozen=True)
class Storage:
    """A reference to the storage `key`, or to the part (key, offset, numel) of it."""

    key: str
    numel: int
    kind: Name = Name("torch", "FloatStorage")
    view: tuple | None = None


@dataclass(frozen=True)
class Persistent:
    """A reference to anything outside the pickle."""

    pid: object


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are."""

    content: bytes


class Pickler(pickle._Pickler):
    storage_tail = False  # whether a storage is written with its part

    def save(self, obj, save_persistent_id=True):
        match obj:
            case Name(module, attribute):
                self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())
            case Call(function, args):
                self.save(function)
                self.save(args)
                self.write(pickle.REDUCE)
            case Build(target, state):
                self.save(target)
                self.save(state)
                self.write(pickle.BUILD)
            case Storage(key, numel, kind, view):
                tail = (view,) if self.storage_tail else ()
                self.save(Persistent(("storage", kind, key, "cpu", numel, *tail)))
            case Persistent(pid):
                self.save(pid)
                self.write(pickle.BINPERSID)
            case Raw(content):
                self.write(content)
            case _:
                super().save(obj, save_persistent_id)


class StreamPickler(Pickler):
    storage_tail = True


def dumps(obj, pickler=Pickler, protocol=2):
    file = io.BytesIO()
    pickler(file, protocol).dump(obj)
    return file.getvalue()


NUMBERS = np.arange(24, dtype=np.float32)
STORAGES = {"0": NUMBERS}
MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {"protocol_version": 1001, "type_sizes": {"long": 4}, "little_endian": True}


def tensor(storage, shape, strides, offset=0):
    args = (storage, offset, shape, strides, False, OrderedDict())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)


def vector(key="0"):
    """The first four of 24 numbers."""
    return tensor(Storage(key, 24), (4,), (1,))


def write_zip(path, state, storages=STORAGES, *, folder="archive", extra=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", dumps(state))
        for key, value in storages.items():
            archive.writestr(f"{folder}/data/{key}", np.asarray(value).tobytes())
        for member, content in extra:
            archive.writestr(f"{folder}/{member}", content)
    return path


def stored(array, count=None):
    return struct.pack("<q", array.size if count is None else count) + array.tobytes()


def write_stream(
    path, state, storages=STORAGES, *, magic=MAGIC, version=1001, machine=MACHINE, keys=None,
    count=None, protocol=2,
):  # fmt: skip
    """As PyTorch 0.1.10 to 1.5; `keys` and `count` are told in place of those that are true."""
    keys = list(storages) if keys is None else keys
    parts = [
        dumps(part, StreamPickler, protocol) for part in (magic, version, machine, state, keys)
    ]
    path.write_bytes(b"".join(parts) + b"".join(stored(v, count) for v in storages.values()))
    return path


def storage_class(dtype):
    names = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
             "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
             "bool": "Bool"}  # fmt: skip
    return Name("torch", f"{names[np.dtype(dtype).name]}Storage")
