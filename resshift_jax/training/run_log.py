"""A run's record of its steps: their metrics in; tables, curves, a bar and a trace out."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from resshift_jax.training.config import LoggingConfig, TrainingConfig
from resshift_jax.training.records import Table
from resshift_jax.training.report import TrainingReport
from resshift_jax.training.step import StepMetrics

LOSSES_TABLE, METRICS_TABLE = "losses.csv", "validation.csv"
MOST_SKIPPED = 100
"""Steps in a row without a finite gradient after which a run gives up."""

T = TypeVar("T")


class TrainingError(RuntimeError):
    """A run that cannot go on; one line that says why and what to do."""


class RunLog:
    """Given each step's metrics; used as a context.

    One step is always under way while the metrics of the one before are written.

    Args:
        config: of the run.
        folder: of the run, which has the tables, TensorBoard's files and the trace.
        start: the step that the run goes on from; later rows of the tables are dropped.
        flops: of a step on all devices.
        peak: floating-point operations a second that all devices could do.
        silent: nothing is shown or written, as by all processes but the first.

    Raises:
        ModuleNotFoundError: tensorboardX is asked for and not installed.
    """

    def __init__(
        self, config: TrainingConfig, folder: Path, *, start: int, flops: float, peak: float,
        silent: bool = False,
    ):  # fmt: skip
        self._folder = folder
        self._losses = None if silent else Table(folder / LOSSES_TABLE, start)
        self._metrics = None if silent else Table(folder / METRICS_TABLE, start)
        self._report = TrainingReport(
            config.logging, folder, start=start, train_steps=config.train_steps,
            batch_size=config.batch_size, flops=flops, peak=peak, silent=silent,
        )  # fmt: skip
        self._trace = _Trace(config.logging, folder)
        self._pending: deque[tuple[int, StepMetrics, float]] = deque()
        self._waited = 0.0

    def __enter__(self) -> "RunLog":
        self._report.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._report.__exit__(*exception)
        for table in (self._losses, self._metrics):
            if table is not None:
                table.close()

    def next(self, batches: Iterator[T]) -> T:
        """The next batch; the time that it is waited for is reported with its step."""
        started = time.perf_counter()
        batch = next(batches)
        self._waited = time.perf_counter() - started
        return batch

    def before(self, step: int) -> None:
        """A step is about to be computed."""
        self._trace.before(step)

    def step(self, step: int, metrics: StepMetrics) -> None:
        """A step is being computed, and these will be its metrics.

        Raises:
            TrainingError: too many steps in a row had no finite gradient.
        """
        self._pending.append((step, metrics, self._waited))
        self._write(all_but=1)
        self._trace.after(step, metrics)

    def flush(self) -> None:
        """Waits for the steps under way, and brings their rows to the disk."""
        self._write()
        if self._losses is not None:
            self._losses.flush()

    def pause(self) -> AbstractContextManager[None]:
        """A context for what is not training, and is left out of the rates."""
        return self._report.pause()

    def validation(
        self, step: int, metrics: Mapping[str, float], picture: np.ndarray | None
    ) -> None:
        """The metrics of a validation, which is done once their row is on the disk."""
        if self._metrics is not None:
            self._metrics.add({"step": step, **metrics})
            self._metrics.flush()
            self._report.metrics(step, metrics)
            if picture is not None:
                self._report.pictures(step, picture)

    def _write(self, all_but: int = 0) -> None:
        while len(self._pending) > all_but:
            step, metrics, waited = self._pending.popleft()
            metrics = jax.device_get(metrics)
            if self._losses is not None:
                self._losses.add(_row(step, metrics))
            if int(metrics.skipped_in_a_row) >= MOST_SKIPPED:
                raise TrainingError(
                    f"step {step}: no finite gradient in {MOST_SKIPPED} steps; remove the newest "
                    f"checkpoints of {self._folder}, and go on with accept_changes=True and a "
                    f"lower optimizer.learning_rate or an optimizer.clip_norm"
                )
            self._report.step(step, metrics, waited)


def _row(step: int, metrics: StepMetrics) -> dict[str, float | int]:
    terms = {name: float(value) for name, value in metrics.terms.items()}
    return {
        "step": step, "loss": float(metrics.loss), **terms,
        "gradient_norm": float(metrics.grad_norm), "learning_rate": float(metrics.learning_rate),
        "skipped": int(metrics.skipped),
    }  # fmt: skip


class _Trace:
    """Writes a trace of some steps for TensorBoard or Perfetto."""

    def __init__(self, config: LoggingConfig, folder: Path):
        self._first, self._last = config.profile or (0, -1)
        self._folder, self._is_on = folder / "profile", False

    def before(self, step: int) -> None:
        if not self._is_on and self._first <= step <= self._last:
            jax.profiler.start_trace(self._folder)
            self._is_on = True

    def after(self, step: int, metrics: StepMetrics) -> None:
        if self._is_on and step >= self._last:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            self._is_on = False
