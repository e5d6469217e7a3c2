"""A tree of arrays in, what Orbax writes and reads out: each array by its name, and no noise."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


def flat_arrays(state: Any) -> dict[str, Any]:
    """{"params/a/b": leaf}: of a tree, Orbax keeps neither the classes nor what has no leaves."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def kind(leaf: Any) -> list:
    """Shape and dtype, as JSON has them."""
    return [list(leaf.shape), np.dtype(leaf.dtype).name]


def in_words(kind: list | None) -> str:
    """Of a result of `kind`, or of what is not there."""
    return "absent" if kind is None else f"{kind[1]} {tuple(kind[0])}"


def on_devices(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    """How to read an array onto the devices of its sharding, or onto the default one."""
    sharding = leaf.sharding or jnp.zeros(()).sharding
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def as_numpy(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    """How to read an array into memory, whatever devices it was on."""
    return ocp.RestoreArgs(restore_type=np.ndarray)


def new_writer() -> ocp.AsyncCheckpointer:
    """For one save: one that has failed may give its error again, of a later save."""
    return ocp.AsyncCheckpointer(
        # Compressed, random numbers are 8 % smaller and take twice as long.
        ocp.PyTreeCheckpointHandler(use_compression=False),
        # Made in the background, a folder that cannot be made leaves threads that wait for it.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )


def read_arrays(
    path: Path,
    wanted: dict[str, jax.ShapeDtypeStruct],
    how: Callable[[jax.ShapeDtypeStruct], ocp.RestoreArgs],
) -> dict[str, Any]:
    """The arrays of these names and no others, in this order.

    Raises:
        Exception: of any kind, as Orbax raises what it likes.
    """
    request = ocp.args.PyTreeRestore(
        wanted, {name: how(leaf) for name, leaf in wanted.items()}, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.restore(path, args=request)
    return {name: found[name] for name in wanted}


def reason(error: Exception) -> str:
    """What went wrong, in a few words, out of what may be pages."""
    number = error.errno if isinstance(error, OSError) else None
    if told := re.search(r"os_error_code='(\d+)'", str(error)):  # of tensorstore
        number = int(told[1])
    if number is not None:
        return os.strerror(number)
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@cache
def hush_orbax() -> None:
    """Keeps Orbax off the terminal: all that fails in it is raised as well."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    # After the first write that fails Orbax gives up; the others end with nobody to tell.
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
