"""Streams of images: one result whatever the batch, the order and the tiles; no seams."""

import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import (
    FIXTURES,
    MINI_UNET,
    MINI_VQ,
    TINY,
    TINY_INPAINTING,
    assert_close,
    jit,
    save_model,
)

import resshift_jax
from resshift_jax.config import ModelConfig
from resshift_jax.image_io.photo import read_photo
from resshift_jax.inference.batching import Request, checksum
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Programs, Progress
from resshift_jax.inference.tiles import Blending, Grid
from resshift_jax.latent_model import LatentModel
from resshift_jax.weights.zoo import FOUR_STEPS, released_config

MINI = ModelConfig("realsrx4", 4, FOUR_STEPS, MINI_UNET, MINI_VQ)
TILES = {"chop_size": 8, "chop_stride": 6}  # of 16 pixels every 12 for TINY, whose scale is 2


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return lambda config: resshift_jax.load(save_model(folder / "model.safetensors", config))


@pytest.fixture(scope="module")
def model(load):
    return load(TINY)


@pytest.fixture(scope="module")
def inpainting(load):
    return load(TINY_INPAINTING)


def photo(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def restored(model, images, **options):
    """Tag -> restored image, in the order in which they come."""
    requests = (Request(tag, image) for tag, image in images.items())
    results = list(model.restorer(RestoreOptions(**options)).restore(requests))
    assert [error for _, _, error in results] == [None] * len(images)
    return {tag: image for tag, image, _ in results}


# Two shapes of tiles; the last two images are larger than a tile.
MIXED = {
    "a": photo(5, 9), "b": photo(7, 12, seed=1), "c": photo(8, 10, seed=2),
    "d": photo(6, 9, seed=3), "e": photo(7, 11, seed=4), "f": photo(40, 21, seed=5),
    "g": photo(17, 16, seed=6),
}  # fmt: skip


def test_a_result_does_not_depend_on_batch_order_or_company(model):
    alone = {tag: model(image, seed=3, **TILES) for tag, image in MIXED.items()}
    backwards = dict(reversed(MIXED.items()))
    for images, batch_size in ((MIXED, 1), (MIXED, 4), (backwards, 4)):
        together = restored(model, images, seed=3, batch_size=batch_size, **TILES)
        assert together.keys() == MIXED.keys()
        for tag, image in together.items():
            assert image.shape == (2 * MIXED[tag].shape[0], 2 * MIXED[tag].shape[1], 3)
            # Only rounding may differ: 60 dB and more.
            assert np.mean((image.astype(float) - alone[tag]) ** 2) < 255**2 / 10**6


def test_programs_are_compiled_once_a_shape(load):
    model = load(replace(TINY, task="counted"))
    options, said = RestoreOptions(batch_size=4, chop_size=16), []
    requests = [Request(i, photo(5 + i % 4, 9 + 8 * (i % 2), seed=i)) for i in range(20)]
    list(model.restorer(options, Progress(announce=said.append)).restore(requests))
    assert sorted(filter(None, said)) == [f"compiling for tiles of {w}x8" for w in (12, 20)]
    assert said[1::2] == ["", ""]
    programs = model.programs()
    assert programs.count == 2
    assert programs.seconds > 0
    # One image does not fill a batch, and needs no program of its own for it.
    others = Progress(announce=said.append)
    list(model.restorer(options, others).restore([Request("one", photo(8, 10))]))
    assert programs.count == 2
    assert len(said) == 4


@pytest.fixture
def runs(monkeypatch):
    """The batches that have been run, for which nothing is computed: pixels are repeated."""
    batches = []

    def fake(self, params, seed, tiles, announce=None):
        batches.append(tiles)
        scale = 2 if tiles.mask is None else 1
        return tiles.lq.repeat(scale, 1).repeat(scale, 2)

    monkeypatch.setattr(Programs, "__call__", fake)
    return batches


def shapes(batches):
    return [batch.lq.shape for batch in batches]


def test_as_few_batches_as_there_need_be(model, runs):
    images = {i: photo(8, 8, seed=i) for i in range(10)}
    for tag, out in restored(model, images, batch_size=4, **TILES).items():
        np.testing.assert_array_equal(out, images[tag].repeat(2, 0).repeat(2, 1))
    assert shapes(runs) == [(4, 8, 8, 3)] * 3
    runs.clear()
    large = photo(40, 28)  # 3 by 2 tiles
    out = restored(model, {0: large}, batch_size=4, **TILES)[0]
    np.testing.assert_array_equal(out, large.repeat(2, 0).repeat(2, 1))
    assert shapes(runs) == [(4, 16, 16, 3)] * 2


def test_images_that_wait_for_others_are_bounded(model, runs):
    """Of hundreds of shapes none fills a batch; they do not gather to the end."""
    waiting = []
    restorer = model.restorer(RestoreOptions(batch_size=2))

    def requests():
        for i in range(200):
            waiting.append(sum(map(len, restorer._waiting.values())))
            yield Request(i, photo(1 + 4 * (i % 20), 1 + 4 * (i // 20), seed=i))

    assert len(list(restorer.restore(requests()))) == 200
    assert 4 < max(waiting) <= 8


def test_large_images_do_not_gather(model, runs):
    """When a large image comes, the one before it is done, and nothing holds it any more."""
    alive = []

    def requests():
        for i in range(4):
            assert sum(ref() is not None for ref in alive) <= 1
            image = photo(40, 28, seed=i)
            alive.append(weakref.ref(image))
            yield Request(i, image)
            del image

    for _, result, _ in model.restorer(RestoreOptions(**TILES)).restore(requests()):
        assert result.shape == (80, 56, 3)
    assert len(runs) == 4 * 6


def test_tiles_of_an_image_share_its_key_and_its_canvas_of_noise(inpainting, model, runs):
    image = photo(17, 40, seed=2)
    starts = [(row, column) for row in (0, 1) for column in (0, 12, 24)]
    for batch_size in (1, 4):
        runs.clear()
        restored(model, {0: image}, batch_size=batch_size, **TILES)
        assert {int(crc) for batch in runs for crc in batch.crc} == {checksum(image)}
        origins = [tuple(map(int, origin)) for batch in runs for origin in batch.origin]
        assert list(dict.fromkeys(origins)) == starts
    # In latent pixels, of which these have two pixels each.
    runs.clear()
    inpainting(image, np.full((17, 40), 255, np.uint8), chop_size=4, chop_stride=3)
    origins = [tuple(map(int, origin)) for batch in runs for origin in batch.origin]
    assert origins == [(row, column) for row in (0, 1) for column in (0, 6, 12)]
    # Even blending cuts each tile from a place of its own, that no other comes near.
    runs.clear()
    restored(model, {0: image}, blend="even", **TILES)
    rows = sorted(int(row) for batch in runs for row, _ in batch.origin)
    assert len(rows) == 6
    assert np.diff(rows).min() > 10000


def test_a_large_image_is_its_tiles_blended(model):
    """The whole way again by hand: cut, restored with the canvas's noise, weighted, added."""
    image = photo(22, 16, seed=8)
    out = model(image / np.float32(255), seed=5, **TILES)
    lq = 2 * image.astype(np.float32) / 255 - 1
    key = jax.random.fold_in(jax.random.key(5), checksum(image))
    total, weights = np.zeros((44, 32, 3)), np.zeros((44, 1, 1))
    window = (np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2)[:, None, None]
    by_hand = jit(partial(resshift_jax.restore, LatentModel(TINY)))
    for top in (0, 6):
        origin = np.array([[top, 0]], np.uint32)
        tile = by_hand(model.params, lq[None, top : top + 16], key[None], None, origin)
        total[2 * top : 2 * top + 32] += window * (np.asarray(tile[0]) + 1) / 2
        weights[2 * top : 2 * top + 32] += window
    assert_close(out, total / weights, 1e-4)


def seam(image, edges):
    """|I[x-1] - 2 I[x] + I[x+1]| in the two columns either side of edges, over that elsewhere."""
    bend = np.abs(image[:, :-2] - 2 * image[:, 1:-1] + image[:, 2:]).mean((0, 2))
    near = [c - 1 for edge in edges for c in range(edge - 2, edge + 2) if 0 < c < len(bend)]
    inside = np.isin(np.arange(len(bend)), near)
    return bend[inside].mean() / bend[~inside].mean()


@pytest.mark.slow
def test_no_seam_is_left_where_tiles_meet_and_even_averages_leave_one(load):
    model = load(MINI)
    image = read_photo(FIXTURES / "astronaut_300x200.jpg").pixels / np.float32(255)
    grid = RestoreOptions(chop_size=64).grid(MINI, image.shape[:2])
    assert grid.tile == (64, 64)
    ratios = {}
    for blend in ("smooth", "even"):
        out = model(image, seed=1, chop_size=64, batch_size=4, blend=blend).astype(np.float64)
        ratios[blend] = []
        for picture, starts in ((out, grid.columns), (out.transpose(1, 0, 2), grid.rows)):
            edges = {4 * edge for start in starts for edge in (start, start + 64)}
            ratios[blend].append(seam(picture, sorted(edges - {0, picture.shape[1]})))
    print(ratios)
    assert max(ratios["smooth"]) <= 1.1
    assert min(ratios["even"]) > 1.1


def test_known_pixels_of_a_large_image_stay_as_they_are(inpainting):
    image = photo(20, 40)
    mask = np.zeros((20, 40), np.uint8)
    mask[6:14, 10:26] = 255
    out = inpainting(image, mask, chop_size=4, chop_stride=3)  # tiles of 16 pixels every 12
    np.testing.assert_array_equal(out[mask == 0], image[mask == 0])
    assert np.abs(out.astype(int) - image)[mask == 255].mean() > 1


def test_tiles_with_nothing_to_fill_are_not_run(inpainting, runs):
    image = photo(64, 96)
    mask = np.zeros((64, 96), np.uint8)
    tiles = {"chop_size": 4, "chop_stride": 3}
    np.testing.assert_array_equal(inpainting(image, mask, **tiles), image)
    assert runs == []
    mask[20:30, 10:18] = 255  # seen by tiles from rows 12 and 24, and columns 0 and 12
    np.testing.assert_array_equal(inpainting(image, mask, **tiles), image)
    assert len(runs) == 4


def test_a_bad_request_is_a_result_and_stops_no_other(model, runs):
    bad = {"grey": photo(8, 8)[..., 0], "empty": photo(0, 8), "deep": photo(8, 8).astype(np.int32)}
    good = {"a": photo(5, 9), "b": photo(40, 28)}
    requests = [Request(tag, image) for tag, image in {**bad, **good}.items()]
    requests.append(Request("masked", photo(8, 8), np.zeros((8, 8), np.uint8)))
    found = {
        r.tag: r for r in model.restorer(RestoreOptions(batch_size=2, **TILES)).restore(requests)
    }
    assert len(found) == 6
    for tag in (*bad, "masked"):
        assert isinstance(found[tag].error, ValueError)
        assert found[tag].image is None
    for tag, image in good.items():
        np.testing.assert_array_equal(found[tag].image, image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("batch_size", "shape", "ways"),
    [
        (1, (40, 28), "try chop_size=4 ("),
        (2, (40, 28), "try batch_size=1 or chop_size=4 ("),
        (1, (5, 9), "try chop_size=2 ("),
        (1, (4, 4), "and this is the smallest tile ("),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_where_memory_ends_a_smaller_tile_is_named_and_others_go_on(
    model, monkeypatch, runs, batch_size, shape, ways, late
):
    image, other = photo(*shape), photo(1, 25, seed=1)
    fake = Programs.__call__
    out_of_memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GiB\nmore")

    class Late:
        """An array that turns out not to have been computed."""

        def __array__(self, *_, **__):
            raise out_of_memory

    def limited(self, params, seed, tiles, announce=None):
        if tiles.lq.shape[2] > 16 or checksum(other) in tiles.crc:
            return fake(self, params, seed, tiles)
        if late:
            return Late()
        raise out_of_memory

    monkeypatch.setattr(Programs, "__call__", limited)
    options = RestoreOptions(batch_size=batch_size, **TILES)
    requests = [Request("bad", image), Request("good", other)]
    found = {r.tag: r for r in model.restorer(options).restore(requests)}
    assert isinstance(found["bad"].error, MemoryError)
    assert ways in str(found["bad"].error)
    assert "\n" not in str(found["bad"].error)
    assert found["good"].image.shape == (2, 50, 3)
    with pytest.raises(MemoryError, match="out of memory, "):
        model(image, batch_size=batch_size, **TILES)


def test_a_result_that_is_not_finite_is_no_picture(model, monkeypatch, runs):
    fake = Programs.__call__

    def broken(self, params, seed, tiles, announce=None):
        out = fake(self, params, seed, tiles)
        out[tiles.crc == checksum(MIXED["a"]), 3, 2, 1] = np.nan
        return out

    monkeypatch.setattr(Programs, "__call__", broken)
    requests = [Request(tag, MIXED[tag]) for tag in "abc"]
    found = {
        r.tag: r for r in model.restorer(RestoreOptions(batch_size=4, **TILES)).restore(requests)
    }
    assert "not finite: try dtype=float32" in str(found["a"].error)
    for tag in "bc":
        assert found[tag].image is not None


def test_what_a_cpu_has_no_room_for_is_not_started(model, monkeypatch):
    monkeypatch.setattr("resshift_jax.platform.available_memory", lambda: 10_000)
    needed = r"\(the program needs 0.0 GiB of memory, 0.0 GiB free\)"
    with pytest.raises(MemoryError, match=f"try chop_size=2 {needed}"):
        model(photo(8, 8), **TILES)


@pytest.mark.parametrize("step", ["cut", "add", "image"])
def test_an_image_that_the_host_has_no_room_for_stops_no_other(model, monkeypatch, runs, step):
    owner = Grid if step == "cut" else Blending
    original = getattr(owner, step)

    def limited(self, *args):
        grid = self if step == "cut" else self.grid
        if grid.image == (40, 28):
            raise MemoryError(f"unable to allocate in {step}")
        return original(self, *args)

    monkeypatch.setattr(owner, step, limited)
    images = {"a": photo(5, 9), "large": photo(40, 28), "b": photo(6, 10), "c": photo(17, 16)}
    requests = [Request(tag, image) for tag, image in images.items()]
    found = {
        r.tag: r for r in model.restorer(RestoreOptions(batch_size=4, **TILES)).restore(requests)
    }
    assert found.keys() == images.keys()
    assert f"unable to allocate in {step}" in str(found.pop("large").error)
    for tag, result in found.items():
        np.testing.assert_array_equal(result.image, images[tag].repeat(2, 0).repeat(2, 1))


def test_a_result_larger_than_the_memory_is_not_started(model, monkeypatch, runs):
    monkeypatch.setattr("resshift_jax.platform.available_memory", lambda: 200_000)
    assert model(photo(50, 50)).shape == (100, 100, 3)
    with pytest.raises(MemoryError, match=r"^a result of 0 megapixels needs 0.0 GiB of memory"):
        model(photo(60, 50))


def test_a_program_that_cannot_be_compiled_is_tried_once(load, monkeypatch):
    model = load(replace(TINY, task="impossible"))
    programs = model.programs()
    tries = []

    def fail(*_):
        tries.append(1)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: compiling ran out of memory in hbm")

    monkeypatch.setattr(programs, "_jitted", SimpleNamespace(lower=fail))
    requests = [Request(i, photo(8, 8, seed=i)) for i in range(5)]
    results = list(model.restorer().restore(requests))
    assert all("try chop_size=2" in str(r.error) for r in results)
    assert len(tries) == 1


def test_progress_adds_up_to_the_images(model, runs):
    shares = []
    requests = [Request(tag, image) for tag, image in MIXED.items()]
    options, progress = RestoreOptions(batch_size=2, **TILES), Progress(shares.append)
    list(model.restorer(options, progress).restore(requests))
    assert sum(shares) == pytest.approx(len(MIXED))
    assert len(shares) > len(MIXED)


def test_seeds_that_differ_give_samples_that_differ(model):
    image = photo(8, 8)
    outs = [model(image, seed=seed, **TILES) for seed in (0, 1, 2**31, 2**32 - 1)]
    for i, one in enumerate(outs):
        for other in outs[i + 1 :]:
            assert np.abs(one.astype(int) - other).mean() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "^seed=-1: 0 to 4294967295 needed"),
        ({"seed": 2**32}, "^seed=4294967296: "),
        ({"sampling_steps": 0}, "^sampling_steps=0: at least 1"),
        ({"chop_size": 0}, "^chop_size=0: "),
        ({"chop_stride": -3}, "^chop_stride=-3: "),
        (
            {"chop_size": 64, "chop_stride": 65},
            r"^chop_stride=65: at most that of chop_size=64 needed",
        ),
        ({"batch_size": 0}, "^batch_size=0: "),
        ({"sampler": "euler"}, "^sampler=euler: unknown, one of ancestral, "),
        ({"blend": "odd"}, "^blend=odd: unknown, one of smooth, even"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RestoreOptions(**options)


@pytest.mark.parametrize(
    ("task", "chop_size", "tile", "stride"),
    [
        ("realsrx4", 512, 512, 448),
        ("realsrx4", 256, 256, 224),
        ("realsrx4", 64, 64, 48),
        ("realsrx4", 100, 128, 112),  # whole windows
        ("realsrx4", 1, 64, 48),
        ("realsrx2", 512, 1024, 896),
        ("realsrx2", 64, 128, 96),
        ("inpaint_imagenet", 256, 1024, 896),
        ("inpaint_imagenet", 64, 256, 192),
        ("faceir", 256, 1024, 896),
        ("faceir", 64, 512, 448),  # which needs 512 at least
    ],
)
def test_tiles_of_the_released_models(task, chop_size, tile, stride):
    config = released_config(task=task, version="v3" if task == "realsrx4" else None)
    grid = RestoreOptions(chop_size=chop_size).grid(config, (4000, 20))
    assert grid.tile == (tile, config.pad_multiple)
    assert grid.rows[1] == stride
    assert grid.columns == (0,)


def test_programs_belong_to_their_model_and_options(load):
    one, other = load(TINY), load(TINY)
    assert one.programs() is one.programs(RestoreOptions(seed=7, batch_size=3))
    assert one.programs() is not one.programs(RestoreOptions(sampling_steps=2))
    assert one.programs() is not one.programs(RestoreOptions(sampler="deterministic"))
    assert one.programs() is not other.programs()
