"""The state of training to disk and back: written in the background, verified before it is used.

Below a folder, each checkpoint is a folder named by its step: the arrays, by Orbax, and a manifest
with the checksum of every file. It is made under another name, "STEP.saving", and gets its own once
it is complete and on the disk; what a killed process leaves never has the name of a checkpoint.
"""

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from resshift_jax.console import printable
from resshift_jax.training.checkpoints.folder import (
    NONE,
    SAVING,
    CheckpointError,
    clean,
    newest_sound,
    prune,
    publish,
    steps,
)
from resshift_jax.training.checkpoints.manifest import (
    find_damage,
    read_manifest,
    write_manifest,
)
from resshift_jax.training.checkpoints.orbax_arrays import (
    as_numpy,
    flat_arrays,
    hush_orbax,
    in_words,
    kind,
    new_writer,
    on_devices,
    read_arrays,
    reason,
)

logger = logging.getLogger(__name__)

_FAILED = -2  # instead of a step
_SLOWEST = 3600 * 1000  # milliseconds that processes wait for the first one's manifest


class Checkpoints:
    """The checkpoints of a run. Of several processes, all call the same methods in the same order.

    Args:
        folder: where they are; made by the first save. All processes see the same one.
        keep: so many of the newest sound ones stay, at least 2.

    Checkpoints that cannot be used are logged.
    """

    def __init__(self, folder: Path, *, keep: int = 3):
        hush_orbax()
        self.folder, self.keep = folder.absolute(), max(keep, 2)
        self._is_first = jax.process_index() == 0
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None
        self._finished = 0
        self._damaged: set[int] = set()
        if self._is_first:
            clean(self.folder)

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Begins to write the state after a step, when the save before it is done.

        When it returns, the state may be changed and its arrays donated. A checkpoint that is there
        already is replaced once the new one is complete.

        Args:
            state: a tree of arrays, which may be divided among devices and processes.
            meta: what else belongs to it, as JSON has it.

        Raises:
            CheckpointError: this save or the one before it failed.
        """
        self.wait()
        flat = flat_arrays(state)
        arrays = {name: kind(leaf) for name, leaf in flat.items()}
        content = {"step": step, "meta": json.loads(json.dumps(meta)), "arrays": arrays}
        try:
            if self._is_first:
                clean(self.folder)
            writer = new_writer()
            writer.save(self._path(step, SAVING), args=ocp.args.PyTreeSave(flat))
        except Exception as e:  # Orbax raises what it likes
            raise self._failed(step, e) from e
        self._saving = self._thread.submit(self._finish, writer, step, content)

    def poll(self) -> None:
        """Raises CheckpointError, once, if the save in the background has failed; takes no time."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is done. Raises CheckpointError, once, if it failed."""
        if self._saving is None:
            return
        error = self._saving.exception()
        self._saving = None
        if error is not None:
            raise error

    def close(self) -> None:
        """Waits for the last save and ends what runs in the background.

        It is for `finally`, and raises nothing: what `wait` would have raised is logged.
        """
        try:
            self.wait()
        except CheckpointError as e:
            logger.error("%s", e)
        self._thread.shutdown()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest step whose checkpoint is sound, every byte of it, and its meta.

        None if there are no checkpoints at all. Those that are passed over are logged.

        Raises:
            CheckpointError: there are checkpoints, but none is sound.
        """
        step, error = NONE, None
        if self._is_first:
            try:
                step, self._damaged = newest_sound(self.folder)
            except OSError as e:
                step, error = _FAILED, e
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        if error is not None:
            raise error
        if step == _FAILED:
            raise CheckpointError(f"{self.folder}: no sound checkpoint, says the first process")
        return None if step == NONE else (step, _content(self._path(step))["meta"])

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state after a step, bit for bit; each process reads its part alone.

        Args:
            step: that `latest` gave; nothing is verified here.
            abstract_state: jax.ShapeDtypeStruct for arrays, with the shardings that they are to
                have, on the devices of now. One without a sharding goes to the default device.

        Raises:
            CheckpointError: not there, or its arrays have other names, shapes or dtypes.
        """
        wanted = flat_arrays(abstract_state)
        kinds = {name: kind(leaf) for name, leaf in wanted.items()}
        found = _content(self._path(step))["arrays"]
        if found != kinds:
            name = min(n for n in found.keys() | kinds.keys() if found.get(n) != kinds.get(n))
            raise CheckpointError(
                f"{self._path(step)}: {name} is {in_words(found.get(name))}, expected is "
                f"{in_words(kinds.get(name))}; go on with the configuration it was made with"
            )
        arrays = _arrays(self._path(step), wanted, on_devices)
        return jax.tree.unflatten(jax.tree.structure(abstract_state), arrays.values())

    def _path(self, step: int, suffix: str = "") -> Path:
        return self.folder / f"{step}{suffix}"

    def _finish(self, writer: ocp.AsyncCheckpointer, step: int, content: dict[str, Any]) -> None:
        """In the background: what is to be done once Orbax has written the arrays."""
        self._finished += 1
        try:
            writer.close()  # when it is done
            try:
                if self._is_first:
                    write_manifest(self._path(step, SAVING), content)
                    publish(self.folder, step)
                    self._damaged.discard(step)
                    prune(self.folder, self.keep, step, self._damaged)
            finally:
                if jax.process_count() > 1:
                    barrier = ocp.multihost.get_barrier_sync_fn()
                    barrier(key=f"manifest of {self.folder} {self._finished}", timeout_ms=_SLOWEST)
        except Exception as e:
            raise self._failed(step, e) from e

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        if self._is_first:
            clean(self.folder, patience=2)
        return CheckpointError(
            printable(
                f"{self.folder}: the checkpoint of step {step} cannot be written, "
                f"{reason(error)}; make room or amends there, and go on from the one before it"
            )
        )


def read_part(
    folder: Path, part: str, step: int | None = None
) -> tuple[int, dict[str, Any], dict[str, np.ndarray]]:
    """One part of a state, without the others: of the newest sound checkpoint, or that of a step.

    Of several processes, all call it.

    Args:
        folder: where the checkpoints are.
        part: name of a field of the state: "ema".

    Returns:
        The step; its meta; {path within the part, "a/b/c": array, of the dtype it was saved in}.

    Raises:
        FileNotFoundError: no checkpoints there, or none of that step.
        CheckpointError: none is sound, or that of the step is not; or it has no such part.
    """
    hush_orbax()
    folder = folder.absolute()
    if step is None:
        step, _ = newest_sound(folder)
        if step == NONE:
            raise FileNotFoundError(f"{folder}: no checkpoints there")
    elif step not in steps(folder):
        there = ", ".join(map(str, reversed(steps(folder)))) or "none"
        raise FileNotFoundError(f"{folder}: no checkpoint of step {step}; there: {there}")
    elif damage := find_damage(folder / str(step)):
        raise CheckpointError(f"{folder / str(step)}: {damage}; take another step")
    content = _content(folder / str(step))
    wanted = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in content["arrays"].items()
        if name.startswith(f"{part}/")
    }
    if not wanted:
        parts = ", ".join(sorted({name.split("/")[0] for name in content["arrays"]}))
        raise CheckpointError(f"{folder / str(step)}: has no {part}; there: {parts}")
    arrays = _arrays(folder / str(step), wanted, as_numpy)
    return step, content["meta"], {k.removeprefix(f"{part}/"): v for k, v in arrays.items()}


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_manifest(path)
    except (OSError, ValueError) as e:
        raise CheckpointError(printable(f"{path}: no sound checkpoint, {reason(e)}")) from e


def _arrays(path: Path, wanted: dict[str, Any], how: Callable) -> dict[str, Any]:
    try:
        return read_arrays(path, wanted, how)
    except Exception as e:  # Orbax raises what it likes
        raise CheckpointError(printable(f"{path}: cannot be read, {reason(e)}")) from e
