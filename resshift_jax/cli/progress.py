"""What a run shows: a bar while it goes on, a line for each file, and at the end what failed."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from resshift_jax.cli.errors import as_flags
from resshift_jax.console import counted, printable, show, writable
from resshift_jax.inference.files import Outcome
from resshift_jax.inference.programs import Programs

_MOST_LISTED = 100


class _Rate(ProgressColumn):
    """Images a second, or seconds an image."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        if not rate:
            return Text("")
        return Text(f"{rate:.1f} images/s" if rate >= 1 else f"{1 / rate:.1f} s/image")


class Report:
    """Told of each file that is done with; used as a context, it shows a bar on a terminal.

    Args:
        total: how many files there are to do.
        folder: where the results go.
        skipped: how many were left out because their results are there.
        name: of this process, where there are several.
        flags: parameter -> flag of the command, for what is said of files that failed.
    """

    def __init__(
        self,
        total: int,
        folder: Path,
        *,
        skipped: int = 0,
        name: str = "",
        flags: Mapping[str, str] | None = None,
    ):
        self.total, self.folder, self.skipped, self.name = total, folder, skipped, name
        self.flags = flags or {}
        self.restored = 0
        self.failures: list[str] = []
        self._notices: set[str] = set()
        self._start = time.perf_counter()
        self._shown = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.total}"),  # `completed` counts tiles, too
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            disable=not self._shown,
            redirect_stdout=False,  # it may be a file
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task(name, total=total, done=0)

    def __enter__(self) -> "Report":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, share: float) -> None:
        """The share of an image that has just been done with."""
        self._bar.advance(self._task, share)

    def announce(self, what: str) -> None:
        """What the run is at, if not at images; "" when that ends."""
        self._bar.update(self._task, description=what or self.name)

    def __call__(self, outcome: Outcome) -> None:
        file = outcome.file
        if outcome.error is None:
            self.restored += 1
            before, after = (f"{width}x{height}" for width, height in outcome.sizes)
            self._say(f"{file.source} -> {file.target}  {before} -> {after}", sys.stdout)
        else:
            error = self._with_flags(outcome.error, str(file.source))
            self.failures.append(error)
            self._say(f"error: {error}", sys.stderr)
        for notice in outcome.notices:
            if notice not in self._notices:
                self._notices.add(notice)
                self._say(f"note: {file.source}: {notice} (said once)", sys.stderr)
        done = self.restored + len(self.failures)
        completed = max(done, self._bar.tasks[0].completed)
        self._bar.update(self._task, completed=completed, done=done)

    def _with_flags(self, error: str, name: str) -> str:
        """What is said of a file, but for its name, with the flags of the command."""
        before, found, after = error.partition(printable(name))
        return as_flags(before, self.flags) + found + as_flags(after, self.flags)

    def _say(self, line: str, stream: TextIO) -> None:
        if self._shown and stream.isatty():
            self._bar.console.print(Text(writable(line, stream)), soft_wrap=True)  # above the bar
        else:
            show(printable(line), stream)

    def summary(self, programs: Programs | None = None, interrupted: bool = False) -> str:
        """A few lines on the whole run."""
        seconds = time.perf_counter() - self._start
        done = f"{self.restored} of {counted(self.total, 'image')} restored to {self.folder}"
        lines = [f"{self.name + ': ' if self.name else ''}{done} in {seconds:.1f} s"]
        if programs is not None and programs.count:
            lines.append(f"  of which {_compiled(programs)}")
        if self.skipped:
            lines.append(f"  {self.skipped} more left as they are, their results are there")
        if self.failures:
            lines.append(f"  {len(self.failures)} failed{':' if self.total > 1 else ''}")
            if self.total > 1:
                lines += [f"    {failure}" for failure in self.failures[:_MOST_LISTED]]
            if len(self.failures) > _MOST_LISTED:
                lines.append(f"    and {len(self.failures) - _MOST_LISTED} more, named above")
        if interrupted:
            lines.append("  interrupted: the same command with --skip-existing goes on")
        return "\n".join(map(printable, lines))


def _compiled(programs: Programs) -> str:
    """The time that went into programs, and where they came from."""
    new, found = programs.count - programs.found, programs.found
    ways = [f"compiling {counted(new, 'program')}"] if new else []
    ways += [f"loading {counted(found, 'program')} of an earlier run"] if found else []
    return f"{programs.seconds:.1f} s for {' and '.join(ways)}, one for each shape of tiles"
