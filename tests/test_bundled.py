"""The model that ships with the package: by which names it goes, and what it makes of a photograph.

tests/fixtures/citrus_256x256.png is a photograph that it was not trained on (US Department of
Agriculture, public domain), and citrus_64x64.png its low-quality version by the degradation of
ImageNet-Test.
"""

import csv
import re
import shutil
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES
from PIL import Image

import resshift_jax
import sample
from benchmarks.quality import band_powers, bicubic, step_ratios
from resshift_jax.evaluation.metrics import Lpips, psnr_y
from resshift_jax.training.config_file import read_config
from resshift_jax.weights import store
from resshift_jax.weights.bundled import PATH, bundled_config
from resshift_jax.weights.zoo import UnknownModelError

ROOT = Path(__file__).parents[1]
LOW, HIGH = FIXTURES / "citrus_64x64.png", FIXTURES / "citrus_256x256.png"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@cache
def restored() -> np.ndarray:
    return resshift_jax.load(notify=lambda line: None)(read(LOW))


def test_the_file():
    assert PATH.stat().st_size <= 16 * 2**20
    config, params = store.load(PATH)
    assert config == read_config(ROOT / "configs" / "small_x4.yaml").model == bundled_config()
    assert all(np.isfinite(np.asarray(v, np.float32)).all() for v in params["unet"].values())
    # In a package that is not editable, too.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pattern,) = project["tool"]["setuptools"]["package-data"]["resshift_jax"]
    assert PATH.relative_to(ROOT / "resshift_jax").match(pattern)


def test_the_card_and_the_credits():
    card = (PATH.parent / "README.md").read_text()
    with (PATH.parent / "photographs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["split"] == "train"]
    crops = sum(int(row["crops"]) for row in trained)
    assert f"{crops:,} crops of {len(trained)} photographs" in card
    assert all(row["licence"] and row["package"] and row["original_file"] for row in rows)
    for text in (card, (ROOT / "README.md").read_text()):
        for linked in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (PATH.parent / linked).exists() or (ROOT / linked).exists(), linked


def test_it_is_the_default_and_goes_by_its_task():
    lines = []
    model = resshift_jax.load(notify=lines.append)
    assert lines == [f"weights: {PATH.name}, which ships with the package"]
    assert model.config.scale == 4
    np.testing.assert_array_equal(
        model(read(LOW)), resshift_jax.load(task="small", notify=lines.append)(read(LOW))
    )
    with pytest.raises(UnknownModelError, match="--version v3: the model that ships"):
        resshift_jax.load(version="v3")


@pytest.mark.parametrize("options", [[], ["--task", "small", "--scale", "4"]])
def test_the_command_uses_it_without_cache_or_network(tmp_path, monkeypatch, capsys, options):
    monkeypatch.setattr(sample, "keep_programs", lambda folder: None)
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))

    def fail(*args, **kwargs):
        raise AssertionError("a published model is asked for")

    monkeypatch.setattr("resshift_jax.inference.model.load_released", fail)
    out = tmp_path / "out"
    assert sample.main(["-i", str(LOW), "-o", str(out), *options]) == 0
    np.testing.assert_array_equal(read(out / LOW.name), restored())
    assert not (tmp_path / "cache").exists()
    assert capsys.readouterr().err == f"weights: {PATH.name}, which ships with the package\n"


def test_a_damaged_file_is_named(tmp_path, monkeypatch, capsys):
    damaged = shutil.copy(PATH, tmp_path / "small.safetensors")
    with open(damaged, "r+b") as file:
        file.truncate(10_000)
    monkeypatch.setattr("resshift_jax.weights.bundled.PATH", Path(damaged))
    assert sample.main(["-i", str(LOW), "-o", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {damaged}: damaged")


def test_it_restores_a_photograph_that_it_has_not_seen():
    low, high = read(LOW), read(HIGH)
    ours, enlarged = restored(), bicubic(low, high)
    for network in ("alex", "vgg"):
        before, after = Lpips(network)([enlarged, ours], [high, high])
        print(f"LPIPS-{network}: bicubic {before:.3f}, restored {after:.3f}")
        assert after <= before - (0.2 if network == "alex" else 0.02)
    assert psnr_y(ours, high) >= psnr_y(enlarged, high) - 1
    assert np.abs(ours.mean((0, 1)) - high.mean((0, 1))).max() <= 3


def test_there_is_no_grid_of_blocks():
    """Steps at the edges of blocks of 4x4 are no larger than others, beside those of the truth."""
    truth = step_ratios(read(HIGH))
    enlarged = bicubic(read(LOW), read(HIGH))  # whose steps do depend on the place
    of_bicubic, ours = (
        np.abs(step_ratios(image) - truth).max() for image in (enlarged, restored())
    )
    print(f"grid: bicubic {of_bicubic:.3f}, restored {ours:.3f}")
    assert of_bicubic > 0.2
    assert ours <= 0.1


def test_detail_is_neither_missing_nor_made_up():
    share = band_powers(restored()) / band_powers(read(HIGH))
    print("power in bands, restored over original:", share)
    assert (share >= 0.2).all()
    assert (share <= 2).all()
