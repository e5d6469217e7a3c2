"""What a training run shows: metrics of its steps in; a bar, lines and TensorBoard curves out."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resshift_jax.console import show
from resshift_jax.training.config import LoggingConfig
from resshift_jax.training.step import TIME_GROUPS, StepMetrics


class TrainingReport:
    """Given each step's metrics; used as a context, it shows a bar on a terminal, or else lines.

    Args:
        config: how often.
        folder: of the run, for TensorBoard.
        start, train_steps: the step that the run goes on from, and the last one.
        batch_size: images a step.
        flops: of a step on all devices.
        peak: floating-point operations a second that all devices could do.
        silent: nothing is shown or written, as by all processes but the first.

    Raises:
        ModuleNotFoundError: tensorboardX is asked for and not installed.
    """

    def __init__(
        self, config: LoggingConfig, folder: Path, *, start: int, train_steps: int, batch_size: int,
        flops: float, peak: float, silent: bool = False,
    ):  # fmt: skip
        self.config, self.train_steps, self.batch_size = config, train_steps, batch_size
        self._start = start
        self.flops, self.peak, self.silent = flops, peak, silent
        self._on_terminal = sys.stderr.isatty() and not silent
        self._writer = None if silent or not config.tensorboard else _writer(folder, start)
        self._groups: list[tuple[np.ndarray, np.ndarray]] = []
        self._window = _Window(start)
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
            console=Console(stderr=True),
            disable=not self._on_terminal,
            redirect_stdout=False,
            speed_estimate_period=300,
        )
        self._task = self._bar.add_task("compiling", total=train_steps, completed=start)

    def __enter__(self) -> "TrainingReport":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """A context for what is not training, and is left out of the rates."""
        started = time.perf_counter()
        yield
        self._window.shift(time.perf_counter() - started)

    def step(self, step: int, metrics: StepMetrics, waited: float) -> None:
        """The metrics of step number `step`, as numpy, and the seconds it waited for its data."""
        window = self._window
        if step == self._start + 1:
            window.measure(step)  # without the time that went into compiling
        window.waited += waited
        self._groups.append((np.asarray(metrics.group_loss), np.asarray(metrics.group_count)))
        self._bar.update(self._task, completed=step)
        if step % self.config.every and step != self.train_steps:
            return
        now = window.measure(step)
        rate, waiting = max(now["steps_per_second"], 1e-9), now["waiting"]
        mfu = rate * self.flops / self.peak
        text = (
            f"loss {float(metrics.loss):.4g}  {rate * self.batch_size:.3g} images/s  "
            f"{waiting:.0%} waiting for data"
        )
        self._bar.update(self._task, description=text)
        if not self._on_terminal:
            left = (self.train_steps - step) / rate
            self._say(f"step {step}/{self.train_steps}  {text}  MFU {mfu:.2f}  {_clock(left)} left")
        self._curves(step, metrics, {
            "speed/images_per_second": rate * self.batch_size,
            "speed/steps_per_second": rate,
            "speed/mfu": mfu,
            "speed/waiting_for_data": waiting,
        })  # fmt: skip
        self._groups = []

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Those of a validation."""
        values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._say(f"step {step}: validation  {values}")
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(f"validation/{name}", value, step)

    def pictures(self, step: int, grid: np.ndarray) -> None:
        """A picture (H, W, 3) uint8."""
        if self._writer is not None:
            self._writer.add_image("validation/pictures", grid, step, dataformats="HWC")

    def _say(self, line: str) -> None:
        if self.silent:
            return
        if self._on_terminal:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            show(line, sys.stderr)

    def _curves(self, step: int, metrics: StepMetrics, speed: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        scalars: dict[str, Any] = {
            "loss/total": metrics.loss,
            **{f"loss/{name}": value for name, value in metrics.terms.items()},
            **_by_group(self._groups),
            "optimizer/gradient_norm": metrics.grad_norm,
            "optimizer/learning_rate": metrics.learning_rate,
            "optimizer/skipped_steps": metrics.skipped,
            **speed,
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)


class _Window:
    """The time since rates were last shown, without pauses."""

    def __init__(self, step: int):
        self.waited = 0.0
        self._step, self._start = step, time.perf_counter()

    def measure(self, step: int) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        done, waited = step - self._step, self.waited
        self._step, self._start, self.waited = step, time.perf_counter(), 0.0
        return {"steps_per_second": done / seconds, "waiting": min(waited / seconds, 1.0)}

    def shift(self, seconds: float) -> None:
        self._start += seconds


def _by_group(steps: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Mean loss of the samples of each group of time-steps, of those that had any."""
    count = np.sum([count for _, count in steps], axis=0)
    total = np.sum([loss * count for loss, count in steps], axis=0)
    return {
        f"loss_by_step/{i + 1}_of_{TIME_GROUPS}": total[i] / count[i]
        for i in range(TIME_GROUPS)
        if count[i]
    }


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _writer(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "logging.tensorboard: tensorboardX is not installed; pip install '.[train]', or set "
            "logging.tensorboard=false"
        ) from e
    return SummaryWriter(str(folder), purge_step=step + 1)
