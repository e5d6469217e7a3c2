"""Image files to arrays and back."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resshift_jax.files import written_whole

SUFFIXES = (".png", ".jpg", ".jpeg")


class ImageFileError(ValueError):
    """An image file that cannot be read; the message names it."""


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright as its EXIF says.

    Raises:
        ImageFileError: not an image, or a damaged one.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grey, which convert() would clip
                upright = Image.fromarray(np.rint(np.asarray(upright) / 257).astype(np.uint8))
            return np.asarray(upright.convert("RGB"))
    except UnidentifiedImageError as e:
        raise ImageFileError(f"{path}: not an image that can be read") from e
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ImageFileError(f"{path}: {_reason(e)}") from e


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8, 255 where to fill. Raises as `read_image`."""
    return np.asarray(Image.fromarray(read_image(path)).convert("L"))


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes (H, W, 3) uint8, whole or not at all."""
    with written_whole(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def list_images(path: Path) -> list[Path]:
    """The file itself, or the images of a folder in order of their names.

    Raises:
        ImageFileError: nothing there, or a folder without images.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ImageFileError(f"{path}: a folder without images ({', '.join(SUFFIXES)})")
        return found
    if not path.exists():
        raise ImageFileError(f"{path}: no such file or folder")
    return [path]


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read, {text}"
