"""The name of a set of images in, its images by their numbers out."""

import os
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resshift_jax.console import printable
from resshift_jax.data.config import InputError, SourceConfig
from resshift_jax.data.tfds import TfdsSplit, open_tfds
from resshift_jax.image_io.folders import SUFFIXES, list_images
from resshift_jax.image_io.photo import ImageFileError, read_photo
from resshift_jax.pixels import uint8_from_unit

CHECKED_PAIRS = 1000
"""Of so many pairs the sizes are compared when a set is opened, of the others as they are read."""


@dataclass(frozen=True)
class Folder:
    """Image files, or pairs of them.

    Attributes:
        root, names: the images; names are paths from the root, as text, of which a million fit.
        lq_root, lq_names: the low-quality images; None: there are none.
        scale: side of an image over the side of its low-quality version.
    """

    root: str
    names: tuple[str, ...]
    scale: int = 1
    lq_root: str | None = None
    lq_names: tuple[str, ...] | None = None

    @property
    def paired(self) -> bool:
        return self.lq_names is not None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path of image i."""
        return os.path.join(self.root, self.names[i])

    def lq_name(self, i: int) -> str:
        """The path of its low-quality version, of a paired set."""
        assert self.lq_root is not None
        assert self.lq_names is not None
        return os.path.join(self.lq_root, self.lq_names[i])

    def read(self, i: int) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "h w 3"] | None]:
        """(H, W, 3) uint8, and of a paired set (H / scale, W / scale, 3) uint8, or None.

        Raises:
            ImageFileError: a file that cannot be read.
            InputError: a pair of sizes that do not fit.
        """
        hq = _read(self.name(i))
        if not self.paired:
            return hq, None
        lq = _read(self.lq_name(i))
        if not _fit(hq.shape, lq.shape, self.scale):
            raise InputError(
                printable(
                    f"{self.name(i)} ({_size(hq)}) and {self.lq_name(i)} ({_size(lq)}): a pair "
                    f"needs sides that are {self.scale} times as long, {self.scale * lq.shape[1]}x"
                    f"{self.scale * lq.shape[0]} here"
                )
            )
        return hq, lq


Source = Folder | TfdsSplit


def open_source(config: SourceConfig, scale: int) -> Source:
    """The images that a configuration names, to be read by their numbers, also after pickling.

    Folders are listed now: images that come later are not found. Nothing is downloaded.

    Args:
        scale: side of an image over the side of its low-quality version, for pairs.

    Raises:
        InputError: no images, images without partners, or pairs whose sizes do not fit.
    """
    if config.is_tfds:
        return open_tfds(config)
    path = Path(config.path)
    if path.is_file() and path.suffix.lower() == ".txt":
        root, names = str(path.parent), _listed(path)
    else:
        if path.is_file():
            raise InputError(printable(f"{path}: a folder or a list of images (.txt) needed"))
        root, names = str(path), _names_below(path, exclude=config.lq)
    if config.lq is None:
        return Folder(root, names)
    lq_names = _partners(root, names, Path(config.lq))
    source = Folder(root, names, scale, config.lq, lq_names)
    _check_sizes(source)
    return source


def _listed(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(printable(f"{path}: a list that cannot be read ({e})")) from e
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise InputError(printable(f"{path}: a list without images, name one a line"))
    return names


def _names_below(folder: Path, exclude: str | None = None) -> tuple[str, ...]:
    try:
        paths = list_images(folder, recursive=True, exclude=Path(exclude) if exclude else None)
    except ImageFileError as e:
        raise InputError(str(e)) from e
    return tuple(os.path.relpath(path, folder) for path in paths)


def _partners(root: str, names: tuple[str, ...], lq: Path) -> tuple[str, ...]:
    """The low-quality image of each: at the same path below `lq`, or with another suffix."""
    by_stem: dict[str, list[str]] = {}
    for name in _names_below(lq):
        by_stem.setdefault(_stem(name), []).append(name)
    partners = []
    for name in names:
        relative = os.path.relpath(name, root) if os.path.isabs(name) else os.path.normpath(name)
        found = by_stem.get(_stem(relative), [])
        found = [relative] if relative in found else found
        if len(found) != 1:
            image, where = os.path.join(root, name), lq / relative
            reason = (
                f"{image}: several low-quality images for it in {where.parent}, leave one of "
                f"{', '.join(os.path.basename(other) for other in found)}"
                if found
                else f"{image}: no low-quality image for it, {where} needed, or with another "
                f"suffix of {', '.join(SUFFIXES)}"
            )
            raise InputError(printable(reason))
        partners.append(found[0])
    return tuple(partners)


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(name)[0])


def _check_sizes(source: Folder) -> None:
    """Raises InputError for pairs that do not fit, of some that are spread evenly."""
    count = min(len(source), CHECKED_PAIRS)
    for i in (n * len(source) // count for n in range(count)):
        hq, lq = _header_size(source.name(i)), _header_size(source.lq_name(i))
        if hq is None or lq is None or _fit(hq, lq, source.scale):
            continue
        with suppress(ImageFileError):
            source.read(i)  # raises InputError, unless only one of them is stored on its side


def _header_size(path: str) -> tuple[int, int] | None:
    """Height and width as they are stored; None for a file that reading will find unreadable."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # Pillow raises almost anything where a file is damaged
        return None


def _fit(hq: tuple[int, ...], lq: tuple[int, ...], scale: int) -> bool:
    return hq[0] == scale * lq[0] and hq[1] == scale * lq[1]


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _read(path: str) -> np.ndarray:
    pixels = read_photo(Path(path)).pixels
    return pixels if pixels.dtype == np.uint8 else uint8_from_unit(pixels)
