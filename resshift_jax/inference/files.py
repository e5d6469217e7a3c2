"""Image files in, restored files out: reading ahead, writing behind while the device computes."""

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from resshift_jax.console import one_line
from resshift_jax.image_io.folders import File
from resshift_jax.image_io.photo import (
    Photo,
    check_size,
    losses,
    read_mask,
    read_photo,
    write_photo,
)
from resshift_jax.inference.batching import Request, Restorer, Result
from resshift_jax.inference.model import Model
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Progress

# Photographs that are read before they are needed, and results that wait to be written.
_AHEAD = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        sizes: (width, height) before and after.
        error: one line that names the file, where it failed.
        notices: what the file has and its restoration lacks, in words without a path.
    """

    file: File
    sizes: tuple[tuple[int, int], ...] = ()
    error: str | None = None
    notices: tuple[str, ...] = ()


def restore_files(
    model: Model,
    files: Iterable[File],
    options: RestoreOptions = RestoreOptions(),
    *,
    format: str = "png",
    report: Callable[[Outcome], None],
    progress: Progress = Progress(),
) -> None:
    """Restores files. Each is written whole or not at all; one that fails stops no other.

    A KeyboardInterrupt gets through at once, when what has been computed is written and reported;
    the computation under way goes on in its thread, for nothing can stop it.

    Args:
        format: of the results, one of `photo.FORMATS`.
        report: told of each file as soon as it is done with, by any thread but one at a time.
        progress: who is told of what is done, and of what is compiled.

    Raises:
        ValueError: options that do not fit the model.
    """
    _Run(model.restorer(options, progress), files, format, report)()


class _Run:
    """One call of `restore_files`: files are read, restored and written in threads of their own.

    The thread that calls waits for them, since one that waits for XLA on a CPU hears no Ctrl-C.
    """

    def __init__(
        self,
        restorer: Restorer,
        files: Iterable[File],
        format: str,
        report: Callable[[Outcome], None],
    ):
        self._restorer, self._files, self._format = restorer, files, format
        self._report_to, self._one_at_a_time = report, threading.Lock()
        self._stopped = threading.Event()
        self._reading, self._computing, self._writing = map(ThreadPoolExecutor, (_AHEAD, 1, _AHEAD))
        self._being_written: list[tuple[File, Future[Outcome]]] = []

    def __call__(self) -> None:
        results = self._restorer.restore(self._requests())
        try:
            while result := self._next(results):
                self._write(result)
                self._report_written(leave=_AHEAD)
        finally:
            self._stopped.set()
            for pool in (self._reading, self._computing):
                pool.shutdown(wait=False, cancel_futures=True)
            self._report_written(leave=0)
            self._writing.shutdown()

    def _requests(self) -> Iterator[Request]:
        """The files as the restorer asks for them; those that cannot be read are reported."""
        for file, reading in self._read_ahead():
            if self._stopped.is_set():
                return
            try:
                photo, mask = reading.result()
            except (OSError, ValueError, MemoryError) as e:
                self._restorer.progress.advance(1)
                self._report(_failed(file, e))
            else:
                yield Request((file, photo), photo.pixels, mask)

    def _read_ahead(self) -> Iterator[tuple[File, "Future[_Loaded]"]]:
        """Each file and its reading; a few have been started before they are asked for."""
        scale, ahead = self._restorer.config.scale, deque[tuple[File, Future[_Loaded]]]()
        for file in self._files:
            ahead.append((file, self._reading.submit(_read_file, file, scale, self._format)))
            if len(ahead) > _AHEAD:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()

    def _next(self, results: Iterator[Result]) -> Result | None:
        """The next result, None after the last; files written meanwhile are reported."""
        computed = self._computing.submit(next, results, None)
        while not computed.done():
            under_way: list[Future[Any]] = [computed, *(w for _, w in self._being_written)]
            wait(under_way, return_when=FIRST_COMPLETED)
            self._report_written(leave=_AHEAD)
        return computed.result()

    def _write(self, result: Result) -> None:
        """Begins to write a result, or reports that there is none."""
        file, photo = result.tag
        if result.image is None:
            self._report(_failed(file, result.error))
            return
        writing = self._writing.submit(_write_file, file, photo, result.image, self._format)
        self._being_written.append((file, writing))

    def _report_written(self, leave: int) -> None:
        """Reports what is written, and waits for all but `leave` of the rest."""
        for file, writing in list(self._being_written):
            if writing.done() or len(self._being_written) > leave:
                error = writing.exception()  # Pillow raises almost anything
                outcome = writing.result() if error is None else _failed(file, error)
                self._being_written.remove((file, writing))
                self._report(outcome)

    def _report(self, outcome: Outcome) -> None:
        with self._one_at_a_time:
            self._report_to(outcome)


_Loaded = tuple[Photo, UInt8[np.ndarray, "H W"] | None]


def _read_file(file: File, scale: int, format: str) -> _Loaded:
    """A file's photograph and its mask, if it has one."""
    _check_name(file.target)
    photo = read_photo(file.source)
    height, width = photo.pixels.shape[:2]
    check_size(scale * width, scale * height, format)
    if file.mask is None:
        return photo, None
    path = file.mask()
    mask = read_mask(path)
    if mask.shape != (height, width):
        found = f"{mask.shape[1]}x{mask.shape[0]}"
        raise ValueError(f"{path}: {found} pixels, {width}x{height} needed as in {file.source}")
    return photo, mask


def _check_name(path: Path) -> None:
    """Raises OSError where no file can have this name, before anything is computed for it."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except FileNotFoundError:
        return
    except OSError as e:
        raise OSError(f"{path}: cannot be written, {e.strerror}") from e


def _write_file(file: File, photo: Photo, image: np.ndarray, format: str) -> Outcome:
    restored = photo.restored(image)
    write_photo(file.target, restored, format)
    before, after = (one.pixels.shape[1::-1] for one in (photo, restored))
    return Outcome(file, (before, after), notices=(*photo.notices, *losses(restored, format)))


def _failed(file: File, error: BaseException | None) -> Outcome:
    return Outcome(file, error=one_line(file.source, error))
