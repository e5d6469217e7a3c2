"""The sampling command, run as a user runs it: good images restored, bad ones named."""

import jax
import numpy as np
import pytest
from conftest import TINY, TINY_INPAINTING, assert_one_line_error, save_model
from PIL import Image

import resshift_jax
import sample
from resshift_jax.model import Model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors", TINY)


@pytest.fixture(scope="module")
def inpainting_weights(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("weights") / "fill.safetensors", TINY_INPAINTING)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def run(source, out, weights, *options):
    return sample.main(["-i", str(source), "-o", str(out), "--weights", str(weights), *options])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file(photos, out, weights, capsys):
    image = pixels(5, 9)
    path = save(photos / "small.png", image)
    assert run(path, out, weights, "--seed", "3", "--scale", "2", "--task", "realsrx2") == 0
    assert names(out) == ["small.png"]
    expected = resshift_jax.load(weights)(image, seed=3)
    np.testing.assert_array_equal(read(out / "small.png"), expected)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"{path} -> {out / 'small.png'}  9x5 -> 18x10" in printed.out


def test_a_folder(photos, out, weights, capsys):
    image = pixels(5, 9)
    save(photos / "b.png", image)
    save(photos / "a.PNG", pixels(5, 9, seed=1))
    save(photos / "c.jpeg", pixels(5, 9, seed=2))
    (photos / "notes.txt").write_text("not meant")
    assert run(photos, out, weights) == 0
    assert names(out) == ["a.png", "b.png", "c.png"]
    assert "3 of 3 images restored" in capsys.readouterr().out
    # A file is the same alone as among others.
    assert run(photos / "b.png", out / "alone", weights) == 0
    np.testing.assert_array_equal(read(out / "alone" / "b.png"), read(out / "b.png"))


def test_photographs_are_turned_upright(photos, out, weights):
    image = pixels(5, 9)
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright, its first row is the right edge
    save(photos / "turned.png", image, exif=exif)
    save(photos / "upright.png", np.rot90(image, -1))
    assert run(photos, out, weights) == 0
    turned = read(out / "turned.png")
    assert turned.shape == (18, 10, 3)
    np.testing.assert_array_equal(turned, read(out / "upright.png"))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_kind_of_image_is_restored_in_colour(photos, out, weights, mode):
    path = photos / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels(5, 9)).convert(mode).save(path)
    assert run(path, out, weights) == 0
    assert read(out / "a.png").shape == (10, 18, 3)


def damaged(folder):
    """Files that are no images, by their name, with a part of what is said of each."""
    whole = save(folder / "whole.png", pixels(40, 50)).read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "headless.png").write_bytes(whole[20:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("version https://git-lfs.github.com/spec/v1")
    (folder / "folder.png").mkdir()
    (folder / "broken_link.png").symlink_to(folder / "gone.png")
    return ["broken_link.png", "cut.png", "empty.png", "folder.png", "headless.png", "text.png"]


def test_bad_images_are_named_and_the_others_restored(photos, out, weights, capsys):
    bad = damaged(photos)
    save(photos / "a.png", pixels(5, 9))
    save(photos / "z.png", pixels(5, 9, seed=1))
    assert run(photos, out, weights) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == len(bad)
    for line, name in zip(lines, bad, strict=True):
        assert line.startswith(f"error: {photos / name}: ")
    assert f"2 of {len(bad) + 2} images restored" in printed.out
    assert names(out) == ["a.png", "z.png"]


@pytest.mark.parametrize("name", ["cut.png", "text.png", "absent.png"])
def test_a_bad_file_alone_is_named(photos, out, weights, capsys, name):
    damaged(photos)
    assert run(photos / name, out, weights) == 1
    assert_one_line_error(capsys, str(photos / name))
    assert not out.exists()


def test_a_folder_without_images_is_named(photos, out, weights, capsys):
    (photos / "notes.txt").write_text("nothing to see")
    assert run(photos, out, weights) == 1
    assert_one_line_error(capsys, str(photos), ".png")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--scale", "4"], ["--scale 4", "2"]),
        (["--task", "faceir"], ["faceir", "realsrx2"]),
    ],
)
def test_weights_of_another_kind_are_named(photos, out, weights, capsys, options, parts):
    save(photos / "a.png", pixels(5, 9))
    assert run(photos, out, weights, *options) == 1
    assert_one_line_error(capsys, str(weights), *parts)
    assert not out.exists()


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "text.png"])
def test_weights_that_cannot_be_read_are_named(photos, out, capsys, name):
    damaged(photos)
    assert run(photos, out, photos / name) == 1
    assert_one_line_error(capsys, str(photos / name))
    assert not out.exists()


def test_inpainting(photos, out, inpainting_weights, tmp_path, capsys):
    image = pixels(20, 13)
    mask = np.zeros((20, 13, 3), np.uint8)
    mask[4:11, 3:9] = 255
    mask_path = save(tmp_path / "mask.png", mask)
    path = save(photos / "a.png", image)
    assert run(path, out, inpainting_weights, "--mask_path", str(mask_path)) == 0
    filled = read(out / "a.png")
    np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
    assert (filled[mask == 255] != image[mask == 255]).mean() > 0.5

    capsys.readouterr()
    assert run(path, out, inpainting_weights) == 1
    assert_one_line_error(capsys, "--mask_path", "inpaint_imagenet needs one")
    save(tmp_path / "mask.png", mask[:19])
    assert run(path, out, inpainting_weights, "--mask_path", str(mask_path)) == 1
    assert_one_line_error(capsys, str(path), "mask", "(19, 13)")
    (tmp_path / "mask.png").write_bytes(b"no mask")
    assert run(path, out, inpainting_weights, "--mask_path", str(mask_path)) == 1
    assert_one_line_error(capsys, str(mask_path))


@pytest.mark.parametrize("option", ["--steps", "--mask_path"])
def test_options_that_do_not_fit_are_named_once(photos, out, weights, tmp_path, capsys, option):
    mask = save(tmp_path / "mask.png", pixels(5, 9))
    for name in ("a.png", "b.png"):
        save(photos / name, pixels(5, 9))
    assert run(photos, out, weights, option, "0" if option == "--steps" else str(mask)) == 1
    assert_one_line_error(capsys, option)
    assert not out.exists()


def test_files_of_one_stem_keep_their_suffix(photos, out, weights):
    save(photos / "a.png", pixels(5, 9))
    save(photos / "a.jpg", pixels(5, 9, seed=1))
    save(photos / "b.png", pixels(5, 9, seed=2))
    assert run(photos, out, weights) == 0
    assert names(out) == ["a.jpg.png", "a.png.png", "b.png"]


def test_a_photograph_is_not_replaced_by_its_restoration(photos, weights, capsys):
    path = save(photos / "a.png", pixels(5, 9))
    before = path.read_bytes()
    assert run(photos, photos, weights) == 1
    assert_one_line_error(capsys, str(path), "another folder")
    assert path.read_bytes() == before
    assert names(photos) == ["a.png"]


def test_an_image_that_memory_cannot_hold_is_named_and_the_others_restored(
    photos, out, weights, capsys, monkeypatch
):
    call = Model.__call__

    def limited(model, image, *args, **options):
        if image.shape[0] > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 GiB")
        return call(model, image, *args, **options)

    monkeypatch.setattr(Model, "__call__", limited)
    save(photos / "a.png", pixels(40, 9))
    save(photos / "b.png", pixels(5, 9))
    assert run(photos, out, weights) == 1
    assert_one_line_error(capsys, str(photos / "a.png"), "memory")
    assert names(out) == ["b.png"]


def test_a_disk_that_is_full_leaves_nothing(photos, out, weights, capsys, monkeypatch):
    def fail(image, target, format):
        with open(target, "wb") as file:
            file.write(b"half of")
        raise OSError("No space left on device")

    path = save(photos / "a.png", pixels(5, 9))
    monkeypatch.setattr(Image.Image, "save", fail)
    assert run(path, out, weights) == 1
    assert_one_line_error(capsys, "No space left")
    assert names(out) == []


def test_a_result_that_is_there_is_replaced(photos, out, weights):
    path = save(photos / "a.png", pixels(5, 9))
    out.mkdir()
    (out / "a.png").write_bytes(b"an old result")
    assert run(path, out, weights) == 0
    assert read(out / "a.png").shape == (10, 18, 3)
    assert names(out) == ["a.png"]


@pytest.mark.parametrize(
    "options", [[], ["-i", "a.png", "--dtype", "int8"], ["-i", "a.png", "--task", "deblur"]]
)
def test_a_command_line_that_makes_no_sense_shows_the_usage(options, capsys):
    with pytest.raises(SystemExit) as caught:
        sample.main([*options, "-o", "results", "--weights", "a.pth"])
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err
