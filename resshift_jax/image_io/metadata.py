"""A loaded image in; it turned upright, its EXIF block and its colours out, fit for a result."""

import io
from typing import Any

from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

_ORIENTATION = 0x0112
_IFDS = (0x8769, 0x8825)  # of the camera, of the place
_FILE_TAGS = {_ORIENTATION, 0xA002, 0xA003, 0xA005}  # also the size of the file read, and an offset
# In a TIFF file the other tags say how and where the file holds its pixels.
_TIFF_TAGS = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, *_IFDS}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image, notices: list[str]) -> tuple[Image.Image, bytes]:
    """The image as its EXIF or XMP says it is to be seen, and the EXIF block, b"" if none.

    The block is without the orientation, the thumbnail, the size and, of TIFF, what describes the
    file. A damaged one is left out, with a line in notices; nothing is raised.
    """
    turn = None
    try:
        found = image.getexif()
        if not found and image.info.get("exif"):
            raise ValueError("nothing in it")
        turn = _UPRIGHT.get(found.get(_ORIENTATION, 1))
        tags = _TIFF_TAGS if isinstance(image, TiffImageFile) else set(found) - _FILE_TAGS
        kept = Image.Exif()
        for tag in sorted(tags & set(found)):
            value = _writable(found.get_ifd(tag) if tag in _IFDS else found[tag])
            if value != {}:
                kept[tag] = value
            else:
                notices.append("a part of the EXIF block without content left out")
        exif = kept.tobytes() if kept else b""
    except Exception:  # Pillow raises almost anything here; the photo matters more
        notices.append("a damaged EXIF block left out")
        exif = b""
    return image if turn is None else image.transpose(turn), exif


def _writable(value: Any) -> Any:
    """The same, with bytes where Pillow would write ? for each letter beyond ASCII."""
    if isinstance(value, dict):
        return {tag: _writable(v) for tag, v in value.items() if tag not in _FILE_TAGS}
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1")
    return value


def colour_space(profile: object) -> bytes:
    """The four letters in an ICC profile's header ("RGB ", "GRAY"), b"" where that is none."""
    if not isinstance(profile, bytes) or len(profile) < 132 or profile[36:40] != b"acsp":
        return b""
    return profile[16:20] if int.from_bytes(profile[:4]) <= len(profile) else b""


def to_srgb(image: Image.Image, profile: bytes, notices: list[str]) -> Image.Image:
    """RGB of a CMYK image, by its profile if that is for CMYK, else by Pillow's plain rule."""
    if colour_space(profile) == b"CMYK":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            assert converted is not None  # as it is where the image is changed in place
            return converted
        except (ImageCms.PyCMSError, ImportError, OSError):
            notices.append("a CMYK colour profile that cannot be used left out")
    return image.convert("RGB")
