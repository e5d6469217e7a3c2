"""train.py given what it cannot use: one line that says what is wrong, and a non-zero exit code."""

import numpy as np
import pytest
from conftest import assert_one_line_error
from PIL import Image
from runs import SMALLEST, TINY, save_photos

from resshift_jax.cli import train


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Calls train.py in this process, which must fail before anything is compiled."""
    monkeypatch.setattr(train, "keep_programs", lambda folder: None)
    return lambda *more: train.main(
        [str(TINY), "--workdir", str(tmp_path / "run"), *SMALLEST, *map(str, more)]
    )


def test_no_image(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("--data", tmp_path / "empty") == 1
    assert_one_line_error(capsys, str(tmp_path / "empty"), "without images")
    (tmp_path / "empty" / "notes.md").write_text("no image")
    assert run("--data", tmp_path / "empty") == 1
    assert_one_line_error(capsys, str(tmp_path / "empty"), "without images")
    assert run("--data", tmp_path / "absent") == 1
    assert_one_line_error(capsys, str(tmp_path / "absent"))


def test_tensorflow_datasets(run, tmp_path, capsys):
    source = f"data.sources=[{{path: 'tfds:%s', data_dir: '{tmp_path}'}}]"
    assert run(source % "imagnet2012") == 1
    assert_one_line_error(capsys, "imagnet2012", "imagenet2012")
    assert run(source % "div2k/train") == 1
    assert_one_line_error(capsys, "div2k", str(tmp_path), "download_and_prepare")


def test_pairs_of_the_wrong_size(run, tmp_path, capsys):
    hq, lq = save_photos(tmp_path / "hq"), save_photos(tmp_path / "lq", side=10)
    Image.fromarray(np.zeros((11, 10, 3), np.uint8)).save(lq / "07.png")
    settings = f"data.sources=[{{path: '{hq}', lq: '{lq}'}}]", "degradation={kind: pairs}"
    assert run(*settings) == 1
    assert_one_line_error(capsys, str(hq / "07.png"), str(lq / "07.png"), "40x40", "10x11")


def test_a_batch_that_cannot_be_divided(run, tmp_path, capsys):
    save_photos(tmp_path / "photos", count=1)
    assert run("--data", tmp_path / "photos", "micro_batches=3") == 1
    assert_one_line_error(capsys, "batch_size: 4 given", "give 3")


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("optimizer.warmpu=5", ("optimizer.warmpu", "did you mean warmup?", "tiny.yaml")),
        ("batch_size=many", ("batch_size", "'many'", "a whole number")),
        ("optimizer=5", ("optimizer", "a group of settings")),
        ("model.chain.num_timesteps=1", ("chain.num_timesteps: 1 given",)),
        ("data.crop.size=33", ("data.crop.size: 33 given, 32 needed",)),
        (
            "loss={weights: {lpips_vgg: 1}, lpips_window: 8}",
            ("loss.lpips_window: 8 given, 16 to 32 needed",),
        ),
        ("loss.lpips_window=16", ("loss.lpips_window: 16 given, but no LPIPS has a weight",)),
        ("degradation.scale=2", ("degradation.scale: 2 given", "4")),
        ("degradation={kind: masks}", ("degradation.kind: masks", "cond_mask")),
        ("validation.metrics=[squeeze]", ("validation.metrics.0", "'squeeze'", "lpips_alex")),
        ("seed", ("seed", "key=value")),
        ("init=absent.safetensors", ("absent.safetensors", "no such file")),
        ("first_stage_weights=[", ("first_stage_weights=[",)),
    ],
)
def test_settings(run, tmp_path, capsys, setting, parts):
    save_photos(tmp_path / "photos", count=1)
    assert run("--data", tmp_path / "photos", setting) == 1
    assert_one_line_error(capsys, *parts)


def test_a_configuration_that_cannot_be_read(tmp_path, capsys):
    assert train.main([str(tmp_path / "absent.yaml")]) == 1
    assert_one_line_error(capsys, "absent.yaml: no such file")
    loop = tmp_path / "loop.yaml"
    loop.write_text("base: loop.yaml")
    assert train.main([str(loop)]) == 1
    assert_one_line_error(capsys, "loop.yaml: its own base")
    loop.write_text("model: {task: [")
    assert train.main([str(loop)]) == 1
    assert_one_line_error(capsys, "loop.yaml: cannot be read")


def test_a_first_stage_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "keep_programs", lambda folder: None)
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))
    photos = save_photos(tmp_path / "photos", count=1)
    arguments = TINY.with_name("realsr_x4.yaml"), "--data", photos, "--workdir", tmp_path / "run"
    assert train.main([*map(str, arguments), "model.first_stage.name=my_own"]) == 1
    assert_one_line_error(capsys, "my_own.pth", str(tmp_path / "cache"), "first_stage_weights=FILE")
