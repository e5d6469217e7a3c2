"""Image files in, restored files out: reading ahead, writing behind while the device computes."""

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resshift_jax.files import printable
from resshift_jax.image_io.folders import File
from resshift_jax.image_io.photo import (
    Photo,
    check_size,
    losses,
    read_mask,
    read_photo,
    write_photo,
)
from resshift_jax.inference.batching import Request, Result, Settings
from resshift_jax.inference.model import Model

# Photographs that are read before they are needed, and results that wait to be written.
_AHEAD = 3
# Bytes of a result that is written before the next one is begun.
_LARGE = 2**27


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
    settings: Settings,
    *,
    format: str = "png",
    report: Callable[[Outcome], None],
    advance: Callable[[float], None] = lambda share: None,
) -> None:
    """Restores files; each is written whole or not at all, and a bad one stops no other.

    A KeyboardInterrupt gets through at once, when what has been computed is written and reported;
    the computation under way goes on in its thread, for nothing can stop it.

    Args:
        report: told of each file as soon as it is done with, by any thread but one at a time.
        advance: told the share of an image that has just been done with.

    Raises:
        ValueError: settings that do not fit the model.
    """
    sampler = model.sampler(settings, advance)
    stopped, one_at_a_time = threading.Event(), threading.Lock()
    reading, computing, writing = (ThreadPoolExecutor(n) for n in (_AHEAD, 1, _AHEAD))
    written: list[tuple[File, Future[Outcome]]] = []

    def tell(outcome: Outcome) -> None:
        with one_at_a_time:
            report(outcome)

    def requests() -> Iterator[Request]:
        read = partial(_read, scale=model.config.scale, format=format)
        for file, future in _ahead(reading, read, files):
            if stopped.is_set():
                return
            try:
                photo, mask = future.result()
            except (OSError, ValueError, MemoryError) as e:
                advance(1)
                tell(_failed(file, e))
            else:
                yield Request((file, photo), photo.pixels, mask)

    def take(result: Result) -> None:
        file, photo = result.tag
        if result.image is None:
            tell(_failed(file, result.error))
        else:
            written.append((file, writing.submit(_write, file, photo, result.image, format)))

    def finish(leave: int = 0) -> None:
        """Reports what is written, and waits for all but `leave` of the rest."""
        for file, future in list(written):
            if future.done() or len(written) > leave:
                error = future.exception()  # Pillow raises almost anything
                outcome = future.result() if error is None else _failed(file, error)
                written.remove((file, future))
                tell(outcome)

    results = sampler.restore(requests())

    def step() -> bool:
        """Takes the next result, if there is one, and reports what is written meanwhile."""
        # In a thread of its own, as one that waits for XLA on a CPU hears no Ctrl-C.
        computed: Future[Result | None] = computing.submit(next, results, None)
        while not computed.done():
            under_way: list[Future] = [computed, *(future for _, future in written)]
            wait(under_way, return_when=FIRST_COMPLETED)
            finish(leave=_AHEAD)
        result = computed.result()
        if result is not None:
            take(result)
            finish(leave=_AHEAD)
        return result is not None

    try:
        while step():
            pass
    finally:
        stopped.set()
        for pool in (reading, computing):
            pool.shutdown(wait=False, cancel_futures=True)
        finish()
        writing.shutdown()


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[File], tuple], files: Iterable[File]
) -> Iterator[tuple[File, Future]]:
    """Each file with its reading, a few of which have been started before they are asked for."""
    reading: deque[tuple[File, Future]] = deque()
    for file in files:
        reading.append((file, pool.submit(read, file)))
        if len(reading) > _AHEAD:
            yield reading.popleft()
    while reading:
        yield reading.popleft()


def _read(file: File, scale: int, format: str) -> tuple[Photo, np.ndarray | None]:
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


def _write(file: File, photo: Photo, image: np.ndarray, format: str) -> Outcome:
    restored = photo.restored(image)
    write_photo(file.target, restored, format)
    before, after = (one.pixels.shape[1::-1] for one in (photo, restored))
    return Outcome(file, (before, after), notices=(*photo.notices, *losses(restored, format)))


def _failed(file: File, error: BaseException | None) -> Outcome:
    return Outcome(file, error=one_line(file.source, error))


def one_line(path: Path, error: BaseException | None) -> str:
    """An error in one line that names the file."""
    name = printable(str(path))
    text = printable((str(error).splitlines() or [type(error).__name__])[0])
    return text if name in text else f"{name}: {text}"
