"""Writing image files: whole or not at all, and the reason in one line."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from image_samples import colours
from PIL import Image

from resshift_jax.image_io import photo as images
from resshift_jax.image_io.photo import (
    ImageFileError,
    ImageWriteError,
    Photo,
    check_size,
    read_photo,
    write_photo,
)


@pytest.mark.parametrize(("format", "longest"), [("jpg", 65500), ("webp", 16383)])
def test_sides_that_a_format_has_no_room_for(tmp_path, format, longest):
    fits = np.zeros((1, longest, 3), np.uint8)
    check_size(longest, 1, format)
    write_photo(tmp_path / "a", Photo(fits), format)
    assert read_photo(tmp_path / "a").pixels.shape == fits.shape
    for width, height in ((longest + 1, 1), (1, longest + 1)):
        with pytest.raises(ValueError, match=rf"^{width}x{height} .*{longest}: use format=png"):
            check_size(width, height, format)
        check_size(width, height, "png")
    beyond = np.zeros((longest + 1, 1, 3), np.uint8)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'b'}: .*format="):
        write_photo(tmp_path / "b", Photo(beyond), format)
    with pytest.raises((OSError, ValueError)):  # Pillow would not have it either
        Image.fromarray(beyond).save(tmp_path / "c", format=images.FORMATS[format])
    assert not (tmp_path / "b").exists()


FULL_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from resshift_jax.image_io.photo import Photo, write_photo

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
for format in ("png", "jpg", "webp"):
    path = Path(sys.argv[1], "results", f"a.{format}")
    try:
        write_photo(path, Photo(noise), format)
    except OSError as e:
        print(e)
"""


def test_a_disk_that_is_full_gives_its_reason_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    expected = [
        f"{tmp_path / 'results' / name}: cannot be written, File too large"
        for name in ("a.png", "a.jpg", "a.webp")
    ]
    assert (ran.stdout.splitlines(), ran.stderr) == (expected, "")
    assert list((tmp_path / "results").iterdir()) == []


def test_what_keeps_a_file_from_being_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside").touch()
    for path, reason in {
        tmp_path / "file" / "a.png": "File exists|Not a directory",
        tmp_path / "file" / "sub" / "a.png": f"{tmp_path / 'file'}.*Not a directory",
        tmp_path / "folder.png": "directory",
        tmp_path / ("a" * 300): "File name too long",
    }.items():
        with pytest.raises(ImageWriteError) as caught:
            write_photo(path, Photo(colours()), "png")
        assert isinstance(caught.value, OSError)
        assert str(caught.value).startswith(f"{path}: cannot be written, ")
        assert any(part in str(caught.value) for part in reason.split(".*")[-1].split("|"))
        assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_what_stands_there_is_replaced_only_by_a_whole_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"an old result")

    def fail(self, data):
        self.touch()
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ImageWriteError, match=f"^{path}: cannot be written, No space left"):
        write_photo(path, Photo(colours()), "png")
    assert path.read_bytes() == b"an old result"
    monkeypatch.undo()
    write_photo(path, Photo(colours()), "png")
    np.testing.assert_array_equal(read_photo(path).pixels, colours())
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("letter", ["a", "é", "漢"])
def test_names_as_long_as_names_may_be(tmp_path, letter):
    length = len(letter.encode())
    name = letter * ((255 - 4) // length) + ".png"
    write_photo(tmp_path / name, Photo(colours()), "png")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read_photo(tmp_path / name).pixels, colours())


def test_photos_are_read_and_written_by_several_threads(tmp_path):
    write_photo(tmp_path / "a.png", Photo(colours(64, 64)), "png")
    failures = []

    def work(number):
        try:
            for i in range(10):
                photo = read_photo(tmp_path / "a.png")
                write_photo(tmp_path / "out" / f"{number}_{i}.webp", photo, "webp")
                with pytest.raises(ImageFileError):
                    read_photo(tmp_path)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list((tmp_path / "out").iterdir())) == 40
