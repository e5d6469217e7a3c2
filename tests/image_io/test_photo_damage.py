"""Files that are no images, or damaged ones: each refused in one line, and nothing printed."""

import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_samples import SAMPLES, colours, png, refused, save, tiff
from PIL import Image

from resshift_jax.image_io import photo as images
from resshift_jax.image_io.photo import ImageFileError, read_photo

# pytest sets the filters anew for each test; that the package's own hold is tested by the fuzz.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_anywhere_is_refused_by_name_or_whole(tmp_path, name):
    content = SAMPLES[name]
    path = tmp_path / name
    path.write_bytes(content)
    whole = read_photo(path).pixels
    lost = 0
    for length in range(0, len(content), max(1, len(content) // 70)):
        path.write_bytes(content[:length])
        try:
            found = read_photo(path).pixels
        except ImageFileError:
            lost += 1
            refused(path)
        else:  # what a TIFF file has behind its pixels may be gone
            np.testing.assert_array_equal(found, whole)
            assert name.endswith("tif")
    assert lost > 25


def test_a_cut_compressed_tiff_is_refused_before_libtiff_prints(tmp_path, capfd):
    path = tiff(tmp_path / "a.tif", "<", colours()[..., 0].copy(), 8, 1, compression=8)
    assert read_photo(path).pixels.shape == (7, 5, 3)
    path.write_bytes(path.read_bytes()[:-3])
    assert "ends too early" in refused(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["colour.png", "deep.png", "palette.png"])
def test_a_png_with_one_wrong_bit_is_refused(tmp_path, name):
    content = SAMPLES[name]
    for at in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        (tmp_path / name).write_bytes(damaged)
        refused(tmp_path / name)


def test_what_follows_an_image_in_its_file_does_not_matter(tmp_path):
    for name in SAMPLES:
        (tmp_path / name).write_bytes(SAMPLES[name])
        whole = read_photo(tmp_path / name).pixels
        (tmp_path / name).write_bytes(SAMPLES[name] + b"\0garbage")
        np.testing.assert_array_equal(read_photo(tmp_path / name).pixels, whole)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "text.png").write_text("version https://git-lfs.github.com/spec/v1")
    assert "not a PNG, JPEG, WebP, BMP or TIFF image" in refused(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    assert "empty" in refused(tmp_path / "empty.png")
    (tmp_path / "folder.png").mkdir()
    assert "a folder" in refused(tmp_path / "folder.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    assert "a link to nothing" in refused(tmp_path / "link.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "symbolic links" in refused(tmp_path / "loop.png")
    assert "no such file" in refused(tmp_path / "absent.png")
    assert "Not a directory" in refused(tmp_path / "text.png" / "a.png")
    assert "not an image file" in refused(Path("/dev/null"))
    for nonsense in ("a\0.png", "a" * 300):
        refused_name = tmp_path / nonsense
        with pytest.raises(ImageFileError, match=r"^[ -~]+$"):
            read_photo(refused_name)
    Image.fromarray(colours()).save(tmp_path / "a.gif")
    assert "convert" in refused(tmp_path / "a.gif")


def test_magic_and_nothing_behind_it(tmp_path):
    heads = [content[:12] for content in SAMPLES.values()] + [b"II+\0", b"MM\0*", b"MM\0+"]
    for head in heads:
        for rest in (b"", bytes(100), b"\xff" * 100, bytes(range(200))):
            (tmp_path / "a.png").write_bytes(head + rest)
            refused(tmp_path / "a.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    reader = threading.Thread(target=refused, args=[tmp_path / "pipe.png"], daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()


def test_a_file_without_the_right_to_read_it(tmp_path):
    path = save(tmp_path / "a.png", colours())
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        assert "Permission denied" in refused(path)
    finally:
        if root:
            os.seteuid(0)


def test_a_name_of_two_lines_is_told_in_one(tmp_path):
    path = tmp_path / "two\nlines\x1b[31m.png"
    path.write_bytes(b"no image")
    with pytest.raises(ImageFileError) as caught:
        read_photo(path)
    assert str(caught.value).isprintable()
    assert "two\\nlines" in str(caught.value)


@pytest.mark.parametrize("size", [(30000, 30000), (2**31 - 1, 1), (178_956_971, 1)])
def test_a_small_file_that_announces_a_huge_image_is_refused(tmp_path, size):
    path = png(tmp_path / "a.png", *size, 1, 0, [b"\0"])
    assert f"{size[0]}x{size[1]} pixels" in refused(path)
    assert path.stat().st_size < 100


def test_a_small_webp_that_announces_a_huge_image_is_refused(tmp_path):
    chunk = b"VP8X" + struct.pack("<IB3x", 10, 0) + b"\x30\x75\0" * 2
    body = b"WEBP" + chunk + SAMPLES["lossless.webp"][12:]
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    refused(tmp_path / "a.webp")


@pytest.mark.parametrize("planes", [1, 2])
def test_a_tiff_without_some_of_its_strips_is_refused(tmp_path, planes):
    pixels = np.moveaxis(colours(), -1, 0).copy() if planes == 2 else colours()
    path = tiff(tmp_path / "a.tif", "<", pixels, 8, 2, planes=planes, samples=3)
    np.testing.assert_array_equal(read_photo(path).pixels, colours())
    content = path.read_bytes()
    height = content.index(struct.pack("<HHI", 257, 4, 1)) + 8
    path.write_bytes(content[:height] + struct.pack("<I", 8) + content[height + 4 :])
    assert "parts of the image are missing" in refused(path)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(tmp_path, size):
    refused(png(tmp_path / "a.png", *size, 8, 2, []))


@pytest.mark.parametrize(
    "chunk", [(b"iCCP", b"ICC\0\0"), (b"zTXt", b"Comment\0\0")], ids=["profile", "text"]
)
def test_a_chunk_that_unpacks_to_a_huge_one_is_refused(tmp_path, chunk):
    name, head = chunk
    huge = (name, head + zlib.compress(bytes(80 << 20)))
    path = png(tmp_path / "a.png", 1, 1, 8, 0, [b"\0"], huge)
    assert path.stat().st_size < 1 << 20
    assert "too large" in refused(path)


def test_what_is_too_large_for_the_memory_is_said_so(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", colours())
    monkeypatch.setattr(images, "MAX_BYTES", 20)
    assert "at most 20 are read" in refused(path)
    monkeypatch.undo()
    monkeypatch.setattr(images, "_decode", lambda data: bytearray(1 << 62))
    assert "memory" in refused(path)


FUZZ = """
import random, sys, zlib
from pathlib import Path
from PIL import Image
from resshift_jax.image_io.photo import ImageFileError, read_photo

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
import time
Image.MAX_IMAGE_PIXELS = 150  # the samples are just above, where Pillow warns
whole = {p: p.read_bytes() for p in sorted(folder.iterdir())}
for path in whole:
    read_photo(path)
start, rng, rounds, read = time.monotonic(), random.Random(0), 0, 0
while time.monotonic() < start + seconds:
    for path, content in whole.items():
        rounds += 1
        data = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 4, 12])):
            data[rng.randrange(len(data))] = rng.choice([0, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        at = 8
        while path.suffix == ".png" and at + 12 <= len(data):  # or checksums refuse all
            end = at + 12 + int.from_bytes(data[at : at + 4])
            data[end - 4 : end] = zlib.crc32(data[at + 4 : end - 4]).to_bytes(4)
            at = end
        damaged = folder / "damaged"
        damaged.write_bytes(data)
        try:
            photo = read_photo(damaged)
            assert photo.pixels.ndim == 3 and photo.pixels.shape[2] == 3
            assert photo.alpha is None or photo.alpha.shape == photo.pixels.shape[:2]
            read += 1
        except ImageFileError as e:
            assert str(e).startswith(f"{damaged}: ") and len(str(e).splitlines()) == 1
assert rounds > 200 and 0 < read < rounds, (rounds, read)
"""


def fuzz(folder, names, seconds):
    for name in names:
        (folder / name).write_bytes(SAMPLES[name])
    command = [sys.executable, "-W", "default", "-c", FUZZ, str(folder), str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_damaged_files_are_refused_and_nothing_is_printed(tmp_path):
    # libtiff, which unpacks compressed TIFF, prints of itself, and Pillow has no way to stop it.
    names = [name for name in SAMPLES if name not in ("lzw.tif", "fax.tif")]
    ran = fuzz(tmp_path, names, 2)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_damaged_compressed_tiff_is_refused(tmp_path):
    ran = fuzz(tmp_path, ["lzw.tif", "fax.tif"], 1)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Warning" not in ran.stderr
