"""The state of training to disk and back: written in the background, verified before it is used.

Orbax writes the arrays into a folder for each step. A manifest with the files' checksums comes
last; a folder without one, or with a file that is not as it says, is not gone on from.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from resshift_jax.files import printable, written_whole

MANIFEST = "manifest.json"
_VERSION = 1
_TEMPORARY = ".orbax-checkpoint-tmp"
_NONE = -1  # instead of a step


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read; one line that names it and says what to do."""


class Checkpoints:
    """The checkpoints of a run, all processes of which call the same methods.

    Args:
        folder: with a folder for each step.
        keep: so many of the newest stay, at least 2.
        notify: given a line on each checkpoint that cannot be used.
    """

    def __init__(self, folder: Path, *, keep: int = 3, notify: Callable[[str], None] = print):
        self.folder, self.keep, self.notify = folder.absolute(), max(keep, 2), notify
        self._is_first = jax.process_index() == 0
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax tells of all that it does
        self._writer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future | None = None

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Begins to write the state after a step; it may be changed or donated from then on.

        Args:
            state: a tree of arrays, that may be divided among devices and processes.
            meta: what else belongs to it, as JSON has it.

        Raises:
            CheckpointError: this or the save before it failed.
        """
        self.wait()
        target = self.folder / str(step)
        try:
            if self._is_first and target.exists():  # one that could not be used
                shutil.rmtree(target)
            flat = _flat(state)
            self._writer.save(target, args=ocp.args.PyTreeSave(flat))
        except Exception as e:  # tensorstore and Orbax raise what they like
            raise self._failed(step, e) from e
        arrays = {name: _kind(leaf) for name, leaf in flat.items()}
        self._saving = self._thread.submit(self._finish, step, dict(meta), arrays)

    def poll(self) -> None:
        """Raises CheckpointError if the save in the background has failed; takes no time."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Until the last save is done. Raises CheckpointError if it has failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Ends what runs in the background; a failure of it is told by `wait` alone."""
        self._thread.shutdown(wait=True)
        try:
            self._writer.close()
        except Exception:  # told already
            logging.getLogger(__name__).debug("closing", exc_info=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest step whose checkpoint is sound, and its meta; None if none was ever finished.

        Raises:
            CheckpointError: there are checkpoints, but none is sound.
        """
        step, problem = _NONE, None
        if self._is_first:
            try:
                step = _newest_sound(self.folder, self.notify)
            except CheckpointError as e:
                problem = e
        if jax.process_count() > 1:
            told = np.array([step, problem is not None], np.int32)
            step, failed = map(int, multihost_utils.broadcast_one_to_all(told))
            if failed and problem is None:
                problem = CheckpointError(f"{self.folder}: no sound checkpoint")
        if problem is not None:
            raise problem
        return None if step == _NONE else (step, _read_manifest(self.folder / str(step))["meta"])

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state after a step, which `latest` found sound.

        abstract_state: jax.ShapeDtypeStruct for arrays, with the shardings that they are to have.

        Raises:
            CheckpointError: arrays that are missing, or of another shape or dtype.
        """
        flat = _flat(abstract_state)
        found = _read_manifest(self.folder / str(step))["arrays"]
        wanted = {name: _kind(leaf) for name, leaf in flat.items()}
        if found != wanted:
            name = min(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
            raise CheckpointError(
                f"{self.folder / str(step)}: {name} is {found.get(name, 'missing')}, "
                f"{wanted.get(name, 'none')} expected; it is of another network"
            )
        restored = _restore(self.folder / str(step), flat)
        return jax.tree.unflatten(jax.tree.structure(abstract_state), restored.values())

    def _finish(self, step: int, meta: dict[str, Any], arrays: dict[str, list]) -> None:
        try:
            self._writer.wait_until_finished()
            if self._is_first:
                _write_manifest(self.folder / str(step), step, meta, arrays)
                self._prune()
        except Exception as e:
            raise self._failed(step, e) from e

    def _prune(self) -> None:
        """Removes what is older than the checkpoints to keep, and what broken-off saves left."""
        steps = _steps(self.folder)
        kept = [step for step in steps if (self.folder / str(step) / MANIFEST).exists()]
        for step in steps:
            if step < min(kept[: self.keep]):
                shutil.rmtree(self.folder / str(step), ignore_errors=True)
        _remove_temporary(self.folder)

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        if self._is_first:
            _remove_temporary(self.folder)
        what = f"{self.folder}: the checkpoint of step {step} cannot be written, {_reason(error)}"
        advice = "those before it are whole, and the same command goes on from them"
        return CheckpointError(printable(f"{what}; {advice}"))


def read_part(
    folder: Path, part: str, step: int | None = None
) -> tuple[int, dict[str, Any], dict[str, np.ndarray]]:
    """One part of the state at the newest sound checkpoint of a folder, or at that of a step.

    Returns:
        The step, its meta, and path within the part -> array.

    Raises:
        FileNotFoundError: no checkpoints there, or none of that step.
        CheckpointError: it is not sound, or there are some and none is.
    """
    folder = folder.absolute()
    if step is None:
        step = _newest_sound(folder, lambda line: logging.getLogger(__name__).warning(line))
        if step == _NONE:
            raise FileNotFoundError(f"{folder}: no checkpoints there")
    else:
        if not (folder / str(step)).is_dir():
            known = ", ".join(map(str, _steps(folder))) or "none"
            raise FileNotFoundError(f"{folder}: no checkpoint of step {step}; there: {known}")
        problem = _problem(folder / str(step))
        if problem:
            raise CheckpointError(f"{folder / str(step)}: {problem}")
    manifest = _read_manifest(folder / str(step))
    prefix = f"{part}/"
    abstract = {
        name: jax.ShapeDtypeStruct(shape, np.dtype(dtype))
        for name, (shape, dtype) in manifest["arrays"].items()
        if name.startswith(prefix)
    }
    arrays = _restore(folder / str(step), abstract)
    return step, manifest["meta"], {name.removeprefix(prefix): v for name, v in arrays.items()}


def _flat(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> list:
    return [list(leaf.shape), np.dtype(leaf.dtype).name]


def _restore(path: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """Arrays of a checkpoint by their names: numpy, or as they are to be divided."""

    def how(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
        if leaf.sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape)

    arguments = ocp.args.PyTreeRestore(
        abstract, {name: how(leaf) for name, leaf in abstract.items()}, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        restored = reader.restore(path, args=arguments)
    return {name: restored[name] for name in abstract}


def _steps(folder: Path) -> list[int]:
    """Those that have a folder, the newest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _newest_sound(folder: Path, notify: Callable[[str], None]) -> int:
    """The newest step whose checkpoint is sound; _NONE where none has ever been finished."""
    told, finished = "", False
    for step in _steps(folder):
        path = folder / str(step)
        problem = _problem(path)
        if told:
            notify(told if problem else f"{told}; going back to step {step}")
        if problem is None:
            return step
        told = printable(f"{path}: {problem}")
        finished |= (path / MANIFEST).exists()
    if finished:
        raise CheckpointError(f"{told}; no checkpoint is sound, remove {folder} to begin anew")
    if told:
        notify(f"{told}; there is none before it, beginning anew")
    return _NONE


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, if anything."""
    try:
        manifest = _read_manifest(path)
    except FileNotFoundError:
        return f"{MANIFEST} is missing, saving was broken off"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    files = manifest["files"]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _checksum(path / name), files)
        for (name, (size, digest)), result in zip(files.items(), found, strict=True):
            if result is None:
                return f"{name} is missing"
            if result[0] != size:
                return f"{name} has {result[0]} bytes, {size} were written"
            if result[1] != digest:
                return f"{name} is not what was written, its checksum differs"
    return None


def _checksum(path: Path) -> tuple[int, str] | None:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _write_manifest(path: Path, step: int, meta: dict, arrays: dict[str, list]) -> None:
    names = sorted(_files_below(path))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = pool.map(lambda name: _checksum(path / name), names)
    body = {
        "version": _VERSION, "step": step, "meta": meta, "arrays": arrays,
        "files": dict(zip(names, sums, strict=True)),
    }  # fmt: skip
    text = json.dumps(body, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with written_whole(path / MANIFEST) as temporary, temporary.open("w") as file:
        file.write(json.dumps({"sha256": digest, "manifest": text}))
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError, or ValueError, KeyError or TypeError where it is damaged."""
    outer = json.loads((path / MANIFEST).read_bytes())
    if hashlib.sha256(outer["manifest"].encode()).hexdigest() != outer["sha256"]:
        raise ValueError("its checksum differs")
    return json.loads(outer["manifest"])


def _files_below(path: Path) -> Iterator[str]:
    for folder, _, names in os.walk(path):
        for name in names:
            place = (Path(folder) / name).relative_to(path).as_posix()
            if place != MANIFEST:
                yield place


def _remove_temporary(folder: Path) -> None:
    for path in folder.glob(f"*{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words, out of what may be pages."""
    text = f"{error} {error.__cause__ or ''} {error.__context__ or ''}"
    for known in ("No space left on device", "File too large", "Disk quota exceeded",
                  "Permission denied", "Read-only file system"):  # fmt: skip
        if known in text:
            return known.lower()
    return " ".join(str(error).split())[:200]
