"""Pickles that a library or an attacker might write, put together without what they name."""

import pickle
from dataclasses import dataclass


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
    """A reference to the raw file data/KEY."""

    key: str
    numel: int
    kind: Name = Name("torch", "FloatStorage")


class Pickler(pickle._Pickler):
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
            case Storage(key, numel, kind):
                self.save(("storage", kind, key, "cpu", numel))
                self.write(pickle.BINPERSID)
            case _:
                super().save(obj, save_persistent_id)
