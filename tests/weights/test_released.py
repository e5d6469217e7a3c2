"""Released models by name: what is taken from the cache, what is fetched into it, what is said.

The models are small ones under the released names, served by this machine.
"""

import json
import logging
import os
import resource
import shutil
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_UNET, TINY_VQ, rules_and_shapes
from file_server import serving

from resshift_jax.weights import released, stand_in, store, zoo
from resshift_jax.weights.fetch import FetchError
from resshift_jax.weights.mapping import ConversionError, torch_shapes
from resshift_jax.weights.released import load_released
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch.file import WeightFileError
from resshift_jax.weights.zoo import Released, UnknownModelError

V1, V2, V3 = "resshift_realsrx4_s15_v1", "resshift_realsrx4_s15_v2", "resshift_realsrx4_s4_v3"
OLD_V2 = "resshift_realsrx4_s15"
FACE, X2 = "resshift_faceir_s4", "resshift_realsrx2_s4"
STAGE = TINY_VQ.name
PAGE = "/someone/weights"
WIDER = replace(TINY_UNET, base_channels=64)


def tiny(task, chain=zoo.FOUR_STEPS):
    return replace(TINY, task=task, chain=chain)


@pytest.fixture(scope="module")
def pth(tmp_path_factory) -> dict[str, Path]:
    """The files that may be published: networks that differ in a value, and the first stage."""
    folder = tmp_path_factory.mktemp("pth")
    paths = {}
    networks = dict.fromkeys((V1, V2, V3, FACE, X2), TINY_UNET)
    for name, config in {**networks, STAGE: TINY_VQ, "wider": WIDER}.items():
        state = stand_in.state_dict(torch_shapes(*rules_and_shapes(config)))
        if name in networks:
            state["out.2.bias"] = np.full(3, list(networks).index(name), np.float32)
        paths[name] = folder / f"{name}.pth"
        torch_file.write(paths[name], state)
    return paths


@pytest.fixture(autouse=True)
def server(pth, monkeypatch):
    download = f"{PAGE}/releases/download/v2.0"
    published = {name: path.read_bytes() for name, path in pth.items() if name != X2}
    files = {f"{download}/{name}.pth": content for name, content in published.items()}
    with serving(files) as server:
        folder = server.address + download
        models = (
            Released(V1, tiny("realsrx4", zoo.FIFTEEN_STEPS), "v1", folder),
            Released(V2, tiny("realsrx4", zoo.FIFTEEN_STEPS), "v2", folder, earlier=(OLD_V2,)),
            Released(V3, tiny("realsrx4"), "v3", folder),
            Released(FACE, tiny("faceir"), folder=folder),
            Released(X2, tiny("realsrx2"), folder=""),
        )
        monkeypatch.setattr(zoo, "RELEASED", models)
        monkeypatch.setitem(zoo.FIRST_STAGE_URLS, STAGE, f"{folder}/{STAGE}.pth")
        monkeypatch.setattr(released, "fetch", quick_fetch)
        yield server


def quick_fetch(*args, fetch=released.fetch, **kwargs):
    return fetch(*args, **kwargs, timeout=5, tries=2, pause=0.01)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder, which is not there yet."""
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def notices(monkeypatch):
    """The lines that loading logs."""
    lines = []

    class Listed(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    listed = Listed()
    monkeypatch.setattr(released.logger, "handlers", [listed])
    monkeypatch.setattr(released.logger, "level", logging.INFO)
    return lines


@pytest.fixture
def load(notices):
    """load_released, of whose notices is taken note."""
    return load_released


@pytest.fixture
def put(pth, cache):
    """Puts files into the cache, under other names if need be."""

    def put(*names, **renamed):
        cache.mkdir(exist_ok=True)
        for name, source in {**{name: name for name in names}, **renamed}.items():
            shutil.copy(pth[source], cache / f"{name}.pth")

    return put


def bias(model) -> float:
    """What the networks of the releases differ in."""
    return model[1]["unet"]["conv_out/bias"][0]


def fetched(server) -> list[str]:
    return [Path(path).stem for path in server.paths()]


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_same(model, other):
    assert model[0] == other[0]
    for part in ("unet", "first_stage"):
        assert set(model[1][part]) == set(other[1][part]) != set()
        for name, value in model[1][part].items():
            np.testing.assert_array_equal(value, other[1][part][name])


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestFetching:
    def test_what_is_absent_is_fetched_once_and_converted(self, load, cache, server, notices):
        first = load("faceir")
        assert first[0] == tiny("faceir")
        assert bias(first) == 3
        assert first[1]["first_stage"]["codebook"].shape == (64, 3)
        assert fetched(server) == [FACE, STAGE]
        converted = cache / f"{FACE}.safetensors"
        assert files(cache) == {f"{FACE}.pth", f"{STAGE}.pth", converted.name}
        licence, used = notices
        for words in ("non-commercial use only", f"{server.address}{PAGE};", str(cache)):
            assert words in licence
        assert used == f"weights: {converted}"

        notices.clear()
        assert_same(load("faceir"), first)
        assert fetched(server) == [FACE, STAGE]
        assert notices == [used]

    def test_it_prints_nothing_by_itself_and_logs_what_is_used(self, capsys, cache, caplog):
        with caplog.at_level(logging.INFO, "resshift_jax"):
            load_released("faceir")
        assert capsys.readouterr() == ("", "")
        first, second, third, last = caplog.messages
        assert "non-commercial" in first
        assert second.startswith("fetching http")
        assert third.startswith("fetching http")
        assert last == f"weights: {cache / FACE}.safetensors"

    def test_another_folder_may_be_the_cache(self, load, cache, tmp_path):
        load("faceir", cache=tmp_path / "other")
        assert len(files(tmp_path / "other")) == 3
        assert not cache.exists()

    @pytest.mark.parametrize(("there", "wanted"), [(FACE, STAGE), (STAGE, FACE)])
    def test_only_what_is_absent_is_fetched(self, load, put, server, notices, there, wanted):
        put(there)
        load("faceir")
        assert fetched(server) == [wanted]
        assert "non-commercial" in notices[0]

    def test_nothing_is_fetched_where_all_is_there(self, load, put, server, notices):
        put(FACE, STAGE)
        load("faceir")
        assert server.requests == []
        assert len(notices) == 1  # and no word of licences

    def test_a_first_stage_serves_all_models(self, load, server):
        load("faceir")
        load("realsr", "v3")
        assert fetched(server) == [FACE, STAGE, V3]

    def test_without_a_network_the_files_to_put_are_named(self, load, put, server, cache):
        server.files.clear()
        with pytest.raises(FetchError) as caught:
            load("faceir")
        text = one_line(caught)
        assert f"{FACE}.pth: {server.address}" in text
        assert "answers 404 Not Found" in text
        assert text.endswith(f"; or put {FACE}.pth and {STAGE}.pth into {cache}")

        put(FACE)
        with pytest.raises(FetchError) as caught:
            load("faceir")
        assert one_line(caught).startswith(f"{STAGE}.pth: ")
        assert one_line(caught).endswith(f"; or put {STAGE}.pth into {cache}")

    def test_a_server_that_cannot_be_reached(self, load, monkeypatch, cache):
        nowhere = Released(FACE, tiny("faceir"), folder="http://127.0.0.1:9/releases")
        monkeypatch.setattr(zoo, "RELEASED", (nowhere,))
        with pytest.raises(FetchError, match="is not reachable") as caught:
            load("faceir")
        assert one_line(caught).endswith(f"into {cache}")

    def test_a_download_that_breaks_off_goes_on_in_the_next_run(self, load, server, cache):
        server.breaks = deque([10_000, 10_000])
        with pytest.raises(FetchError, match=r"broke off at 0\.0 of 0\.\d MiB.*run again") as e:
            load("faceir")
        assert one_line(e).endswith(f"or put {FACE}.pth and {STAGE}.pth into {cache}")
        assert (cache / f"{FACE}.pth.part").stat().st_size == 20_000
        assert bias(load("faceir")) == 3
        assert server.requests[2]["Range"] == "bytes=20000-"

    @pytest.mark.parametrize("damage", ["flipped", "cut", "page"])
    def test_a_damaged_download_is_removed_and_fetched_anew(self, load, server, cache, damage):
        path = next(path for path in server.files if FACE in path)
        good = server.files[path]
        middle = len(good) // 2
        server.files[path] = {
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "cut": good[:middle],
            "page": b"<html>please sign in</html>",
        }[damage]
        with pytest.raises(FetchError, match=r"damaged .*removed; run again") as caught:
            load("faceir")
        assert one_line(caught).startswith(f"{FACE}.pth: what {server.address}{path} sent")
        assert files(cache) == set()
        server.files[path] = good
        assert bias(load("faceir")) == 3

    def test_a_cache_that_cannot_be_written_is_named(self, load, cache, limited_files):
        with limited_files(10_000), pytest.raises(OSError, match="File too large") as caught:
            load("faceir")
        assert one_line(caught).startswith(f"{cache / FACE}.pth.part: cannot be written")
        assert "$RESSHIFT_CACHE" in one_line(caught)


@pytest.fixture
def limited_files():
    """A context in which files cannot grow beyond some bytes: also for root, unlike file modes."""

    class Limit:
        def __init__(self, size):
            self.size = size

        def __enter__(self):
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    return Limit


class TestWhichRelease:
    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            ([V1], 0),
            ([V1, V2], 1),
            ([V2, V3], 2),
            ([V1, V3], 2),
            ([], 2),
            ([FACE], 2),
        ],
    )
    def test_the_newest_there_or_the_newest(self, load, put, server, there, expected):
        put(STAGE, *there)
        model = load("realsrx4")
        assert bias(model) == expected
        assert model[0].chain.num_timesteps == (4 if expected == 2 else 15)
        assert fetched(server) == ([] if expected < 2 or V3 in there else [V3])

    def test_a_converted_file_counts(self, load, put, cache, server):
        put(STAGE, V1)
        load("realsrx4")
        (cache / f"{V1}.pth").unlink()
        assert bias(load("realsrx4")) == 0
        assert server.requests == []

    def test_an_earlier_name_counts(self, load, put, cache, server, notices):
        put(STAGE, V1, **{OLD_V2: V2})
        assert bias(load("realsrx4")) == 1
        assert bias(load("realsrx4", "v2")) == 1
        assert server.requests == []
        assert notices == [f"weights: {cache / V2}.safetensors"] * 2

    def test_a_version_settles_it(self, load, put, server):
        put(STAGE, V1, V3)
        assert bias(load("realsrx4", "v1")) == 0
        assert bias(load("realsrx4", "v2")) == 1
        assert fetched(server) == [V2]

    @pytest.mark.parametrize(("alias", "task"), zoo.ALIASES.items())
    def test_the_names_of_the_original(self, load, monkeypatch, put, alias, task):
        put(STAGE, some_name=V3)
        monkeypatch.setattr(zoo, "RELEASED", (Released("some_name", tiny(task)),))
        assert load(alias)[0].task == task

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["deblur"], "task=deblur: unknown, one of small, realsrx4, .*, realsr, bicsr$"),
            (["realsrx4", "v4"], "version=v4: unknown for realsrx4, one of v1, v2, v3$"),
            (["realsr", "v4"], "version=v4: unknown for realsrx4, one of v1, v2, v3$"),
            (["faceir", "v1"], "version=v1: unknown for faceir, which has only one$"),
        ],
    )
    def test_what_is_not_released_is_named(self, load, server, names, words):
        with pytest.raises(UnknownModelError, match=words) as caught:
            load(*names)
        one_line(caught)
        assert server.requests == []

    def test_what_users_train_is_not_fetched(self, load, server, cache, notices):
        with pytest.raises(FileNotFoundError) as caught:
            load("realsrx2")
        for words in ("realsrx2", "trained by users", "weights=FILE", f"put {X2}.pth into {cache}"):
            assert words in one_line(caught)
        assert server.requests == []
        assert notices == []

    def test_what_users_trained_is_used(self, load, put, server):
        put(X2)
        assert bias(load("realsrx2")) == 4
        assert fetched(server) == [STAGE]


class TestConverted:
    @pytest.fixture
    def converted(self, load, put, cache, notices):
        put(FACE, STAGE)
        load("faceir")
        notices.clear()
        return cache / f"{FACE}.safetensors"

    def test_it_is_used_instead_of_the_pth(self, load, converted, monkeypatch):
        monkeypatch.setattr(torch_file, "read", None)
        assert bias(load("faceir")) == 3

    def test_it_tells_what_it_was_made_from(self, converted):
        assert store.load_config(converted) == tiny("faceir")
        sources = json.loads(store.load_notes(converted)["sources"])
        assert set(sources) == {f"{FACE}.pth", f"{STAGE}.pth"}
        status = (converted.parent / f"{FACE}.pth").stat()
        assert sources[f"{FACE}.pth"] == [status.st_size, status.st_mtime_ns]

    def test_a_pth_that_is_gone_makes_no_difference(self, load, converted, server, notices):
        for path in converted.parent.glob("*.pth"):
            path.unlink()
        assert bias(load("faceir")) == 3
        assert server.requests == []
        assert notices == [f"weights: {converted}"]

    @pytest.mark.parametrize("changed", [FACE, STAGE])
    def test_a_pth_that_changed_is_converted_again(self, load, converted, notices, changed):
        path = converted.with_name(f"{changed}.pth")
        state = {name: tensor.load() for name, tensor in torch_file.read(path).items()}
        name = "out.2.bias" if changed == FACE else "quantize.embedding.weight"
        torch_file.write(path, {**state, name: state[name] + 1})
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        before = store.load(converted)[1]
        after = load("faceir")[1]
        part, ours = ("unet", "conv_out/bias") if changed == FACE else ("first_stage", "codebook")
        np.testing.assert_array_equal(after[part][ours], before[part][ours] + 1)
        assert notices == [
            f"{converted}: made anew, for {changed}.pth has changed",
            f"weights: {converted}",
        ]
        notices.clear()
        load("faceir")
        assert notices == [f"weights: {converted}"]

    @pytest.mark.parametrize("damage", ["cut", "text", "sources", "model", "shapes"])
    @pytest.mark.parametrize("there", [True, False])
    def test_one_that_cannot_be_used_is_made_anew(
        self, load, converted, server, notices, damage, there
    ):
        good, notes = store.load(converted), store.load_notes(converted)
        match damage:
            case "cut":
                converted.write_bytes(converted.read_bytes()[:-100])
            case "text":
                converted.write_text("version https://git-lfs.github.com/spec/v1")
            case "sources":
                store.save(converted, *good, notes={"sources": "[1]"})
            case "model":
                other = replace(good[0], chain=zoo.FIFTEEN_STEPS)
                store.save(converted, other, good[1], notes=notes)
            case "shapes":
                less = {"unet": {}, "first_stage": good[1]["first_stage"]}
                store.save(converted, good[0], less, notes=notes)
        if not there:
            for path in converted.parent.glob("*.pth"):
                path.unlink()
        assert_same(load("faceir"), good)
        assert fetched(server) == ([] if there else [FACE, STAGE])
        assert notices[0].startswith(f"{converted}: made anew, for it cannot be used (")
        assert all("\n" not in line and line.count(str(converted)) == 1 for line in notices[:1])
        notices.clear()
        load("faceir")
        assert notices == [f"weights: {converted}"]

    def test_one_that_was_put_there_is_used_as_it_is(self, load, converted, notices):
        config, params = store.load(converted)
        params["unet"]["conv_out/bias"] = params["unet"]["conv_out/bias"] + 1
        store.save(converted, config, params, np.float16)
        assert bias(load("faceir")) == 4
        assert notices == [f"weights: {converted}"]

    def test_one_that_was_put_there_and_does_not_fit_is_not_replaced(self, load, converted, server):
        config, params = store.load(converted)
        store.save(converted, replace(config, chain=zoo.FIFTEEN_STEPS), params)
        before = converted.read_bytes()
        with pytest.raises(ValueError, match=f"^{converted}: not the model faceir as released"):
            load("faceir")
        assert converted.read_bytes() == before
        assert server.requests == []

    @pytest.mark.parametrize("how", ["limit", "error"])
    def test_a_run_goes_on_where_it_cannot_be_kept(
        self, load, put, cache, notices, monkeypatch, limited_files, how
    ):
        put(FACE, STAGE)
        if how == "error":

            def fail(tensors, target, metadata=None):
                raise OSError(30, "Read-only file system")

            monkeypatch.setattr(store.safetensors.numpy, "save_file", fail)
        with limited_files(10_000 if how == "limit" else resource.RLIM_INFINITY):
            assert bias(load("faceir")) == 3
        unkept, used = notices
        assert unkept.startswith(f"{cache / FACE}.safetensors: not kept, so the next run converts")
        assert "\n" not in unkept
        assert used == f"weights: {cache / FACE}.pth"
        assert files(cache) == {f"{FACE}.pth", f"{STAGE}.pth"}


class TestUnfitFiles:
    def test_a_network_of_other_widths_is_refused(self, load, put, cache):
        put(STAGE, **{FACE: "wider"})
        with pytest.raises(ConversionError) as caught:
            load("faceir")
        first, *problems = str(caught.value).splitlines()
        assert first.startswith(f"{cache / FACE}.pth: does not fit as faceir; ")
        assert f"{len(problems)} tensors do not fit" in first
        assert "  shape: out.2.weight is (3, 64, 3, 3), (3, 32, 3, 3) expected" in problems
        assert files(cache) == {f"{FACE}.pth", f"{STAGE}.pth"}

    def test_a_network_as_first_stage_is_refused(self, load, put, cache):
        put(FACE, **{STAGE: FACE})
        with pytest.raises(ConversionError, match=f"^{cache / STAGE}.pth: does not fit as {STAGE}"):
            load("faceir")

    def test_a_first_stage_as_network_is_refused(self, load, put, cache):
        put(STAGE, **{FACE: STAGE})
        with pytest.raises(ConversionError, match=f"^{cache / FACE}.pth: an autoencoder"):
            load("faceir")

    @pytest.mark.parametrize("damaged", [FACE, STAGE])
    @pytest.mark.parametrize("damage", ["flipped", "cut"])
    def test_a_damaged_file_is_named_and_left(self, load, put, cache, server, damaged, damage):
        put(FACE, STAGE)
        path = cache / f"{damaged}.pth"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-1000])
        with pytest.raises(WeightFileError) as caught:
            load("faceir")
        assert one_line(caught).startswith(f"{path}: ")
        assert one_line(caught).endswith("; delete it, and the next run fetches it anew")
        assert server.requests == []
        path.unlink()
        assert bias(load("faceir")) == 3
