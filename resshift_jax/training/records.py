"""A run's tables: a row for each step or validation in, a CSV file out that a resumed run goes on.

Numbers are written in full precision, so that two runs can be compared to the last bit.
"""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from resshift_jax.files import written_whole

Row = Mapping[str, float | int]


class Table:
    """A CSV file whose first column is the step.

    Args:
        path: the file.
        step: from which a run goes on; later rows, and one cut off by a crash, are dropped.
    """

    def __init__(self, path: Path, step: int):
        self._path = path
        self._columns: list[str] = []
        if path.exists():
            self._rewrite(step)
        self._file = path.open("a", newline="")

    def add(self, row: Row) -> None:
        """A row; where a column is new, earlier rows have nan. `flush` brings it to the disk."""
        new = [name for name in row if name not in self._columns]
        if new and self._columns:
            self._file.close()
            self._rewrite(math.inf, new)
            self._file = self._path.open("a", newline="")
        self._write(self._file, row)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()

    def _write(self, file: TextIO, row: Row) -> None:
        writer = csv.writer(file, lineterminator="\n")
        if not self._columns:
            self._columns = list(row)
            writer.writerow(self._columns)
        writer.writerow([_text(row.get(name, math.nan)) for name in self._columns])

    def _rewrite(self, last: float, new: Sequence[str] = ()) -> None:
        """The rows up to a step, with columns that are new."""
        rows = [row for row in read_table(self._path) if row["step"] <= last]
        self._columns = []
        with written_whole(self._path) as temporary, temporary.open("w", newline="") as file:
            for row in rows:
                self._write(file, {**row, **dict.fromkeys(new, math.nan)})


def read_table(path: Path) -> Iterator[dict[str, float]]:
    """The whole rows of a table; none where there is no such file."""
    if not path.exists():
        return
    with path.open(newline="", errors="replace") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            try:
                yield {name: _number(value) for name, value in row.items()}
            except (AttributeError, TypeError, ValueError):  # being written as the machine stopped
                return


def _number(text: str) -> float | int:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
