"""`resshift restore` in a process of its own: interrupted, without room, a thousand images."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_UNET, TINY_VQ, rules_and_shapes, save_model
from image_samples import SRGB, camera, png
from PIL import Image

from resshift_jax.weights import stand_in
from resshift_jax.weights.mapping import torch_shapes
from resshift_jax.weights.torch import file as torch_file

ROOT = Path(__file__).parents[2]
TILES = ["--chop_size", "6", "--chop_stride", "5"]  # of 12 pixels every 10 for TINY

# What is started in the background may have been told to ignore them, and its children with it.
HEARS_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
# Goes before the command in its process, for tests that change something there.
AS_MAIN = f"\nimport runpy; runpy.run_path({str(ROOT / 'sample.py')!r}, run_name='__main__')"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors", TINY)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of the programs that these tests share."""
    return tmp_path_factory.mktemp("cache")


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


def start(photos, out, cache, *options, before="", **more):
    """The command, whose stderr goes to a file `err` beside its results."""
    command = [sys.executable, "-c", HEARS_INTERRUPTS + before + AS_MAIN]
    command += ["-i", photos, "-o", out, "--cache", cache, *TILES, *options]
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    with open(out.with_name("err"), "w") as err:
        return subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "PYTHONPATH": paths, "FORCE_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            **more,
        )


def finish(process, out, timeout=120):
    """(exit code, stdout, stderr), neither of which has escape codes."""
    printed, _ = process.communicate(timeout=timeout)
    err = out.with_name("err").read_text()
    assert "\x1b" not in printed + err
    return process.returncode, printed, err


def run(*args, **kwargs):
    return finish(start(*args, **kwargs), args[1])


def assert_whole(folder):
    """Images that can be read, and nothing else."""
    for path in folder.rglob("*"):
        assert not path.name.startswith(".")
        with Image.open(path) as image:
            image.load()


COUNTING = """
import atexit, collections, json, sys, jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))
atexit.register(lambda: print(json.dumps(events), file=sys.stderr))
"""


def test_one_program_a_shape_of_tiles_and_none_in_the_next_process(photos, out, tmp_path, weights):
    for i in range(20):
        save(photos / f"{i}.png", pixels(9 + i % 4, 6 + i % 7, seed=i))  # 12x8 and 12x12 padded
    cache = tmp_path / "cache"
    for attempt in range(2):
        code, printed, err = run(
            photos, out, cache, "--weights", weights, "--bs", 2, before=COUNTING
        )
        assert code == 0
        assert "20 of 20 images restored" in printed
        events = json.loads(err)
        requests, hits = events["compile_requests_use_cache"], events.get("cache_hits", 0)
        print(events)
        kept = [p for p in (cache / "programs").iterdir() if "restore_tiles" in p.name]
        assert len(kept) == 2
        if attempt == 0:
            assert " s for compiling 2 programs, one for each" in printed
            assert hits == 0
        else:
            assert " s for loading 2 programs of an earlier run" in printed
            assert hits == requests >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_whole_files_and_goes_on(photos, out, cache, weights, number):
    for i in range(12):
        save(photos / f"{i}.png", pixels(22, 32, seed=i))
    process = start(photos, out, cache, "--weights", weights)
    for _ in range(3):
        assert " -> " in process.stdout.readline()
    process.send_signal(number)
    asked = time.monotonic()
    code, printed, err = finish(process, out)
    print(f"{time.monotonic() - asked:.2f} s")
    assert code == 130
    assert err == ""
    done = len(list(out.iterdir()))
    assert 3 <= done < 12
    assert f"{done} of 12 images restored" in printed
    assert printed.endswith("interrupted: the same command with --skip-existing goes on\n")
    assert_whole(out)
    before = {path: path.read_bytes() for path in out.iterdir()}

    code, printed, err = run(photos, out, cache, "--weights", weights, "--skip-existing")
    assert (code, err) == (0, "")
    assert f"{12 - done} of {12 - done} images restored" in printed
    assert f"{done} more left as they are" in printed
    assert len(list(out.iterdir())) == 12
    assert_whole(out)
    assert all(path.read_bytes() == content for path, content in before.items())


BUSY = """
import hashlib, sys
from resshift_jax.inference.programs import Programs
def busy(self, params, seed, tiles, announce):
    if tiles.lq.shape[1] == 4:
        return tiles.lq.repeat(2, 1).repeat(2, 2)
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # as XLA, without looking up
Programs.__call__ = busy
"""


def test_an_interrupt_does_not_wait_for_the_program_that_runs(photos, out, cache, weights):
    save(photos / "a.png", pixels(4, 12))
    save(photos / "b.png", pixels(12, 12))
    process = start(photos, out, cache, "--weights", weights, before=BUSY)
    while process.stdout.readline() != "busy\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    code, printed, _ = finish(process, out)
    seconds = time.monotonic() - asked
    print(f"{seconds:.2f} s")
    assert code == 130
    assert seconds < 10
    assert "1 of 2 images restored" in printed
    assert [path.name for path in out.iterdir()] == ["a.png"]


NO_ROOM = """
import resource, resshift_jax
from conftest import TINY
from resshift_jax.weights import zoo
zoo.RELEASED = (zoo.Released("resshift_realsrx2_s4", TINY),)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
"""


def test_what_exceeds_the_limit_of_file_sizes_is_named_and_leaves_nothing(photos, out, tmp_path):
    """Neither weights nor programs are kept then, of which a line tells; the run goes on."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name, config in {"resshift_realsrx2_s4": TINY_UNET, TINY_VQ.name: TINY_VQ}.items():
        state = stand_in.state_dict(torch_shapes(*rules_and_shapes(config)))
        torch_file.write(cache / f"{name}.pth", state)
    save(photos / "a.png", pixels(22, 32))
    save(photos / "b.png", pixels(12, 12))
    code, printed, err = run(photos, out, cache, "--task", "realsrx2", before=NO_ROOM)
    assert code == 1
    assert "1 of 2 images restored" in printed
    kept, used, error = err.splitlines()
    assert ": not kept, so the next run converts again (" in kept
    assert used == f"weights: {cache / 'resshift_realsrx2_s4.pth'}"
    where = f"{photos / 'a.png'}: {out / 'a.png'}"
    assert error == f"error: {where}: cannot be written, File too large"
    assert_whole(out)
    assert len(list(out.iterdir())) == 1
    assert {p.suffix for p in cache.iterdir()} == {".pth", ""}
    assert not any(p.name.startswith(".") for p in cache.iterdir())


def test_a_cache_that_cannot_be_written_costs_a_line(photos, out, tmp_path, weights):
    save(photos / "a.png", pixels(12, 12))
    (tmp_path / "file").touch()
    code, _, err = run(photos, out, tmp_path / "file" / "cache", "--weights", weights)
    assert code == 0
    (line,) = err.splitlines()
    assert line.endswith("file/cache/programs: no compiled program is kept, Not a directory")


# A thousand images

GOOD, BAD = 950, 50


def make_good(path, i):
    """An image of one of 24 kinds, of sides that three shapes of tiles hold."""
    height, width = 9 + i % 4, 9 + i // 4 % 4
    image = pixels(height, width, seed=i)
    colour, grey = Image.fromarray(image), Image.fromarray(image[..., 0])
    alpha = Image.fromarray(np.dstack([image, image[..., :1]]))
    exif = camera(1 + i % 8)
    exif[0x8769] = {37500: np.random.default_rng(i).bytes(50_000)}  # a maker's note
    large = camera(1 + i % 8)
    large[0x8769] = {37500: np.random.default_rng(i).bytes(200_000)}
    deep = image[..., 0] * np.uint16(257)
    rows = [row.astype(">u2").tobytes() for row in image * np.uint16(257)]
    more = {"save_all": True, "append_images": [colour.rotate(180)]}
    kinds = {
        "png": (
            (colour, {"exif": large, "icc_profile": SRGB}), (grey, {}), (alpha, {}),
            (Image.fromarray(deep), {}),
            (colour.quantize(16), {"transparency": 3}), (alpha.convert("LA"), {}),
            (colour.convert("1"), {}), (colour, more), (Image.fromarray(image[:1]), {}),
            (Image.fromarray(image[:, :1]), {}), (None, {}),
        ),
        "jpg": (
            (colour, {"exif": exif, "icc_profile": SRGB}), (grey, {"exif": exif}),
            (colour.convert("CMYK"), {"exif": exif}), (colour, {"progressive": True}),
        ),
        "webp": ((colour, {"exif": exif}), (alpha, {"lossless": True}), (colour, more)),
        "bmp": ((colour, {}), (colour.quantize(16), {})),
        "tif": (
            (colour, {"compression": "tiff_lzw"}), (colour, more),
            (colour.convert("1"), {"compression": "group4"}), (Image.fromarray(deep), {}),
        ),
    }  # fmt: skip
    flat = [(suffix, *kind) for suffix, of_suffix in kinds.items() for kind in of_suffix]
    suffix, source, options = flat[i % len(flat)]
    path = path.with_suffix(f".{suffix}")
    if source is None:
        png(path, width, height, 16, 2, rows)
    else:
        source.save(path, **options)


def make_bad(path, i):
    """A file of one of 12 kinds that cannot be restored."""
    whole = save(path, pixels(40, 50, seed=i)).read_bytes()
    path.unlink()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    contents = (
        whole[: len(whole) // 2], whole[:-12], whole[20:], bytes(spoilt), b"", b"some text",
        b"\xff\xd8\xff" + whole, b"BM" + bytes(200), b"GIF89a" + bytes(100),
    )  # fmt: skip
    kind = i % (len(contents) + 3)
    if kind < len(contents):
        path.write_bytes(contents[kind])
    elif kind == len(contents):
        path.mkdir()
    elif kind == len(contents) + 1:
        path.symlink_to(path.with_name("gone"))
    else:
        png(path, 30_000, 30_000, 8, 2, [bytes(8)])


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A folder of mixed images, and the paths of those that are bad."""
    folder = tmp_path_factory.mktemp("thousand") / "photos"
    folder.mkdir()
    numbers = list(range(GOOD + BAD))
    random.Random(0).shuffle(numbers)
    for number, i in enumerate(numbers):
        path = folder / f"{number:04}.png"
        make_good(path, i) if i < GOOD else make_bad(path, i)
    return folder, {folder / f"{n:04}.png" for n, i in enumerate(numbers) if i >= GOOD}


LEAKING = """
import resshift_jax.inference.files as files
kept, write = [], files.write_photo
def leaking(path, photo, format):
    write(path, photo, format)
    kept.append(photo)
files.write_photo = leaking
"""


def memory_of(process):
    """Bytes of its own that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def run_measured(folder, out, cache, weights, before=""):
    """What `run` returns, and the memory after each 50 results."""
    process = start(folder, out, cache, "--weights", weights, "--bs", 4, before=before)
    lines, sizes = [], []
    for line in process.stdout:
        lines.append(line)
        if " -> " in line and len(lines) % 50 == 0:
            sizes.append(memory_of(process))
    code, rest, err = finish(process, out)
    return (code, "".join(lines) + rest, err), sizes


def growth(sizes):
    """From the second quarter of the run to the last, the median of each, in MiB."""
    quarter = len(sizes) // 4
    return float(np.median(sizes[-quarter:]) - np.median(sizes[quarter : 2 * quarter])) / 2**20


ALLOWED = 6.0  # MiB in half of the run, in which the leak below is twice as much


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_thousand_images(thousand, out, cache, weights):
    folder, bad = thousand
    (code, printed, err), sizes = run_measured(folder, out, cache, weights)
    assert code == 1
    assert {path.name for path in out.iterdir()} == {
        f"{path.stem}.png" for path in set(folder.iterdir()) - bad
    }
    assert_whole(out)
    named = [line for line in err.splitlines() if line.startswith("error: ")]
    assert sorted(line.split(": ")[1] for line in named) == sorted(map(str, bad))
    others = set(err.splitlines()) - set(named)
    assert all(line.startswith("note: ") and line.endswith(" (said once)") for line in others)
    assert len(others) < 8
    assert f"{GOOD} of {GOOD + BAD} images restored" in printed
    print([round(size / 2**20, 1) for size in sizes])
    print(f"grown by {growth(sizes):.2f} MiB")
    assert growth(sizes) < ALLOWED


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_leak_would_be_seen(thousand, out, cache, weights):
    _, sizes = run_measured(thousand[0], out, cache, weights, before=LEAKING)
    print([round(size / 2**20, 1) for size in sizes])
    print(f"grown by {growth(sizes):.2f} MiB")
    assert growth(sizes) > ALLOWED
