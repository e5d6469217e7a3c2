"""Batches: the same however they are read, in the order they should have, with what is damaged."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_samples import colours, save

from resshift_jax.data.config import CropConfig, DataConfig, InputError, SourceConfig
from resshift_jax.data.loader import Loader

CROP = CropConfig("random", 16, "dihedral")


def folder(path, count, seed=0, size=24) -> SourceConfig:
    path.mkdir(parents=True)
    for i in range(count):
        save(path / f"{i:03}.png", colours(size, size + 4, 1000 * seed + i))
    return SourceConfig(str(path))


def make(*sources, batch_size=4, seed=0, crop=CROP, scale=4, shard=0, shards=1, **more) -> Loader:
    config = DataConfig(sources, crop, **({"threads": 2, "prefetch": 2} | more))
    return Loader(config, scale, seed=seed, batch_size=batch_size, shard=shard, shards=shards)


def take(loader, count, start=0) -> list[dict]:
    batches = loader.batches(start)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.fixture
def mixture(tmp_path):
    return folder(tmp_path / "a", 7, 1), folder(tmp_path / "b", 3, 2)


def test_what_a_batch_holds(mixture):
    batch = make(*mixture).batch(0)
    assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
        "hq": ((4, 16, 16, 3), "uint8"),
        "record": ((4, 3), "int32"),
    }
    assert np.ptp(batch["hq"]) > 200


def test_threads_restarts_and_random_access_change_nothing(mixture):
    expected = take(make(*mixture, threads=1, prefetch=1), 7)
    for start, options in ((0, {"threads": 4}), (0, {"prefetch": 5}), (3, {}), (6, {"threads": 3})):
        loader = make(*mixture, **options)
        for step, batch in enumerate(take(loader, 7 - start, start), start):
            assert_same(batch, expected[step])
            assert_same(loader.batch(step), expected[step])


def test_shards_make_the_whole_batch(mixture):
    whole = take(make(*mixture, batch_size=6), 4, start=2)
    shards = [take(make(*mixture, batch_size=6, shard=i, shards=3), 4, start=2) for i in range(3)]
    for expected, *parts in zip(whole, *shards, strict=True):
        together = {key: np.concatenate([part[key] for part in parts]) for key in expected}
        assert_same(together, expected)


def test_seeds_and_steps_differ(mixture):
    batches = [*take(make(*mixture), 5), *take(make(*mixture, seed=1), 5)]
    assert len({batch["hq"].tobytes() for batch in batches}) == 10


def test_each_image_once_an_epoch_in_another_order(tmp_path):
    loader = make(folder(tmp_path / "a", 24))
    orders = [
        [i for batch in take(loader, 6, start) for i in batch["record"][:, 1].tolist()]
        for start in (0, 6, 12)
    ]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert list(range(24)) not in orders


def test_the_same_image_is_cropped_otherwise_in_each_epoch(tmp_path):
    batches = take(make(folder(tmp_path / "a", 1), batch_size=2), 8)
    crops = {crop.tobytes() for batch in batches for crop in batch["hq"]}
    assert len(crops) > 12


def test_mixtures_follow_their_weights(tmp_path):
    folder(tmp_path / "a", 5, 1), folder(tmp_path / "b", 1, 2), folder(tmp_path / "c", 40, 3)
    weights = {"a": 5.0, "b": 2.5, "c": 2.5}
    sources = [SourceConfig(str(tmp_path / name), weight=w) for name, w in weights.items()]
    loader = make(*sources, batch_size=40)
    for start in (0, 10**12):  # without end, whatever the lengths
        numbers = [loader.batch(start + step)["record"][:, 0].tolist() for step in range(3)]
        counts = Counter(itertools.chain(*numbers))
        assert [counts[i] for i in range(3)] == pytest.approx([60, 30, 30], abs=2)


def test_equal_sources_are_not_shuffled_alike(tmp_path):
    records = np.concatenate(
        [
            batch["record"]
            for batch in take(make(folder(tmp_path / "a", 30), folder(tmp_path / "b", 30)), 15)
        ]
    )
    orders = [records[records[:, 0] == number][:, 1].tolist() for number in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(30))
    assert orders[0] != orders[1]


def pairs(path, count, size=8) -> SourceConfig:
    for i in range(count):
        lq = colours(size, size + 1, i)
        for name, image in (("hq", lq.repeat(4, 0).repeat(4, 1)), ("lq", lq)):
            (path / name).mkdir(parents=True, exist_ok=True)
            save(path / name / f"{i}.png", image)
    return SourceConfig(str(path / "hq"), lq=str(path / "lq"))


def test_pairs(tmp_path):
    for batch in take(make(pairs(tmp_path, 3)), 4):
        assert batch["lq"].shape == (4, 4, 4, 3)
        np.testing.assert_array_equal(batch["hq"], batch["lq"].repeat(4, 1).repeat(4, 2))


def test_pairs_beside_images_of_which_they_are_to_be_made(tmp_path):
    plain, paired = folder(tmp_path / "a", 3), pairs(tmp_path / "pairs", 3)
    loader = make(plain, paired, crop=CropConfig("random", 16, max_reduction=1.5))
    given = []
    for batch in take(loader, 4):
        np.testing.assert_array_equal(batch["given"], batch["record"][:, 0] == 1)
        for hq, lq, is_given in zip(batch["hq"], batch["lq"], batch["given"], strict=True):
            if is_given:
                np.testing.assert_array_equal(hq, lq.repeat(4, 0).repeat(4, 1))
            assert is_given or not lq.any()
        given += batch["given"].tolist()
    assert sum(given) == 8


def test_how_much_there_is_of_each_kind(mixture):
    assert make(*mixture).shares() == {mixture[0].path: 0.7, mixture[1].path: 0.3}
    kinds = ("texture", 1.0), ("texture", 2.0), (None, 1.0)
    sources = [replace(mixture[0], kind=kind, weight=weight) for kind, weight in kinds]
    assert make(*sources).shares() == {"texture": 0.75, mixture[0].path: 0.25}


def test_a_pair_that_does_not_fit_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("resshift_jax.data.sources.CHECKED_PAIRS", 1)
    config = pairs(tmp_path, 3)
    save(tmp_path / "lq" / "2.png", colours(9, 9))
    with pytest.raises(InputError, match=r"2\.png \(36x32\) and .*2\.png \(9x9\)"):
        take(make(config), 3)


def test_loaders_that_cannot_be(tmp_path):
    plain, paired = folder(tmp_path / "a", 1), pairs(tmp_path / "pairs", 1)
    for arguments, message in (
        ({}, "data.sources: none given"),
        ({"batch_size": 5, "shards": 2}, "batch_size: 5 given, must be a multiple of .*2"),
        (
            {"sources": (paired,), "crop": CropConfig("random", 16, max_reduction=2)},
            "data.crop.max_reduction: 2.* keep their pixels",
        ),
        ({"sources": (paired,), "crop": CropConfig("square", 16)}, "data.crop.method: 'square'"),
    ):
        sources = arguments.pop("sources", (plain,) if arguments else ())
        with pytest.raises(InputError, match=message):
            make(*sources, **arguments)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_unreadable_images_are_replaced_by_the_next(tmp_path):
    config = folder(tmp_path / "a", 8)
    whole = [make(config, crop=CropConfig("random", 16, "none")).batch(step) for step in range(6)]
    damaged = [tmp_path / "a" / f"{i:03}.png" for i in (3, 4, 7)]
    for path in damaged:
        damage(path)
    loader = make(config, crop=CropConfig("random", 16, "none"))
    instead = {3: 2, 4: 1, 7: 1}
    lines = []
    for step, batch in enumerate(take(loader, 6)):
        asked, skipped = batch["record"][:, 1], batch["record"][:, 2]
        np.testing.assert_array_equal(asked, whole[step]["record"][:, 1])
        assert skipped.tolist() == [instead.get(i, 0) for i in asked.tolist()]
        for i, number in enumerate(asked.tolist()):
            image = colours(24, 28, (number + skipped[i]) % 8)
            windows = np.lib.stride_tricks.sliding_window_view(image, (16, 16, 3))[:, :, 0]
            assert (windows == batch["hq"][i]).all((2, 3, 4)).any()
        lines += loader.unreadable(batch)
    assert sorted(line.split(": ")[0] for line in lines) == list(map(str, damaged))
    assert all("ends too early" in line for line in lines)
    assert loader.unreadable_count == 3


def test_too_many_unreadable_images(tmp_path):
    config = folder(tmp_path / "a", 40)
    for i in range(12):
        damage(tmp_path / "a" / f"{3 * i:03}.png")
    loader = make(config, batch_size=40, max_unreadable=0.3)
    assert len(loader.unreadable(loader.batch(0))) == 12
    loader = make(config, batch_size=40, max_unreadable=0.05)
    with pytest.raises(
        InputError, match=r"12 of 40 images are unreadable, .* allows 10; the last:"
    ):
        loader.unreadable(loader.batch(0))


def test_a_file_that_was_unreadable_for_a_moment_does_not_count(tmp_path):
    config = folder(tmp_path / "a", 2)
    path = tmp_path / "a" / "001.png"
    content = path.read_bytes()
    damage(path)
    loader = make(config)
    batch = loader.batch(0)
    path.write_bytes(content)
    assert set(loader.unreadable(batch)) == {f"{path}: unreadable at first"}
    assert loader.unreadable_count == 0


def test_none_of_many_is_readable(tmp_path, monkeypatch):
    monkeypatch.setattr("resshift_jax.data.loader.MOST_IN_A_ROW", 5)
    config = folder(tmp_path / "a", 9)
    for path in (tmp_path / "a").iterdir():
        damage(path)
    with pytest.raises(
        InputError, match=r"\d\.png: .*; 5 images in a row are unreadable"
    ) as caught:
        take(make(config), 1)
    assert len(str(caught.value).splitlines()) == 1


def test_worker_processes_change_nothing_and_tell_what_is_wrong(mixture, tmp_path):
    damage(tmp_path / "b" / "001.png")
    expected = make(*mixture)
    batches = make(*mixture, workers=2).batches(5)
    for step in range(5, 10):
        assert_same(next(batches), expected.batch(step))
    for path in (tmp_path / "b").iterdir():
        damage(path)
    with pytest.raises(InputError) as caught:
        list(itertools.islice(batches, 9))
    assert re.search(r"\d\.png: .*; 3 images in a row are unreadable$", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


SCRIPT = """
import multiprocessing, sys, time
from jax._src import xla_bridge
from resshift_jax.data.config import CropConfig, DataConfig, SourceConfig
from resshift_jax.data.loader import Loader

if __name__ == "__main__":
    path, workers = sys.argv[1], int(sys.argv[2])
    config = DataConfig((SourceConfig(path),), CropConfig("random", 16), 2, workers)
    batches = Loader(config, 4, seed=0, batch_size=8).batches()
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if workers:
        time.sleep(60)
    assert not xla_bridge.backends_are_initialized()
    assert "tensorflow" not in sys.modules
"""


def run(tmp_path, workers) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder(tmp_path / "images", 6)
    return subprocess.Popen(
        [sys.executable, script, str(tmp_path / "images"), str(workers)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def test_reading_starts_no_backend_and_ends_with_the_interpreter(tmp_path):
    with run(tmp_path, workers=0) as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, though nobody has asked how


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_worker_processes_end_with_a_killed_parent(tmp_path):
    with run(tmp_path, workers=2) as process:
        assert process.stdout is not None
        children = list(map(int, process.stdout.readline().split()))
        assert len(children) == 2
        assert all(map(is_running, children))
        process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 20
        while any(map(is_running, children)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(is_running, children))
