"""The model that ships with the package: by which names it goes, and what it makes of a photograph.

tests/fixtures/citrus_256x256.png is a photograph that it was not trained on (US Department of
Agriculture, public domain), and citrus_64x64.png its low-quality version by the degradation of
ImageNet-Test.
"""

import csv
import logging
import re
import shutil
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES
from picture_figures import band_powers, bicubic, step_ratios
from PIL import Image

import resshift_jax
from resshift_jax.cli import restore
from resshift_jax.evaluation.metrics import Lpips, psnr_y
from resshift_jax.training.config_file import read_config
from resshift_jax.weights import store
from resshift_jax.weights.bundled import PATH, bundled_config
from resshift_jax.weights.zoo import UnknownModelError

ROOT = Path(__file__).parents[1]
LQ, HQ = FIXTURES / "citrus_64x64.png", FIXTURES / "citrus_256x256.png"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@cache
def restored() -> np.ndarray:
    return resshift_jax.load()(read(LQ))


def test_the_file():
    assert PATH.stat().st_size <= 16 * 2**20
    config, params = store.load(PATH)
    assert config == read_config(ROOT / "configs" / "small_x4.yaml").model == bundled_config()
    assert all(np.isfinite(np.asarray(v, np.float32)).all() for v in params["unet"].values())
    # In a package that is not editable, too.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["resshift_jax"]
    assert any(PATH.relative_to(ROOT / "resshift_jax").match(pattern) for pattern in patterns)


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


def test_it_is_the_default_and_goes_by_its_task(caplog, capsys):
    with caplog.at_level(logging.INFO, "resshift_jax"):
        model = resshift_jax.load(task="small")
    assert caplog.messages == [f"weights: {PATH.name}, which ships with the package"]
    assert capsys.readouterr() == ("", "")
    assert model.config.scale == 4
    np.testing.assert_array_equal(model(read(LQ)), restored())
    with pytest.raises(UnknownModelError, match="version=v3: the model that ships"):
        resshift_jax.load(version="v3")


@pytest.mark.parametrize("options", [[], ["--task", "small", "--scale", "4"]])
def test_the_command_uses_it_without_cache_or_network(tmp_path, monkeypatch, capsys, options):
    monkeypatch.setattr(restore, "keep_programs", lambda folder: None)
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))

    def fail(*args, **kwargs):
        raise AssertionError("a published model is asked for")

    monkeypatch.setattr("resshift_jax.inference.model.load_released", fail)
    out = tmp_path / "out"
    assert restore.main(["-i", str(LQ), "-o", str(out), *options]) == 0
    np.testing.assert_array_equal(read(out / LQ.name), restored())
    assert not (tmp_path / "cache").exists()
    assert capsys.readouterr().err == f"weights: {PATH.name}, which ships with the package\n"


def test_a_damaged_file_is_named(tmp_path, monkeypatch, capsys):
    damaged = shutil.copy(PATH, tmp_path / "small.safetensors")
    with open(damaged, "r+b") as file:
        file.truncate(10_000)
    monkeypatch.setattr("resshift_jax.weights.bundled.PATH", Path(damaged))
    assert restore.main(["-i", str(LQ), "-o", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {damaged}: damaged")


def test_it_restores_a_photograph_that_it_has_not_seen():
    lq, hq = read(LQ), read(HQ)
    ours, enlarged = restored(), bicubic(lq, hq)
    for network in ("alex", "vgg"):
        before, after = Lpips(network)([enlarged, ours], [hq, hq])
        print(f"LPIPS-{network}: bicubic {before:.3f}, restored {after:.3f}")
        assert after <= before - (0.2 if network == "alex" else 0.02)
    assert psnr_y(ours, hq) >= psnr_y(enlarged, hq) - 1
    assert np.abs(ours.mean((0, 1)) - hq.mean((0, 1))).max() <= 3


def test_there_is_no_grid_of_blocks():
    """Steps at the edges of blocks of 4x4 are no larger than others, beside those of the truth."""
    truth = step_ratios(read(HQ))
    enlarged = bicubic(read(LQ), read(HQ))  # whose steps do depend on the place
    of_bicubic, ours = (
        np.abs(step_ratios(image) - truth).max() for image in (enlarged, restored())
    )
    print(f"grid: bicubic {of_bicubic:.3f}, restored {ours:.3f}")
    assert of_bicubic > 0.2
    assert ours <= 0.1


def test_detail_is_neither_missing_nor_made_up():
    share = band_powers(restored()) / band_powers(read(HQ))
    print("power in bands, restored over original:", share)
    assert (share >= 0.2).all()
    assert (share <= 2).all()
