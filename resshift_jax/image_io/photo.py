"""Image files in, arrays with what belongs to them out, and back into files."""

import dataclasses
import io
import logging
import os
import stat
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from resshift_jax.console import printable
from resshift_jax.files import written_whole
from resshift_jax.image_io.metadata import colour_space, to_srgb, turn_upright
from resshift_jax.pixels import uint8_from_unit

MAX_PIXELS = 178_956_970  # where Pillow, too, takes a file for a bomb
MAX_BYTES = 2**31

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
_JPG, _WEBP = {"quality": 95, "subsampling": 0}, {"quality": 95}
_OPTIONS: dict[str, dict[str, int]] = {"png": {}, "jpg": _JPG, "webp": _WEBP}
_MAX_SIDE = {"png": 2**31 - 1, "jpg": 65_500, "webp": 16_383}
_MAX_JPG_EXIF = 65_533
_MAX_JPG_PROFILE = 255 * 65_519

# The classes rather than Image.open, which tries 40 more formats and warns of large images.
_READERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
}

# Pillow warns of what it skips in odd files, which is no news for a user. Files are read in
# threads, where only a filter that is set once is safe.
logging.getLogger("PIL").addHandler(logging.NullHandler())  # not to stderr where nobody listens
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w+Plugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Pixels = UInt8[np.ndarray, "H W 3"] | Float32[np.ndarray, "H W 3"]
Alpha = UInt8[np.ndarray, "H W"] | None


class ImageFileError(ValueError):
    """An image file that cannot be read; one line, which names it."""


class ImageWriteError(OSError):
    """An image file that cannot be written; one line, which names it."""


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image, and what belongs to it.

    pixels: RGB, uint8, or float32 in [0, 1] where the file has 16 bits of grey; a grey image has
        three equal channels.
    grey: written as one channel, the luma of the pixels.
    alpha: 0 where transparent; None if nothing can be.
    exif: as `Image.Exif.tobytes` gives it, without orientation, sizes and thumbnail; or b"".
    icc_profile: for the colour space "GRAY" if grey, else "RGB "; or b"".
    notices: what reading could not keep, in words without the path.
    """

    pixels: Pixels
    grey: bool = False
    alpha: Alpha = None
    exif: bytes = b""
    icc_profile: bytes = b""
    notices: tuple[str, ...] = ()

    def restored(self, pixels: Pixels) -> "Photo":
        """The same with other pixels, to whose size alpha is enlarged bicubically."""
        alpha = self.alpha
        if alpha is not None:
            size = (pixels.shape[1], pixels.shape[0])
            alpha = np.array(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))
        return dataclasses.replace(self, pixels=pixels, alpha=alpha)


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """What a PNG, JPEG, WebP, BMP or TIFF file holds; of several images the first.

    Palettes become RGB, a transparent colour becomes alpha, and CMYK becomes sRGB.

    Raises:
        ImageFileError: not an image file, a damaged one, or one too large; nothing else is raised.
    """
    try:
        return _decode(_read_bytes(Path(path)))
    except Exception as e:  # Pillow raises almost anything where a file is damaged
        raise ImageFileError(printable(f"{path}: {_reason(e)}")) from e


def read_mask(path: Path) -> UInt8[np.ndarray, "H W"]:
    """255 where to fill: how light the image is. Raises as `read_photo`."""
    return _to_uint8(_luma(read_photo(path).pixels))


def losses(photo: Photo, format: str) -> list[str]:
    """What a file of "png", "jpg" or "webp" cannot hold of a photo, in words."""
    deep = photo.pixels.dtype != np.uint8
    found = []
    if format == "jpg" and photo.alpha is not None and photo.alpha.min() < 255:
        found.append("jpg holds no transparency")
    if format == "png" and deep and photo.alpha is not None:
        found.append("png with transparency is written with 8 bits")
    elif format != "png" and deep:
        found.append(f"{format} holds 8 bits")
    exif, profile = _fitting(photo, format)
    if exif != photo.exif:
        found.append(f"{format} holds no EXIF block above 64 KiB")
    if profile != photo.icc_profile:
        found.append(f"{format} does not hold this colour profile")
    return found


def check_size(width: int, height: int, format: str) -> None:
    """Whether "png", "jpg" or "webp" has room for an image, before that is computed.

    Raises:
        ValueError: it has not; the message says which format has.
    """
    longest = max(width, height)
    if longest > _MAX_SIDE[format]:
        others = " or ".join(other for other in FORMATS if longest <= _MAX_SIDE[other])
        raise ValueError(
            f"{width}x{height} pixels, but {format} holds sides up to {_MAX_SIDE[format]}: "
            f"use format={others}"
        )


def write_photo(path: str | os.PathLike[str], photo: Photo, format: str = "png") -> None:
    """Writes "png", "jpg" (quality 95, 4:4:4) or "webp" (quality 95), whole or not at all.

    Float pixels of a grey photo without alpha are written with 16 bits to png, others with 8.

    Raises:
        ValueError: a side for which the format has no room.
        ImageWriteError: the system refuses; the message has its reason.
    """
    path = Path(path)
    try:
        check_size(photo.pixels.shape[1], photo.pixels.shape[0], format)
    except ValueError as e:
        raise ValueError(printable(f"{path}: {e}")) from None
    exif, profile = _fitting(photo, format)
    # Into memory first: of a full disk the system then gives the reason, which Pillow would hide.
    buffer = io.BytesIO()
    image = _to_image(photo, format)
    image.save(buffer, FORMATS[format], exif=exif, icc_profile=profile, **_OPTIONS[format])
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as e:
        # A folder that cannot be made is worth its name; the temporary file is not.
        above = isinstance(e.filename, str) and Path(e.filename) in path.parents
        reason = f"{e.filename}: {e.strerror}" if above else e.strerror or e
        raise ImageWriteError(printable(f"{path}: cannot be written, {reason}")) from e


def _fitting(photo: Photo, format: str) -> tuple[bytes, bytes]:
    """What of EXIF block and colour profile the format holds."""
    exif, profile = photo.exif, photo.icc_profile
    if format == "jpg" and len(exif) > _MAX_JPG_EXIF:
        exif = b""
    if format == "jpg" and len(profile) > _MAX_JPG_PROFILE:
        profile = b""
    written_grey = photo.grey and format != "webp"  # which has colours only
    if colour_space(profile) != (b"GRAY" if written_grey else b"RGB "):
        profile = b""
    return exif, profile


def _to_image(photo: Photo, format: str) -> Image.Image:
    pixels = _luma(photo.pixels) if photo.grey else photo.pixels
    if photo.grey and format == "png" and photo.alpha is None and pixels.dtype != np.uint8:
        return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 65535).astype(np.uint16))
    pixels = _to_uint8(pixels)
    if photo.alpha is not None and format != "jpg":
        pixels = np.dstack([pixels, photo.alpha])
    return Image.fromarray(pixels)


def _luma(pixels: Pixels) -> UInt8[np.ndarray, "H W"] | Float[np.ndarray, "H W"]:
    """Of the kind of the pixels, uint8 or float: exactly v where all three are v."""
    red, green, blue = (pixels[..., i].astype(np.float32) for i in range(3))
    luma = green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green)
    return np.rint(luma).astype(np.uint8) if pixels.dtype == np.uint8 else luma


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else uint8_from_unit(values)


def _reason(error: Exception) -> str:
    if isinstance(error, ImageFileError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read, {error.strerror}"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large, at most {MAX_PIXELS} pixels are read"
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    return f"damaged or incomplete ({str(error)[:200] or type(error).__name__})"


def _read_bytes(path: Path) -> bytes:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        absent = "a link to nothing" if os.path.islink(path) else "no such file"
        raise ImageFileError(absent) from None
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # says so if it cannot be opened
        raise ImageFileError("a folder, not an image file")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        raise ImageFileError("a pipe or device, not an image file")
    if status.st_size > MAX_BYTES:
        raise ImageFileError(f"{status.st_size} bytes, at most {MAX_BYTES} are read")
    # At once, so that no file is open or mapped while it is decoded.
    return Path(path).read_bytes()


def _decode(data: bytes) -> Photo:
    image = _open(data)
    notices = []
    if getattr(image, "is_animated", False):
        notices.append("several images in one file, the first is read")
    args = image.tile[0][3] if image.tile else None
    raw = str(args[0] if isinstance(args, tuple) else args)  # how the file holds its pixels
    if isinstance(image, TiffImageFile):
        _check_tiff(image, raw, len(data))
    image.load()
    # Not earlier: PNG may have its EXIF at the end, and TIFF is turned by Pillow as it loads.
    upright, exif = turn_upright(image, notices)
    profile = image.info.get("icc_profile") or b""
    grey = image.mode in {"1", "L", "LA", "La"} or image.mode.startswith("I") or raw == "LA;16B"
    if image.mode.startswith("I"):
        inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
        pixels, alpha = _deep_grey(upright, raw, inverted)
    else:
        pixels, alpha = _eight_bits(upright, raw, profile, notices)
    if colour_space(profile) != (b"GRAY" if grey else b"RGB "):
        if profile and (image.mode != "CMYK" or colour_space(profile) != b"CMYK"):
            notices.append("a colour profile that does not fit the image left out")
        profile = b""
    return Photo(pixels, grey, alpha, exif, profile, tuple(notices))


def _open(data: bytes) -> ImageFile:
    if not data:
        raise ImageFileError("an empty file")
    readers = [reader for magic, reader in _READERS.items() if data.startswith(magic)]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        readers = [WebPImageFile]
    if not readers:
        raise ImageFileError("not a PNG, JPEG, WebP, BMP or TIFF image, convert it to one")
    if readers == [PngImageFile]:
        _check_png(data)
    image = readers[0](io.BytesIO(data))
    if image.width * image.height > MAX_PIXELS:
        raise ImageFileError(f"{image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
    return image


def _check_png(data: bytes) -> None:
    """Raises where a chunk is cut or not what was written: Pillow checks only some."""
    view, start, name = memoryview(data), 8, b""
    while name != b"IEND":
        end = start + 12 + int.from_bytes(view[start : start + 4])
        if end > len(data):
            raise ImageFileError("damaged or incomplete (it ends too early)")
        name = bytes(view[start + 4 : start + 8])
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise ImageFileError(f"damaged (the checksum of {name.decode('latin-1')} differs)")
        start = end


def _check_tiff(image: TiffImageFile, raw: str, size: int) -> None:
    """Raises for what would be read as another picture, or make libtiff print."""
    tags = image.tag_v2
    if len(raw) == 1 and max(tags.get(258, (8,))) > 8:  # of each plane Pillow takes every byte
        raise ImageFileError("16 bits in separate planes are not read, save it interleaved")
    # Where strips are missing, Pillow leaves the image black.
    boxes = [tile[1] or (0, 0, 0, 0) for tile in image.tile]
    held = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    planes = len(image.getbands()) if tags.get(284) == 2 and not image.use_load_libtiff else 1
    if held < planes * image.width * image.height:
        raise ImageFileError("damaged or incomplete (parts of the image are missing)")
    for offsets, counts in ((273, 279), (324, 325)):  # strips, tiles
        ends = (a + n for a, n in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False))
        if image.use_load_libtiff and max(ends, default=0) > size:
            raise ImageFileError("damaged or incomplete (it ends too early)")


def _deep_grey(image: Image.Image, raw: str, inverted: bool) -> tuple[Pixels, Alpha]:
    """Pixels and alpha of `Photo` from 16 bits of grey.

    raw: how the file holds them; it may be with 12 bits.
    inverted: 0 is white.
    """
    values = np.array(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ImageFileError("integers beyond 0..65535 are not read, save it with 16 bits")
    key = image.info.get("transparency")
    alpha = None if key is None else np.where(values == key, 0, 255).astype(np.uint8)
    full = 4095 if raw == "I;12" else 65535
    grey = (full - values if inverted else values).astype(np.float32) / full
    return np.repeat(grey[..., None], 3, axis=2), alpha


def _eight_bits(
    image: Image.Image, raw: str, profile: bytes, notices: list[str]
) -> tuple[Pixels, Alpha]:
    """Pixels and alpha of `Photo` from all that Pillow reads with 8 bits a channel, or 1."""
    deep = raw.endswith((";16B", ";16L", ";16N"))
    if deep:
        notices.append("16 bits a channel read as 8")
    key = image.info.get("transparency")
    if image.mode in {"LA", "La", "RGBA", "RGBa", "PA"} or (image.mode == "P" and key is not None):
        image = image.convert("LA") if image.mode == "La" else image
        array = np.array(image.convert("RGBA"))
        return np.ascontiguousarray(array[..., :3]), np.ascontiguousarray(array[..., 3])
    if image.mode not in {"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "LAB"}:
        raise ImageFileError(f"pixels of kind {image.mode} are not read, save it with 8 bits")
    image = to_srgb(image, profile, notices) if image.mode == "CMYK" else image.convert("RGB")
    pixels, alpha = np.array(image), None
    if key is not None and deep:
        notices.append("a transparent colour of 16 bits left out")
    elif key is not None:
        # Pillow scales grey of less than 8 bits, but not always the value that is transparent.
        value = np.minimum(np.multiply(key, {"1": 255, "L;2": 85, "L;4": 17}.get(raw, 1)), 255)
        alpha = np.where((pixels == value).all(-1), 0, 255).astype(np.uint8)
    return pixels, alpha
