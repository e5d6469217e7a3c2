"""The command `resshift restore`, as a user runs it: good images restored, bad ones named."""

import itertools
import os
import shutil
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    TINY,
    TINY_INPAINTING,
    TINY_UNET,
    TINY_VQ,
    assert_one_line_error,
    rules_and_shapes,
    save_model,
)
from file_server import serving
from image_samples import GREY, SRGB, camera, png
from PIL import Image

import resshift_jax
from resshift_jax.cli import restore
from resshift_jax.image_io.photo import read_photo
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Programs
from resshift_jax.weights import released, stand_in, zoo
from resshift_jax.weights.mapping import torch_shapes
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.zoo import Released

V2, V3 = "resshift_realsrx4_s15_v2", "resshift_realsrx4_s4_v3"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder. Of programs it holds none, for JAX would go on to use it in other tests."""
    monkeypatch.setattr(restore, "keep_programs", lambda folder: None)
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


@pytest.fixture
def repeated(monkeypatch):
    """Nothing is computed: pixels are repeated. A list of the shapes of the batches."""
    batches = []

    def fake(self, params, seed, tiles, announce):
        batches.append(tiles.lq.shape)
        return tiles.lq.repeat(2, 1).repeat(2, 2)

    monkeypatch.setattr(Programs, "__call__", fake)
    return batches


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Neither images nor released weights."""

    def fail(*args, **kwargs):
        raise AssertionError("too late")

    monkeypatch.setattr("resshift_jax.inference.files.read_photo", fail)
    monkeypatch.setattr("resshift_jax.inference.model.load_released", fail)
    monkeypatch.setattr("resshift_jax.inference.model.bundled.load_bundled", fail)


def pixels(height=10, width=11, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(image).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def twice(image):
    return image.repeat(2, 0).repeat(2, 1)


def run(source, out, weights, *options):
    return restore.main(
        ["-i", str(source), "-o", str(out), "--weights", str(weights), *map(str, options)]
    )


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def errors(capsys):
    """The lines of stderr, which are one for each bad file."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    return lines


# What is computed


def test_a_file(photos, out, weights, capsys):
    image = pixels()
    path = save(photos / "small.png", image)
    assert run(path, out, weights, "--seed", 3, "--scale", 2, "--task", "realsrx2") == 0
    assert names(out) == ["small.png"]
    np.testing.assert_array_equal(
        read(out / "small.png"), resshift_jax.load(weights)(image, seed=3)
    )
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0] == f"{path} -> {out / 'small.png'}  11x10 -> 22x20"
    assert lines[1].startswith(f"1 of 1 image restored to {out} in ")
    assert " s for compiling " in lines[2]
    assert len(lines) == 3


def test_a_picture_does_not_depend_on_its_name_its_company_or_the_batch(photos, out, weights):
    sizes = [(9, 12), (10, 10), (12, 11), (11, 9), (12, 12)]
    images = [pixels(*size, seed=i) for i, size in enumerate(sizes)]
    for i, image in enumerate(images):
        save(photos / "one" / f"{i}.png", image)
        save(photos / "four" / f"{'ecadb'[i]}.png", image)
    assert run(photos / "one", out / "one", weights, "--bs", 1) == 0
    assert run(photos / "four", out / "four", weights, "--bs", 4) == 0
    for i in range(len(images)):
        one = read(out / "one" / f"{i}.png").astype(float)
        assert_60_db(one, read(out / "four" / f"{'ecadb'[i]}.png"))
    assert run(photos / "four" / "a.png", out, weights, "--seed", 4) == 0
    assert np.abs(read(out / "a.png").astype(float) - read(out / "one" / "2.png")).mean() > 1


def assert_60_db(one, other):
    mean_square = np.mean((one.astype(float) - other) ** 2)
    print(f"mean square {mean_square:.3g}")
    assert mean_square < 255**2 / 10**6


def test_options_are_passed_on(photos, out, weights, repeated, monkeypatch, capsys):
    seen = []
    load, restorer = resshift_jax.load, resshift_jax.Model.restorer
    monkeypatch.setattr(resshift_jax, "load", lambda *a, **k: seen.append(k) or load(*a, **k))
    monkeypatch.setattr(
        resshift_jax.Model, "restorer", lambda self, o, p: seen.append(o) or restorer(self, o, p)
    )
    path = save(photos / "a.png", pixels(40, 20))
    options = ["--steps", 2, "--dtype", "bfloat16", "--chop_size", 8, "--chop_stride", 6]
    options += ["--bs", 2, "--blend", "even", "--seed", 7, "--sampler", "deterministic"]
    assert run(path, out, weights, *options) == 0
    assert seen[0]["dtype"] == "bfloat16"
    assert seen[1] == RestoreOptions(7, 2, "deterministic", 8, 6, 2, "even")
    assert repeated == [(2, 16, 16, 3)] * 3
    np.testing.assert_array_equal(read(out / "a.png"), twice(pixels(40, 20)))


def test_inpainting_with_a_mask_file_and_a_mask_folder(photos, out, inpainting_weights, capsys):
    images, masks = photos / "images", photos / "masks"
    hole = np.zeros((13, 14, 3), np.uint8)
    hole[4:11, 3:9] = 255
    for i, name in enumerate(("a.png", "deep/b.png", "c.png")):
        save(images / name, pixels(13, 14, seed=i))
    one = save(photos / "one.png", hole)
    save(masks / "a.png", hole[::-1])
    save(masks / "deep" / "b.jpg", hole[:, ::-1], quality=100)
    save(masks / "c.png", hole[:9])

    def check(result, i, mask):
        filled, image = read(result), pixels(13, 14, seed=i)
        np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
        assert (filled[mask > 250] != image[mask > 250]).mean() > 0.5

    assert run(images / "a.png", out, inpainting_weights, "--mask_path", one) == 0
    check(out / "a.png", 0, hole)
    options = ["--recursive", "--mask_path", masks]
    assert run(images, out / "two", inpainting_weights, *options) == 1
    (line,) = errors(capsys)
    assert f"{masks / 'c.png'}: 14x9 pixels, 14x13 needed as in {images / 'c.png'}" in line
    assert names(out / "two") == ["a.png", "deep", "deep/b.png"]
    check(out / "two" / "a.png", 0, hole[::-1])
    check(out / "two" / "deep" / "b.png", 1, read(masks / "deep" / "b.jpg"))

    # Masks among the images are none of them; those that are missing or damaged are named.
    (masks / "a.png").write_bytes(b"no mask")
    (masks / "deep" / "b.jpg").unlink()
    options[-1] = shutil.move(masks, images / "masks")
    assert run(images, out / "three", inpainting_weights, *options) == 1
    lines = errors(capsys)
    assert len(lines) == 3
    assert "masks/a.png: not a PNG" in "".join(lines)
    assert "no mask for" in "".join(lines)


# What is kept of a file


def test_each_kind_of_image_stays_what_it_is(photos, out, weights, repeated, capsys):
    image = pixels(7, 5)
    deep = (image[..., 0].astype(np.uint16) << 8) + image[..., 1]
    save(photos / "grey.png", image[..., 0], icc_profile=GREY)
    save(photos / "deep.png", deep)
    save(photos / "alpha.png", np.dstack([image, image[..., 0]]))
    save(photos / "turned.png", image, exif=camera(6), icc_profile=SRGB)
    for name in ("high.png", "high_too.png"):
        rows = [row.astype(">u2").tobytes() for row in image.astype(np.uint16) * 257]
        png(photos / name, 5, 7, 16, 2, rows)
    save(photos / "line.png", image[:1])
    save(photos / "column.png", image[:, :1])
    save(photos / "dot.png", image[:1, :1])
    Image.fromarray(image).convert("CMYK").save(photos / "inks.jpg", quality=100, subsampling=0)
    Image.fromarray(image).quantize(8).save(photos / "palette.png")
    assert run(photos, out, weights) == 0

    def equal(name, expected, mode):
        with Image.open(out / f"{name}.png") as result:
            assert result.mode == mode
        np.testing.assert_array_equal(read(out / f"{name}.png"), expected)

    equal("grey", twice(image[..., 0]), "L")
    equal("deep", twice(deep), "I;16")
    equal("turned", twice(np.rot90(image, -1)), "RGB")
    equal("high", twice(image), "RGB")
    equal("line", twice(image[:1]), "RGB")
    equal("column", twice(image[:, :1]), "RGB")
    equal("dot", twice(image[:1, :1]), "RGB")
    equal("palette", twice(read_photo(photos / "palette.png").pixels), "RGB")
    equal("inks", twice(read_photo(photos / "inks.jpg").pixels), "RGB")
    alpha = read(out / "alpha.png")
    np.testing.assert_array_equal(alpha[..., :3], twice(image))
    assert np.abs(alpha[..., 3].astype(int) - twice(image[..., 0])).mean() < 40

    with Image.open(out / "turned.png") as turned:
        assert turned.info["icc_profile"] == SRGB
        assert turned.getexif()[271] == "Maker"
        assert turned.getexif().get(274, 1) == 1
    with Image.open(out / "grey.png") as grey:
        assert grey.info["icc_profile"] == GREY
    (noted,) = capsys.readouterr().err.splitlines()
    assert noted.startswith(f"note: {photos}/high")  # one of the two, whichever was done first
    assert noted.endswith(".png: 16 bits a channel read as 8 (said once)")


@pytest.mark.parametrize(("format", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_formats_and_suffixes(photos, out, weights, repeated, capsys, format, kind):
    save(photos / "a.bmp", pixels())
    save(photos / "b.png", np.dstack([pixels(), pixels()[..., :1]]))
    assert run(photos, out, weights, "--format", format, "--suffix", "_x2") == 0
    assert names(out) == [f"a_x2.{format}", f"b_x2.{format}"]
    with Image.open(out / f"a_x2.{format}") as image:
        assert (image.format, image.size) == (kind, (22, 20))
    lost = f"note: {photos / 'b.png'}: jpg holds no transparency (said once)\n"
    assert capsys.readouterr().err == (lost if format == "jpg" else "")


# Where results go


def test_folders_within_folders(photos, out, weights, repeated, capsys):
    for name in ("b.png", "a.PNG", "c.jpeg", "deep/a.png", "deep/er/d.webp"):
        save(photos / name, pixels())
    (photos / "notes.txt").write_text("not meant")
    assert run(photos, out / "flat", weights) == 0
    assert names(out / "flat") == ["a.png", "b.png", "c.png"]
    assert "3 of 3 images restored" in capsys.readouterr().out
    # Results among the images are none.
    for _ in range(2):
        assert run(photos, photos / "results", weights, "--recursive") == 0
        assert "5 of 5 images restored" in capsys.readouterr().out
    found = ["a.png", "b.png", "c.png", "deep", "deep/a.png", "deep/er", "deep/er/d.png"]
    assert names(photos / "results") == found


def test_images_of_one_name_are_both_kept(photos, out, weights, repeated):
    for i, name in enumerate(("a.png", "a.jpg", "b.png")):
        save(photos / name, pixels(seed=i))
    assert run(photos, out, weights) == 0
    assert names(out) == ["a.jpg.png", "a.png.png", "b.png"]
    np.testing.assert_array_equal(read(out / "a.png.png"), twice(pixels(seed=0)))


def test_earlier_results_are_replaced_or_left(photos, out, weights, repeated, capsys):
    save(photos / "a.png", pixels())
    save(photos / "b.png", pixels(seed=1))
    out.mkdir()
    (out / "a.png").write_bytes(b"an old result")
    assert run(photos, out, weights, "--skip-existing") == 0
    assert (out / "a.png").read_bytes() == b"an old result"
    np.testing.assert_array_equal(read(out / "b.png"), twice(pixels(seed=1)))
    assert "1 more left as they are" in capsys.readouterr().out
    for option in ([], ["--overwrite"]):
        (out / "a.png").write_bytes(b"an old result")
        assert run(photos, out, weights, *option) == 0
        np.testing.assert_array_equal(read(out / "a.png"), twice(pixels()))
        assert names(out) == ["a.png", "b.png"]


@pytest.mark.usefixtures("nothing_is_read")
def test_where_all_is_there_nothing_is_loaded(photos, out, capsys):
    save(photos / "a.png", pixels())
    save(out / "a.png", pixels())
    assert run(photos, out, "absent.pth", "--skip-existing") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "0 of 0 images restored" in printed.out
    assert "1 more left as they are" in printed.out


def test_a_result_never_replaces_an_image(photos, weights, repeated, capsys, tmp_path):
    path = save(photos / "a.png", pixels())
    save(photos / "b.jpg", pixels())
    before = {p: p.read_bytes() for p in photos.iterdir()}
    (tmp_path / "link").symlink_to(photos)
    for source, target in itertools.product((photos, path), (photos, tmp_path / "link")):
        for option in ([], ["--skip-existing"]):
            assert run(source, target, weights, *option) == 1
            assert_one_line_error(capsys, "name another", "--suffix")
    assert repeated == []
    # Beside the images there is room for other names, which are no images the next time.
    assert run(photos, photos, weights, "--suffix", "_x2") == 0
    (photos / "b_x2.png").unlink()
    assert run(photos, photos, weights, "--suffix", "_x2") == 1
    assert_one_line_error(capsys, "a_x2.png: one of the images")
    assert run(photos, photos, weights, "--suffix", "_x2", "--skip-existing") == 0
    assert names(photos) == ["a.png", "a_x2.png", "b.jpg", "b_x2.png"]
    assert all(p.read_bytes() == content for p, content in before.items())


# What goes wrong


def make_bad(folder):
    """Files that cannot be read, by their name, with a part of what is said of each."""
    whole = save(folder / "whole.png", pixels(40, 50)).read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "headless.png").write_bytes(whole[20:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("version https://git-lfs.github.com/spec/v1")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(folder / "gone.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    png(folder / "huge.png", 30_000, 30_000, 8, 2, [b"\0" * 8])
    return {
        "cut.png": "incomplete",
        "empty.png": "an empty file",
        "folder.png": "a folder, not an image",
        "headless.png": "not a PNG",
        "huge.png": "30000x30000 pixels, at most",
        "link.png": "a link to nothing",
        "loop.png": "symbolic links",
        "pipe.png": "a pipe",
        "text.png": "not a PNG",
    }


def test_bad_images_are_named_and_the_others_restored(photos, out, weights, repeated, capsys):
    bad = make_bad(photos)
    save(photos / "a.png", pixels())
    save(photos / "z.png", pixels())
    assert run(photos, out, weights) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == len(bad)
    for line, (name, reason) in zip(sorted(lines), bad.items(), strict=True):
        assert line.startswith(f"error: {photos / name}: ")
        assert reason in line
    assert f"2 of {len(bad) + 2} images restored" in printed.out
    assert f"  {len(bad)} failed:\n    {photos / 'cut.png'}: " in printed.out
    assert names(out) == ["a.png", "z.png"]


@pytest.mark.parametrize("name", ["cut.png", "text.png", "folder.png", "absent.png"])
def test_a_bad_path_alone_is_named(photos, out, weights, capsys, name):
    make_bad(photos)
    assert run(photos / name, out, weights) == 1
    assert_one_line_error(capsys, str(photos / name))
    assert not out.exists()


def test_names_that_no_file_can_have_are_noticed_before_anything_is_computed(
    photos, out, weights, repeated, capsys
):
    save(photos / "deep" / "a.png", pixels())
    save(photos / "b.png", pixels())
    save(photos / f"{'c' * 250}.png", pixels())
    (out / "b_restored.png").mkdir(parents=True)
    (out / "deep").write_text("in the way")
    for option in ([], ["--skip-existing"]):
        assert run(photos, out, weights, "--recursive", "--suffix", "_restored", *option) == 1
        lines = errors(capsys)
        for line, reason in zip(
            lines, ("Is a directory", "File name too long", "Not a directory"), strict=True
        ):
            assert line.endswith(f"cannot be written, {reason}")
    assert repeated == []


def test_names_of_any_bytes(photos, out, weights, repeated, capsys):
    image = save(photos / "plain.png", pixels()).read_bytes()
    (photos / "plain.png").unlink()
    odd = [b"line\nbreak.png", b"\xff\xfe.png", b"[red]x[b].png", b":smile:\x1b[31m.png"]
    for name in odd:
        (photos / os.fsdecode(name)).write_bytes(image)
    (photos / os.fsdecode(b"bad\n\xff.png")).write_bytes(b"")
    assert run(photos, out, weights) == 1
    assert sorted(os.fsencode(p.name) for p in out.iterdir()) == sorted(odd)
    printed = capsys.readouterr()
    assert f"{photos}/[red]x[b].png -> {out}/[red]x[b].png  " in printed.out
    assert f"{photos}/line\\nbreak.png -> " in printed.out
    assert printed.err == f"error: {photos}/bad\\n\\udcff.png: an empty file\n"


OPTIONS = {
    "--task deblur": "--task deblur: unknown, one of small, realsrx4, ",
    "--task realsr --version v9": "--version v9: unknown for realsrx4, one of v1, v2, v3",
    "--task faceir --version v1": "--version v1: unknown for faceir",
    "--version v3": "--version v3: the model that ships with the package has no versions",
    "--task faceir --scale 4": "--scale 4: the scale of faceir is 1",
    "--scale 2": "--scale 2: the scale of small is 4",
    "--task inpaint_face": "--mask_path: the task inpaint_face needs one",
    "--mask_path {mask}": "--mask_path: the task small takes none",
    "--task inpaint_face --mask_path gone": "--mask_path gone: nothing there",
    "--task inpaint_face --mask_path {photos}": "the images' own folder",
    "--task sinsr --steps 4": "--steps 4: this model samples in one step",
    "--task realsr --sampler one_step --steps 4": "--steps 4: this model samples in one step",
    "--steps 0": "--steps 0: at least 1 needed",
    "--seed -1": "--seed -1: 0 to 4294967295 needed",
    "--bs 0": "--bs 0: at least 1 needed",
    "--chop_size 64 --chop_stride 65": "--chop_stride 65: at most that of --chop_size 64",
    "--suffix a/b": "--suffix a/b: not a part of a file's name",
    "--device gpx": "--device gpx: give cpu, gpu, tpu",
    "--device cpu:77": "--device cpu:77: not there",
    "-o {mask}": "cannot be a folder, for",
    "-o {mask}/deep/er": "cannot be a folder, for",
    "-i {photos}/absent": "absent: No such file",
    "-i {photos}/..": "a folder without images",
    "--first-stage a.pth": "first_stage: given without weights",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_that_make_no_sense_are_refused_at_once(
    photos, out, tmp_path, capsys, nothing_is_read, options
):
    (tmp_path / "other").mkdir()
    places = {"photos": photos, "mask": save(tmp_path / "other" / "mask.png", pixels())}
    save(photos / "a.png", pixels())
    given = options.format(**places).split()
    assert restore.main(["-i", str(photos), "-o", str(out), *given]) == 1
    assert_one_line_error(capsys, OPTIONS[options])
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--scale", "4"], "--scale 4: the scale of "),
        (["--task", "faceir"], "its task is realsrx2, --task faceir given"),
        (["--mask_path", "{mask}"], "--mask_path: the task realsrx2 takes none"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused_at_once(
    photos, out, weights, tmp_path, capsys, nothing_is_read, options, part
):
    mask = save(tmp_path / "mask.png", pixels())
    for name in ("a.png", "b.png"):
        save(photos / name, pixels())
    assert run(photos, out, weights, *[option.format(mask=mask) for option in options]) == 1
    assert_one_line_error(capsys, part)
    assert not out.exists()


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "text.png"])
def test_weights_that_cannot_be_read_are_named(photos, out, capsys, name):
    make_bad(photos)
    assert run(photos, out, photos / name) == 1
    assert_one_line_error(capsys, str(photos / name))
    assert not out.exists()


def test_where_memory_ends_a_smaller_tile_is_named(photos, out, weights, capsys, monkeypatch):
    save(photos / "a.png", pixels(40, 30))
    save(photos / "b.png", pixels())
    real = Programs.__call__

    def limited(self, params, seed, tiles, announce):
        if tiles.lq.shape[1] > 12:
            raise MemoryError("9.0 GiB needed, 1.0 GiB free")
        return real(self, params, seed, tiles, announce)

    monkeypatch.setattr(Programs, "__call__", limited)
    assert run(photos, out, weights) == 1
    assert_one_line_error(capsys, f"{photos / 'a.png'}: out of memory, try --chop_size 10 (9.0 GiB")
    assert names(out) == ["b.png"]


def test_a_result_that_cannot_be_made_or_written_is_named(
    photos, out, weights, repeated, capsys, monkeypatch
):
    for name in ("a.png", "b.png", "c.png"):
        save(photos / name, pixels(seed=ord(name[0])))
    failing = {"a.png": OSError(28, "No space left on device"), "b.png": SystemError("in Pillow")}
    replace = os.replace

    def fail(source, target):
        if error := failing.get(Path(target).name):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    assert run(photos, out, weights) == 1
    first, second = errors(capsys)
    assert first.endswith("a.png: cannot be written, No space left on device")
    assert second.endswith("b.png: in Pillow")
    assert names(out) == ["c.png"]


@pytest.mark.parametrize(
    "options", [[], ["--dtype", "int8"], ["--overwrite", "--skip-existing"], ["--format", "gif"]]
)
def test_a_command_line_that_makes_no_sense_shows_the_usage(options, capsys):
    with pytest.raises(SystemExit) as caught:
        restore.main([*options, "-o", "results", *(["-i", "a.png"] if options else [])])
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


# Released models


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    """The files of small networks under released names."""
    folder = tmp_path_factory.mktemp("pth")
    for name, config in {V2: TINY_UNET, TINY_VQ.name: TINY_VQ}.items():
        torch_file.write(
            folder / f"{name}.pth", stand_in.state_dict(torch_shapes(*rules_and_shapes(config)))
        )
    shutil.copy(folder / f"{V2}.pth", folder / f"{V3}.pth")
    shutil.copy(folder / f"{V2}.pth", folder / "bicsr.pth")
    return folder


@pytest.fixture
def releases(monkeypatch):
    def set_(address=""):
        tiny = [
            Released(
                name, resshift_jax.ModelConfig(task, 2, chain, TINY_UNET, TINY_VQ), version, address
            )
            for name, task, chain, version in (
                (V2, "realsrx4", zoo.FIFTEEN_STEPS, "v2"),
                (V3, "realsrx4", zoo.FOUR_STEPS, "v3"),
                ("bicsr", "bicsrx4", zoo.FOUR_STEPS, ""),
            )
        ]
        monkeypatch.setattr(zoo, "RELEASED", tuple(tiny))
        monkeypatch.setitem(zoo.FIRST_STAGE_URLS, TINY_VQ.name, f"{address}/{TINY_VQ.name}.pth")

    set_()
    return set_


@pytest.mark.usefixtures("releases")
@pytest.mark.parametrize(
    ("options", "file"),
    [
        (["--task", "realsr", "--version", "v2"], V2),
        (["--task", "realsrx4"], V3),
        (["--task", "bicsr"], "bicsr"),
    ],
)
def test_released_models_by_name(photos, out, cache, pth, repeated, capsys, options, file):
    shutil.copytree(pth, cache)
    path = save(photos / "a.png", pixels())
    assert restore.main(["-i", str(path), "-o", str(out), *options]) == 0
    assert names(out) == ["a.png"]
    assert capsys.readouterr().err == f"weights: {cache / file}.safetensors\n"


def test_a_download_that_breaks_off(
    photos, out, cache, pth, releases, repeated, capsys, monkeypatch
):
    fetch = released.fetch
    monkeypatch.setattr(
        released, "fetch", lambda *a, **k: fetch(*a, **k, timeout=5, tries=2, pause=0.01)
    )
    path = save(photos / "a.png", pixels())
    argv = ["-i", str(path), "-o", str(out), "--task", "realsrx4"]
    with serving({f"/{p.name}": p.read_bytes() for p in pth.iterdir()}) as server:
        releases(server.address)
        server.breaks = deque([1000, 1000])
        assert restore.main(argv) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"error: {V3}.pth: {server.address}/{V3}.pth broke off at ")
        assert not out.exists()
        assert restore.main(argv) == 0
    assert names(out) == ["a.png"]
