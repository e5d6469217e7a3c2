"""A folder of checkpoints in: which of them are sound, which go, and what a new one replaces."""

import logging
import os
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from resshift_jax.console import printable
from resshift_jax.training.checkpoints.manifest import find_damage, sync_folder

logger = logging.getLogger(__name__)

SAVING, _REPLACED = ".saving", ".replaced"
NONE = -1  # instead of a step


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read; one line that names it and says what to do."""


def newest_sound(folder: Path) -> tuple[int, set[int]]:
    """The newest step that is sound, or NONE where there are no checkpoints; damaged newer ones.

    The damaged ones are logged.

    Raises:
        CheckpointError: there are checkpoints, but none is sound.
    """
    damaged: dict[int, str] = {}
    for step in steps(folder):
        damage = find_damage(folder / str(step))
        if damage is None:
            for newer, what in damaged.items():
                line = f"{folder / str(newer)}: {what}; going back to step {step}"
                logger.warning("%s", printable(line))
            return step, set(damaged)
        damaged[step] = damage
    if damaged:
        newest = max(damaged)
        raise CheckpointError(
            printable(
                f"{folder}: no checkpoint is sound (step {newest}: {damaged[newest]}); "
                f"remove that folder to begin anew"
            )
        )
    return NONE, set()


def steps(folder: Path) -> list[int]:
    """Those that have a folder, the newest first."""
    if not folder.exists():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted((int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name)), reverse=True)


def clean(folder: Path, patience: float = 0) -> None:
    """Removes what a killed or failed save left; tries for so many seconds, then lets it be."""
    for path in folder.glob(f"*{_REPLACED}"):
        if not path.with_suffix("").exists():  # killed between two names: it is still the one
            path.rename(path.with_suffix(""))
    until = time.monotonic() + patience
    while left := [*folder.glob(f"*{SAVING}*"), *folder.glob(f"*{_REPLACED}")]:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if time.monotonic() > until:  # writes that are under way make files for some time
            return
        time.sleep(0.05)


def publish(folder: Path, step: int) -> None:
    """Gives what is complete as STEP.saving its name; at each moment one of the step is whole.

    Raises:
        OSError: of the disk.
    """
    target, replaced = folder / str(step), folder / f"{step}{_REPLACED}"
    if target.exists():
        os.rename(target, replaced)
    os.rename(folder / f"{step}{SAVING}", target)
    sync_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def prune(folder: Path, keep: int, saved: int, damaged: Collection[int]) -> None:
    """Removes sound checkpoints older than the newest `keep`, never `saved`; damaged ones stay."""
    sound = [
        step
        for step in steps(folder)
        if step not in damaged and not find_damage(folder / str(step), checksums=False)
    ]
    for step in sound[keep:]:
        if step != saved:
            shutil.rmtree(folder / str(step), ignore_errors=True)
