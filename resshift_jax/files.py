"""Writing files so that no half-written one is ever left under its own name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends, or goes if it fails.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own: what a writer leaves beside its file goes with it.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        # Some writers give their files to the owner alone; give them what a plain file would have.
        plain = Path(folder) / "plain"
        plain.touch()
        temporary.chmod(plain.stat().st_mode)
        os.replace(temporary, path)
