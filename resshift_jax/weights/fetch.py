"""Downloading: an address and a path in, the whole file at that path out, if need be in parts."""

import http.client
import logging
import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_BUSY = (408, 429)  # answers below 500 that another try may change


class FetchError(OSError):
    """A download that failed: one line with the file, its address and how far it came."""


class _BrokenOff(Exception):
    """A transfer that another try may complete."""


def fetch(
    url: str,
    target: Path,
    *,
    check: Callable[[Path], None] | None = None,
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 1.0,
) -> None:
    """Downloads a file, whole or not at all; one that is there already is left as it is.

    What has come stays in `target`.part while the file is not complete, and the next call goes on
    from there. Processes that fetch the same file wait for each other, where the file system has
    locks; where it has none, `check` is what keeps a mixture of two downloads out. A bar on stderr
    shows the progress, if that is a terminal.

    Args:
        check: given the complete file before it takes its name; by a ValueError it refuses it, and
            the file is removed.
        timeout: seconds to wait for the server's next bytes.
        tries: how often to connect before giving up, when the connection breaks off.
        pause: seconds before the second try, doubled for each one after it.

    Raises:
        FetchError: nothing there, not reachable, broken off, or damaged.
        OSError: the folder cannot be written to; the message says where it stopped.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if target.is_file():
                return  # another process was faster
            logger.info("fetching %s", url)
            with _progress_bar(target.name) as bar:
                _transfer(url, part, target.name, bar, timeout, tries, pause)
            if check is not None:
                _check(check, url, part, target.name)
            os.replace(part, target)
            _version_file(part).unlink(missing_ok=True)
    except FetchError:
        raise
    except OSError as e:
        came = f" after {_mib(_size(part))} MiB" if _size(part) else ""
        raise OSError(f"{e.filename or part}: cannot be written{came}, {e.strerror or e}") from e


def _transfer(
    url: str, part: Path, name: str, bar: Progress, timeout: float, tries: int, pause: float
) -> None:
    """Completes `part`, by several requests if need be."""
    for attempt in range(tries):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            with _request(url, part, timeout) as response:
                _receive(response, part, bar)
            return
        except HTTPError as e:
            problem = f"{e.code} {e.reason}"
            if e.code == 416 and _size(part):
                if _content_range(e)[1] == _size(part):
                    return
                _discard(part)  # longer than the file there is
            elif e.code < 500 and e.code not in _BUSY:
                raise FetchError(f"{name}: {url} answers {problem}") from e
        except URLError as e:
            problem = _line(e.reason)
            if attempt == 0:  # offline, most likely: later, the connection may come back
                raise FetchError(f"{name}: {url} is not reachable ({problem})") from e
        except _BrokenOff as e:
            problem = _line(e)
    (task,) = bar.tasks
    total = f" of {_mib(task.total)}" if task.total else ""
    raise FetchError(
        f"{name}: {url} broke off at {_mib(_size(part))}{total} MiB ({problem}), run again to go on"
    )


def _request(url: str, part: Path, timeout: float) -> http.client.HTTPResponse:
    """The server's answer, asked for what `part` lacks."""
    headers = {"User-Agent": "resshift-jax"}
    if have := _size(part):
        headers["Range"] = f"bytes={have}-"
        if version := _version(part):
            headers["If-Range"] = version  # another version is then sent from its start
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except URLError:
        raise
    except (OSError, http.client.HTTPException) as e:
        raise _BrokenOff(_line(e)) from e


def _receive(response: http.client.HTTPResponse, part: Path, bar: Progress) -> None:
    """Writes what an answer holds behind what `part` has, or from the start of the file."""
    have, version = _size(part), response.headers["ETag"] or ""
    if response.status == 206:
        start, total = _content_range(response)
        if start != have or (version and _version(part) not in ("", version)):
            _discard(part)
            raise _BrokenOff("the server sent another part than was asked for")
    else:
        length = response.headers["Content-Length"] or ""
        have, total = 0, int(length) if length.isdecimal() else None
        _discard(part)
        if version and not version.startswith("W/"):  # a weak one does not tell bytes apart
            _version_file(part).write_text(version)
    (task,) = bar.task_ids
    bar.reset(task, total=total, completed=have)
    with open(part, "ab", buffering=0) as file:
        while chunk := _read(response):
            _write(file, chunk)
            bar.advance(task, len(chunk))
    if total is not None and _size(part) != total:
        raise _BrokenOff("the server closed the connection")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as e:
        raise _BrokenOff(_line(e)) from e


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _check(check: Callable[[Path], None], url: str, part: Path, name: str) -> None:
    try:
        check(part)
    except ValueError as e:
        _discard(part)
        raise FetchError(
            f"{name}: what {url} sent is damaged ({_line(e)}), and was removed; run again to fetch "
            f"it anew"
        ) from e


def _content_range(answer: http.client.HTTPResponse | HTTPError) -> tuple[int | None, int | None]:
    """(first byte, length of the whole file) of an answer, as far as it tells them."""
    found = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", answer.headers["Content-Range"] or ""
    )
    if found is None:
        return None, None
    start, total = (None if number is None else int(number) for number in found.groups())
    return start, total


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _version(part: Path) -> str:
    """What the server called the version of the file that `part` is of; empty if it did not."""
    path = _version_file(part)
    return path.read_text() if path.is_file() else ""


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f}"


def _line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    shown = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        bar.add_task(name, total=None)
        yield bar


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes that lock `path` waiting, on systems and file systems with locks."""
    while True:
        with open(path, "a") as file:
            # The last holder removes the file: then another process may lock a new one.
            if not _lock(file) or _is_still(path, file):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _lock(file: IO[str]) -> bool:
    """Waits for a lock, and tells whether there are any."""
    if sys.platform == "win32":
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: held by another process, waiting", file.name)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_still(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
