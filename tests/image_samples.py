"""Image files for tests: of every kind, and by the letter of their specifications."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from resshift_jax.image_io.photo import (
    ImageFileError,
    read_photo,
    write_photo,
)

LOSSLESS = {"png": {}, "webp": {"lossless": True}, "bmp": {}, "tif": {}}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]  # as far as its header tells


def colours(height=7, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def rewritten(tmp_path, photo, format):
    path = tmp_path / "new" / f"written.{format}"
    write_photo(path, photo, format)
    assert all(p.name.startswith("written.") for p in path.parent.iterdir())
    return read_photo(path)


def png(path, width, height, depth, kind, rows, *chunks):
    """A PNG file by the letter of its specification."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body
        content += struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(content)
    return path


def tiff(path, order, pixels, bits, photometric, *, planes=1, samples=1, compression=1):
    """A TIFF file of one strip a plane, by the letter of its specification."""
    height, width = pixels.shape[-2:] if planes == 2 else pixels.shape[:2]
    strips = [plane.tobytes() for plane in (pixels if planes == 2 else [pixels])]
    strips = [zlib.compress(strip) for strip in strips] if compression == 8 else strips
    values = {
        256: [width], 257: [height], 258: [bits] * samples, 259: [compression], 262: [photometric],
        273: strips, 277: [samples], 278: [height], 279: [len(strip) for strip in strips],
        284: [planes],
    }  # fmt: skip
    at = 8 + 2 + 12 * len(values) + 4
    data = b"".join(strips)
    values[273] = [at + sum(map(len, strips[:i])) for i in range(len(strips))]
    entries = b""
    for tag, numbers in values.items():
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, data = struct.pack(f"{order}I", at + len(data)), data + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(f"{order}IH", 8, len(values))
    path.write_bytes(magic + count + entries + bytes(4) + data)
    return path


def exif_of(photo):
    exif = Image.Exif()
    exif.load(photo.exif)
    return exif


def camera(orientation=None, **more):
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[33432] = "© Zoë".encode("latin-1")  # beyond ASCII, which Pillow replaces
    exif[0x8769] = {36867: "2020:01:02 03:04:05", 37500: b"own", 40962: 5, 40963: 7}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    if orientation is not None:
        exif[274] = orientation
    return exif


def cmyk_profile():
    """An ICC profile by which each mixture without black ink is one mid grey, the rest black."""
    numbers = struct.pack(">4sBBBB9i", b"mft1", 0, 0, 0, 0, *[65536, 0, 0, 0] * 2, 65536)
    numbers = numbers[:4] + bytes(4) + bytes([4, 3, 2, 0]) + numbers[8:]
    table = numbers + bytes(range(256)) * 4 + b"\x80\x80\x80\0\x80\x80" * 8 + bytes(range(256)) * 3
    head = struct.pack(
        ">I4sI4s4s4s", 144 + len(table), b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab "
    )
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def samples():
    """Small files of every kind, by their names."""
    image = Image.fromarray(colours(12, 16))
    alpha = Image.fromarray(np.dstack([colours(12, 16), colours(12, 16)[..., 0]]))
    kinds = {
        "colour.png": (image, {"exif": camera(6), "icc_profile": SRGB}),
        "palette.png": (image.quantize(16), {"transparency": 3}),
        "deep.png": (Image.fromarray(colours(12, 16)[..., 0] * np.uint16(257)), {}),
        "moving.png": (image, {"save_all": True, "append_images": [image.rotate(180)]}),
        "colour.jpg": (image, {"exif": camera(6), "icc_profile": SRGB}),
        "inks.jpg": (image.convert("CMYK"), {"progressive": True}),
        "lossy.webp": (image, {"exif": camera(6), "icc_profile": SRGB}),
        "lossless.webp": (alpha, {"lossless": True}),
        "colour.bmp": (image, {}),
        "palette.bmp": (image.quantize(16), {}),
        "colour.tif": (image, {"exif": camera(6).tobytes(), "icc_profile": SRGB}),
        "pages.tif": (image, {"save_all": True, "append_images": [image]}),
        "lzw.tif": (alpha, {"compression": "tiff_lzw"}),
        "fax.tif": (image.convert("1"), {"compression": "group4"}),
    }
    formats = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF"}
    found = {}
    for name, (source, options) in kinds.items():
        buffer = io.BytesIO()
        source.save(buffer, formats[name.split(".")[1]], **options)
        found[name] = buffer.getvalue()
    return found


def refused(path):
    with pytest.raises(ImageFileError) as caught:
        read_photo(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


SAMPLES = samples()
