"""Paths of files and folders in; which images they mean and where each result goes, out."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from resshift_jax.files import printable
from resshift_jax.images import ImageFileError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
    """Each image, and the file to make of it: `folder`, its place below `root`, stem + `suffix`.

    Images that would give one file keep their own suffix, as a.jpg.png. No two outputs are the
    same, nor is one a folder of another, also on file systems that take A for a, or an accent
    written as a letter of its own for one that is not. The order of `paths` does not matter.

    Raises:
        ValueError: a path that is not below `root`.
    """
    places = {path: path.relative_to(root) for path in sorted(set(paths))}
    # Results of images in a folder a.png need one of that name.
    folders = {_folded(parent) for place in places.values() for parent in place.parents}
    names = {
        path: place.with_name(f"{place.stem}{suffix}.{format}") for path, place in places.items()
    }
    while True:
        counts = Counter(map(_folded, names.values()))
        clashing = []
        for path, name in names.items():
            longer = places[path].with_name(f"{path.name}{suffix}.{format}")
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
            names[path] = places[path].with_name(f"{path.name}{suffix}-{number}.{format}")
        taken.add(_folded(names[path]))
    return {path: folder / name for path, name in names.items()}


def find_mask(mask_path: Path, image_path: Path, root: Path) -> Path:
    """The mask of an image: `mask_path` itself, or in that folder the file at the image's place.

    A file there of the image's full name is preferred to one of its stem and another suffix.

    Raises:
        ImageFileError: nothing there, several files of that stem, or the folder of the images.
    """
    if not os.path.isdir(mask_path):
        return mask_path
    if os.path.realpath(mask_path) == os.path.realpath(root):
        raise ImageFileError(printable(f"{mask_path}: the images' own folder, masks need another"))
    place = mask_path / image_path.relative_to(root)
    if os.path.lexists(place):
        return place
    stem = unicodedata.normalize("NFC", place.stem)
    try:
        found = sorted(
            path
            for path in place.parent.iterdir()
            if unicodedata.normalize("NFC", path.stem) == stem and path.suffix.lower() in SUFFIXES
        )
    except OSError:
        found = []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        reason = f"{place.parent}: several masks for {image_path} ({names}), leave one"
    else:
        reason = f"{place.parent}: no mask for {image_path}, name one {place.name}"
    raise ImageFileError(printable(reason))


def _folded(path: Path) -> str:
    """The same for paths that some file system takes for one."""
    composed = unicodedata.normalize("NFC", path.as_posix())
    return unicodedata.normalize("NFC", composed.casefold())
