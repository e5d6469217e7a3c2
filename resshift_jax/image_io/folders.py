"""Paths of files and folders in; which images they mean and where each result goes, out."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resshift_jax.console import printable
from resshift_jax.image_io.photo import ImageFileError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class File:
    """An image to restore.

    Attributes:
        source, target: the image, and the file to make of it.
        mask: finds the image's mask; None: it has none.
    """

    source: Path
    target: Path
    mask: Callable[[], Path] | None = None


def find_files(
    in_path: Path,
    out_path: Path,
    *,
    mask_path: Path | None = None,
    recursive: bool = False,
    suffix: str = "",
    format: str = "png",
    keep_results: bool = False,
) -> list[File]:
    """The images to restore.

    Masks that lie among the images are not images, nor are earlier results, if those are kept. No
    result is ever to replace an image or a mask.

    Raises:
        ValueError, OSError: no images, no such mask, or results that would replace images or masks.
    """
    require_folder(out_path)
    if suffix != Path(suffix).name:
        raise ValueError(f"suffix={suffix}: not a part of a file's name")
    root = in_path if in_path.is_dir() else in_path.parent
    if not suffix and _same(root, out_path):
        raise ValueError(f"{out_path}: the images' own folder; name another, or a suffix=TEXT")
    sources = list_images(in_path, recursive=recursive, exclude=out_path)
    if mask_path is not None:
        sources = _without_masks(sources, mask_path, root)
    targets = name_outputs(sources, root, out_path, suffix=suffix, format=format)
    images = {os.path.realpath(source): source for source in sources}
    masks = mask_path and os.path.realpath(mask_path)
    results = set()
    for source, target in targets.items():
        result = os.path.realpath(target)
        if result in images and (images[result] == source or not keep_results):
            raise ValueError(
                f"{target}: one of the images to restore, which its result would replace; name "
                f"another out_path=FOLDER, or a suffix=TEXT"
            )
        if masks and Path(result).is_relative_to(masks):
            raise ValueError(
                f"{target}: the result of {source} could replace a mask; name another "
                f"out_path=FOLDER"
            )
        results.add(result)
    return [
        File(source, target, partial(find_mask, mask_path, source, root) if mask_path else None)
        for source, target in targets.items()
        if os.path.realpath(source) not in results
    ]


def share_of(files: list[File], process: int, processes: int) -> list[File]:
    """The files that are one process's to restore.

    Each is dealt by its own path, since processes that list a folder while it changes may find
    other files there; what all of them find is then still restored, and once.
    """

    def number(file: File) -> int:
        digest = hashlib.blake2b(os.fsencode(file.source), digest_size=8).digest()
        return int.from_bytes(digest)

    return [file for file in files if number(file) % processes == process]


def list_images(path: Path, *, recursive: bool = False, exclude: Path | None = None) -> list[Path]:
    """The file itself, or the images of a folder, sorted by their paths.

    Images are told by their names; hidden ones are left out. What has such a name without being a
    file is listed, so that reading names it, and so is a sub-folder that cannot be opened.

    recursive: also those of sub-folders, but not of folders that are links.
    exclude: a sub-folder that is left out, as that of the results; `path` itself is never.

    Raises:
        ImageFileError: nothing there, a folder that cannot be opened, or one without images.
    """
    try:
        if not os.path.isdir(path):
            os.stat(path)
            return [path]
        found = _walk(path, recursive, exclude)
    except OSError as e:
        raise ImageFileError(printable(f"{path}: {e.strerror}")) from e
    if not found:
        more = "" if recursive else "; its sub-folders are not looked into"
        raise ImageFileError(
            printable(f"{path}: a folder without images ({', '.join(SUFFIXES)}){more}")
        )
    return sorted(found)


def _walk(top: Path, recursive: bool, exclude: Path | None) -> list[Path]:
    excluded = os.stat(exclude) if exclude is not None and os.path.exists(exclude) else None
    found: list[Path] = []
    named_as_images: list[Path] = []
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError:
            if folder == top:
                raise
            found.append(folder)
            continue
        for entry in entries:
            path = folder / entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and _is(path, excluded):
                continue
            if is_folder and recursive:
                folders.append(path)
            if path.suffix.lower() in SUFFIXES:
                (named_as_images if is_folder and recursive else found).append(path)
    empty = [p for p in named_as_images if not any(image.is_relative_to(p) for image in found)]
    return found + empty


def _is(path: Path, other: os.stat_result | None) -> bool:
    try:
        return other is not None and os.path.samestat(os.stat(path), other)
    except OSError:  # of a folder that lists its names, but no more
        return False


def name_outputs(
    paths: Iterable[Path], root: Path, folder: Path, *, suffix: str = "", format: str = "png"
) -> dict[Path, Path]:
    """Each image, and the file to make of it: `folder`, its path below `root`, stem + `suffix`.

    Images that would give one file keep their own suffix, as a.jpg.png. No two outputs are the
    same, nor is one a folder of another, also on file systems that take A for a, or an accent
    written as a letter of its own for one that is not. The order of `paths` does not matter.

    Raises:
        ValueError: a path that is not below `root`.
    """
    relatives = {path: path.relative_to(root) for path in sorted(set(paths))}
    # Results of images in a folder a.png need one of that name.
    folders = {_folded(parent) for relative in relatives.values() for parent in relative.parents}
    names = {
        path: relative.with_name(f"{relative.stem}{suffix}.{format}")
        for path, relative in relatives.items()
    }
    while True:
        counts = Counter(map(_folded, names.values()))
        clashing = []
        for path, name in names.items():
            longer = relatives[path].with_name(f"{path.name}{suffix}.{format}")
            if name != longer and (counts[_folded(name)] > 1 or _folded(name) in folders):
                clashing.append((path, longer))
        if not clashing:
            break
        names.update(clashing)

    # What still clashes differs only in what some file systems do not tell apart: numbered.
    keys = {path: _folded(name) for path, name in names.items()}
    settled = {path for path, key in keys.items() if counts[key] == 1 and key not in folders}
    taken = folders | {keys[path] for path in settled}
    for path in (path for path in names if path not in settled):
        number = 1
        while _folded(names[path]) in taken:
            number += 1
            names[path] = relatives[path].with_name(f"{path.name}{suffix}-{number}.{format}")
        taken.add(_folded(names[path]))
    return {path: folder / name for path, name in names.items()}


def find_mask(mask_path: Path, image_path: Path, root: Path) -> Path:
    """The mask of an image: `mask_path` itself, or of a folder the file at the image's path.

    That path is the image's own below `root`. A file of the image's full name is preferred to one
    of its stem and another suffix.

    Raises:
        ImageFileError: nothing there, several files of that stem, or the folder of the images.
    """
    if not os.path.isdir(mask_path):
        return mask_path
    if _same(mask_path, root):
        raise ImageFileError(printable(f"{mask_path}: the images' own folder, masks need another"))
    expected = mask_path / image_path.relative_to(root)
    if os.path.lexists(expected):
        return expected
    stem = unicodedata.normalize("NFC", expected.stem)
    try:
        found = sorted(
            path
            for path in expected.parent.iterdir()
            if unicodedata.normalize("NFC", path.stem) == stem and path.suffix.lower() in SUFFIXES
        )
    except OSError:
        found = []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        reason = f"{expected.parent}: several masks for {image_path} ({names}), leave one"
    else:
        reason = f"{expected.parent}: no mask for {image_path}, name one {expected.name}"
    raise ImageFileError(printable(reason))


def _without_masks(sources: list[Path], mask_path: Path, root: Path) -> list[Path]:
    if not mask_path.exists():
        raise FileNotFoundError(f"mask_path={mask_path}: nothing there")
    if mask_path.is_dir() and _same(mask_path, root):
        raise ValueError(f"mask_path={mask_path}: the images' own folder, masks need another")
    masks = os.path.realpath(mask_path)
    images = [s for s in sources if not Path(os.path.realpath(s)).is_relative_to(masks)]
    if not images:
        raise ValueError(f"mask_path={mask_path}: it holds all the images that were found")
    return images


def require_folder(path: Path) -> None:
    """Raises NotADirectoryError or PermissionError where no files can be put into a folder."""
    above = next((p for p in (path, *path.parents) if os.path.lexists(p)), path)
    if not above.is_dir():
        what = "a link to nothing" if not above.exists() else "a file"
        raise NotADirectoryError(f"{path}: cannot be a folder, for {above} is {what}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: cannot be written to, {above} does not permit it")


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _folded(path: Path) -> str:
    """The same for paths that some file system takes for one."""
    composed = unicodedata.normalize("NFC", path.as_posix())
    return unicodedata.normalize("NFC", composed.casefold())
