"""Text in, lines on a stream out: what commands show, and names fit to be printed."""

import os
from pathlib import Path
from typing import TextIO


def printable(text: str) -> str:
    """The text on one line that every terminal takes: what does not print is written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(path: Path, error: BaseException | None) -> str:
    """An error in one line that names the file."""
    name = printable(str(path))
    text = printable((str(error).splitlines() or [type(error).__name__])[0])
    return text if name in text else f"{name}: {text}"


def counted(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def show(text: str, stream: TextIO) -> None:
    """Prints a line or a few. A log that is full, or whose reader has gone, costs no picture."""
    try:
        for line in text.splitlines():
            print(writable(line, stream), file=stream)
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def writable(line: str, stream: TextIO) -> str:
    """The line with escapes for what a stream cannot show, such as parts of a name's bytes."""
    encoding = stream.encoding or "utf-8"
    return printable(line).encode(encoding, "backslashreplace").decode(encoding)
