"""What the library says in, what a command shows out: flags stand where parameters are named.

The library names a parameter with its value, as in "task=x: unknown" or "try batch_size=1". Each
command has a table FLAGS of the parameters that it has flags for.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from resshift_jax.console import show


def as_flags(text: str, flags: Mapping[str, str]) -> str:
    """The text with "--flag value" for each "name=value" of the table, and "--flag" for name=True.

    flags: parameter -> flag.
    """
    if not flags:
        return text
    named = re.compile(rf"(?<![\w./-])({'|'.join(flags)})=(True\b)?")  # not in the middle of a path
    return named.sub(lambda found: flags[found[1]] + ("" if found[2] else " "), text)


def describe_error(error: BaseException, flags: Mapping[str, str]) -> str:
    """What an error says, or its kind where it says nothing."""
    return as_flags(str(error) or type(error).__name__, flags)


@contextmanager
def log_to_stderr(flags: Mapping[str, str]) -> Iterator[None]:
    """The bare messages that the package logs, from INFO on, go to stderr while the block runs."""
    logger, handler = logging.getLogger("resshift_jax"), _ToStderr(flags)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries give the root logger a handler
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(handler)


class _ToStderr(logging.Handler):
    """Writes to what sys.stderr is by then: a progress bar puts itself there."""

    def __init__(self, flags: Mapping[str, str]):
        super().__init__()
        self._flags = flags

    def emit(self, record: logging.LogRecord) -> None:
        show(as_flags(record.getMessage(), self._flags), sys.stderr)
