"""A folder in, a file with the checksum of each of its files out; and later what has changed."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_VERSION = 1


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest of a folder into it, whole, once all that it names is on the disk.

    Args:
        content: what else it is to hold, as JSON has it; `read_manifest` gives it back.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    names = sorted(_names(folder))
    with _pool() as pool:
        # The file system may write the manifest before the files that it vouches for.
        sums = list(pool.map(lambda name: _measure(folder / name, to_disk=True), names))
    for inner in [place for place, _, _ in os.walk(folder)]:
        sync_folder(Path(inner))
    body = {"version": _VERSION, "files": dict(zip(names, sums, strict=True)), "content": content}
    # Not by files.written_whole: what a kill leaves of that would be one more thing to remove.
    temporary = folder / f".{MANIFEST}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"sha256": _digest(body), "manifest": body}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MANIFEST)
    sync_folder(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was given to `write_manifest` as content.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: damaged.
    """
    return _read(folder)["content"]


def find_damage(folder: Path, *, checksums: bool = True) -> str | None:
    """What is wrong with a folder: which file, and how; None if each is as the manifest says.

    Files that the manifest does not name do not matter.

    Args:
        checksums: read the files; otherwise only their sizes are compared.
    """
    try:
        files = _read(folder)["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as e:
        return f"{MANIFEST} cannot be read, {e.strerror}"
    except ValueError:
        return f"{MANIFEST} is damaged"
    for name, (size, _) in files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as e:
            return (
                f"{name} is missing" if isinstance(e, FileNotFoundError) else _unreadable(name, e)
            )
        if found != size:
            return f"{name} is damaged, {found} of its {size} bytes are there"
    if not checksums:
        return None
    with _pool() as pool:
        measured = {name: pool.submit(_measure, folder / name) for name in files}
        for name, expected in files.items():
            try:
                if measured[name].result() != expected:
                    return f"{name} is damaged, its checksum differs"
            except OSError as e:
                return _unreadable(name, e)
    return None


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk.

    Raises:
        OSError: of the disk.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path) -> dict[str, Any]:
    outer = json.loads((folder / MANIFEST).read_bytes())
    try:
        intact = _digest(outer["manifest"]) == outer["sha256"]
    except (KeyError, TypeError):
        intact = False
    if not intact or outer["manifest"]["version"] != _VERSION:
        raise ValueError(f"{folder / MANIFEST}: damaged, or of another version")
    return outer["manifest"]


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _measure(path: Path, *, to_disk: bool = False) -> list:
    """Size and checksum. sha256, for which processors have instructions, outruns blake2."""
    with path.open("rb") as file:
        if to_disk:
            os.fsync(file.fileno())
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), checksum]


def _names(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield (Path(place) / name).relative_to(folder).as_posix()


def _unreadable(name: str, error: OSError) -> str:
    return f"{name} cannot be read, {error.strerror}"


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "checksum")  # hashlib lets go of the GIL
