"""Sources of images in, an endless row of batches out: any of them also alone, by its step."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np

from resshift_jax.console import printable
from resshift_jax.data.config import CropConfig, DataConfig, InputError
from resshift_jax.data.crops import check_pairs_can_be_cropped, crop_pair
from resshift_jax.data.sources import Source, open_source
from resshift_jax.image_io.photo import ImageFileError

ALWAYS_ALLOWED = 10
"""So many images may be unreadable, whatever their share."""

MOST_IN_A_ROW = 100
"""Of so many unreadable images in a row the last ends the training."""

Batch = dict[str, np.ndarray]


class Loader:
    """Batches of squares for training.

    A sample is a function of the seed, the step and its index in the batch. It does not depend on
    threads, processes or shards, nor on the step at which reading began. Each image of a source is
    seen once before any is seen again.

    A batch is a dictionary of
        hq: (batch_size / shards, size, size, 3) uint8;
        lq: the same of sides size / scale, if any source holds pairs; zeros beside the others;
        given: (batch_size / shards,) bool, whether lq is that of a pair, where only some are;
        record: (batch_size / shards, 3) int32: the number of the source, that of the image in it,
            and how many images were unreadable, for each of which the next one was read instead.
    """

    def __init__(
        self,
        config: DataConfig,
        scale: int,
        *,
        seed: int,
        batch_size: int,
        shard: int = 0,
        shards: int = 1,
    ):
        """Opens the sources.

        Args:
            scale: side of an image over the side of its low-quality version.
            seed: 0 or more.
            batch_size: of all shards together; each has as many samples, one shard after another.
            shard, shards: which part of each batch this process reads, of how many.

        Raises:
            InputError: sources that cannot be opened or mixed, or a batch that cannot be shared.
        """
        if not config.sources:
            raise InputError("data.sources: none given, name a folder of images")
        if batch_size < 1 or batch_size % shards or not 0 <= shard < shards:
            raise InputError(
                f"batch_size: {batch_size} given, must be a multiple of the number of processes "
                f"that read ({shards})"
            )
        self.config = config
        self.sources = tuple(open_source(source, scale) for source in config.sources)
        if any(source.paired for source in self.sources):
            check_pairs_can_be_cropped(config.crop, scale)
        if all(source.paired for source in self.sources) and config.crop.max_reduction != 1:
            raise InputError(
                f"data.crop.max_reduction: {config.crop.max_reduction} given, but pairs must keep "
                f"their pixels: 1"
            )
        self._shard, self._shards = shard, shards
        samples = _samples(config, self.sources, scale, seed)
        self._batches = samples.batch(batch_size // shards)
        self._unreadable: dict[tuple[int, int], str] = {}

    def shares(self) -> dict[str, float]:
        """How much of what is read is of each kind of source, 1 in sum."""
        weights = _weights(self.config, self.sources)
        found: dict[str, float] = {}
        for source, weight in zip(self.config.sources, weights, strict=True):
            kind = source.kind or source.path
            found[kind] = found.get(kind, 0) + weight / sum(weights)
        return found

    def batch(self, step: int) -> Batch:
        """The batch of a step, read now. Raises InputError as `batches` does."""
        batch: Batch = self._batches[step * self._shards + self._shard]
        return batch

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """The batches from a step on, without end, read ahead.

        Threads and processes begin at the first one, and end when the iterator is closed or
        dropped.

        Raises:
            InputError: a pair whose sizes do not fit, or too many unreadable images in a row.
        """
        if self.config.workers:
            read_ahead = self._from_processes(start_step)
        else:
            read_ahead = self._from_threads(start_step)
        with contextlib.closing(read_ahead):
            yield from read_ahead

    def _from_threads(self, start_step: int) -> Generator[Batch, None, None]:
        threads, ahead = self.config.threads, self.config.prefetch
        # A thread makes a whole batch: with fewer batches than threads, some would be idle.
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
        ours = self._batches[start_step * self._shards + self._shard :: self._shards]
        iterator = iter(ours.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    def _from_processes(self, start_step: int) -> Generator[Batch, None, None]:
        # Not by Grain's mp_prefetch: through shared memory it leaves some of it behind, and through
        # pipes it waits for 25 s when it is closed. Any batch can be asked for by its number.
        workers = self.config.workers
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
            initargs=(self._batches,),
        )
        waiting: deque[Future[Batch]] = deque()
        steps = itertools.count(start_step)
        try:
            while True:
                while len(waiting) < max(self.config.prefetch, workers):
                    number = next(steps) * self._shards + self._shard
                    waiting.append(pool.submit(_read_in_worker, number))
                yield waiting.popleft().result()
        except BrokenProcessPool as e:
            raise InputError(
                f"data.workers: one of {workers} processes that read has died, perhaps for want of "
                f"memory; try fewer, or 0"
            ) from e
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def unreadable_count(self) -> int:
        """How many images were found unreadable, as far as `unreadable` was asked."""
        return len(self._unreadable)

    def unreadable(self, batch: Batch) -> list[str]:
        """A line for each image that was found unreadable in this batch, and in none before it.

        They are read once more, for the reason.

        Raises:
            InputError: more are unreadable than `max_unreadable` allows.
        """
        lines = []
        for number, asked, skipped in batch["record"].tolist():
            source = self.sources[number]
            for i in range(asked, asked + skipped):
                key = number, i % len(source)
                if key in self._unreadable:
                    continue
                reason = _reason(source, key[1])
                if reason is None:  # of a file system that has failed for a moment
                    lines.append(f"{printable(source.name(key[1]))}: unreadable at first")
                    continue
                self._unreadable[key] = reason
                lines.append(reason)
        found, total = len(self._unreadable), sum(map(len, self.sources))
        allowed = max(ALWAYS_ALLOWED, int(self.config.max_unreadable * total))
        if found > allowed:
            raise InputError(
                f"{found} of {total} images are unreadable, data.max_unreadable allows {allowed}; "
                f"the last: {list(self._unreadable.values())[-1]}"
            )
        return lines


def _weights(config: DataConfig, sources: tuple[Source, ...]) -> list[float]:
    pairs = zip(config.sources, sources, strict=True)
    return [len(source) if said.weight is None else said.weight for said, source in pairs]


def _samples(
    config: DataConfig, sources: tuple[Source, ...], scale: int, seed: int
) -> grain.MapDataset:
    """All samples there will ever be, by their numbers."""
    seeds = np.random.SeedSequence(seed).generate_state(len(sources) + 1).tolist()
    endless = [
        grain.MapDataset.source(_Records(number, source)).shuffle(seed=seeds[number + 1]).repeat()
        for number, source in enumerate(sources)
    ]
    mixed = grain.MapDataset.mix(endless, _weights(config, sources))
    paired = {source.paired for source in sources}
    crop = partial(_cropped, config=config.crop, scale=scale, some_paired=len(paired) == 2)
    return mixed.random_map(crop, seed=seeds[0])


@dataclass(frozen=True)
class _Records:
    """A source as Grain reads it: images and their record, also where some are unreadable."""

    number: int
    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, asked: int) -> tuple:
        most = min(MOST_IN_A_ROW, len(self))
        for skipped in range(most):
            try:
                images = self.source.read((asked + skipped) % len(self))
            except (ImageFileError, OSError) as e:
                last = e
                continue
            return *images, np.array([self.number, asked, skipped], np.int32)
        raise InputError(printable(f"{last}; {most} images in a row are unreadable"))


def _cropped(
    sample: tuple, rng: np.random.Generator, config: CropConfig, scale: int, some_paired: bool
) -> Batch:
    hq, lq, record = sample
    hq, lq = crop_pair(hq, lq, rng, config, scale)
    images = {"hq": hq} if lq is None else {"hq": hq, "lq": lq}
    if some_paired:
        images["given"] = np.array(lq is not None)
        side = config.size // scale
        images.setdefault("lq", np.zeros((side, side, 3), np.uint8))
    return images | {"record": record}


def _reason(source: Source, i: int) -> str | None:
    try:
        source.read(i)
    except (ImageFileError, OSError) as e:
        return printable(str(e))
    return None


_batches_of_worker: grain.MapDataset


def _prepare_worker(batches: grain.MapDataset) -> None:
    """Makes a process that reads end with the one that it reads for."""
    global _batches_of_worker
    _batches_of_worker = batches
    # Where all processes are told to stop, that one first finishes its step, and then ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(60, os._exit, (1,)).start())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _read_in_worker(number: int) -> Batch:
    batch: Batch = _batches_of_worker[number]
    return batch


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # also returns where it was killed: the system then closes a pipe of it
    os._exit(1)
