"""A path in, a file under that name out: whole, or none."""

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
    # A folder of its own: what a writer leaves beside its file goes with it. Its name gets some
    # letters more than the prefix, for which a long name of a file leaves no room.
    prefix = f".{path.name[:40]}."
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        # Some writers give their files to the owner alone; give them what a plain file would have.
        plain = Path(folder, "plain" if path.name != "plain" else "other")
        plain.touch()
        temporary.chmod(plain.stat().st_mode)
        os.replace(temporary, path)
