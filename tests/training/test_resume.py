"""A run that is killed, stopped and moved between devices, against one that is not."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error
from runs import (
    SMALLEST,
    TINY,
    assert_same_run,
    save_photos,
    start_processes,
    start_training,
    train,
    wait_for,
)

from resshift_jax.cli import train as train_script
from resshift_jax.training.checkpoints.checkpoint import read_part
from resshift_jax.training.config_file import read_config
from resshift_jax.weights import store

STEPS = "train_steps=40"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = save_photos(tmp_path_factory.mktemp("photos"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Of compiled programs, which these runs share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def validated(photos) -> tuple[str, ...]:
    """Settings that measure four pictures every sixteen steps."""
    hq = save_photos(photos.parent / "validation", count=4)
    return f"validation.hq={hq}", "validation.every=16", "validation.images=4"


@pytest.fixture(scope="module")
def whole(photos, cache, validated, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    shown = "logging={every: 8, tensorboard: true, profile: [3, 4]}"
    said = train("--data", photos, "--workdir", folder, STEPS, *validated, shown, cache=cache)
    assert said.count("unreadable, another is taken instead (1 so far)") == 1
    assert f"{photos}/broken.jpg" in said
    return folder


@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_ends_the_same(photos, cache, validated, whole, tmp_path):
    """Bit for bit: losses, metrics, parameters, moving average and moments."""
    arguments = "--data", photos, "--workdir", tmp_path / "run", STEPS, *validated
    folder = tmp_path / "run"
    for signals, seen in (
        (signal.SIGKILL, folder / "losses.csv"),  # before the first checkpoint
        (signal.SIGKILL, folder / "checkpoints" / "8"),
        (signal.SIGINT, folder / "checkpoints" / "16"),
        (signal.SIGKILL, folder / "checkpoints" / "24.saving"),
        (signal.SIGTERM, folder / "checkpoints" / "24"),
    ):
        process = start_training(*arguments, cache=cache)
        wait_for(process, seen)
        process.send_signal(signals)
        told = time.monotonic()
        said = process.communicate()[1]
        if signals == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert time.monotonic() - told < 10
            assert process.returncode == (0 if signals == signal.SIGTERM else 130), said
            assert "stopped" in said
    said = train(*arguments, cache=cache)
    assert "goes on after step" in said
    assert_same_run(folder, whole)
    assert "done, all 40 steps of it" in train(*arguments, cache=cache)


def test_damage_of_the_newest_checkpoint_costs_no_more_than_it(
    photos, cache, validated, whole, tmp_path
):
    folder = shutil.copytree(whole, tmp_path / "run")
    newest = max((folder / "checkpoints" / "40").rglob("d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 16
    newest.write_bytes(content)
    said = train("--data", photos, "--workdir", folder, STEPS, *validated, cache=cache)
    assert "checksum differs; going back to step 32" in said
    assert "goes on after step 32" in said
    assert_same_run(folder, whole)


def test_what_a_run_leaves(whole):
    losses = np.genfromtxt(whole / "losses.csv", delimiter=",", names=True)
    assert losses["step"].tolist() == [*range(1, 41)]
    assert losses["loss"][-8:].mean() < losses["loss"][:8].mean()
    metrics = np.genfromtxt(whole / "validation.csv", delimiter=",", names=True)
    assert metrics["step"].tolist() == [16, 32, 40]
    assert metrics.dtype.names == ("step", "psnr_y", "ssim_y", "lpips_alex")
    best = metrics[metrics["lpips_alex"].argmin()]
    notes = store.load_notes(whole / "best.safetensors")
    assert int(notes["step"]) == best["step"]
    assert float(notes["psnr_y"]) == pytest.approx(best["psnr_y"], rel=1e-5)
    _, params = store.load(whole / "best.safetensors")
    if best["step"] == 40:
        ema = read_part(whole / "checkpoints", "ema")[2]
        assert all((params["unet"][name] == value).all() for name, value in ema.items())
    assert read_config(whole / "config.yaml").train_steps == 40
    assert list(whole.glob("events.*"))
    assert list((whole / "profile").rglob("*.xplane.pb"))


def test_another_configuration_is_refused(photos, whole, monkeypatch, capsys):
    monkeypatch.setattr(train_script, "keep_programs", lambda folder: None)
    arguments = [TINY, *SMALLEST, "--data", photos, "--workdir", whole, STEPS]
    assert train_script.main([*map(str, arguments), "optimizer.b1=0.8"]) == 1
    assert_one_line_error(capsys, str(whole), "optimizer.b1=0.9", "--accept-changes")
    assert train_script.main([*map(str, arguments), "logging.every=2"]) == 0  # all done


def test_a_save_past_the_limit_of_file_sizes_is_one_line(photos, cache, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    process = start_training(
        "--data", photos, "--workdir", folder, "train_steps=48", "--accept-changes",
        cache=cache, file_limit=128,
    )  # fmt: skip
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    news = str(folder), "step ", "unreadable"
    errors = [line for line in said if not line.startswith(news)]
    assert len(errors) == 1, said
    assert "error: " in errors[0]
    assert "the checkpoint of step 48 cannot be written, File too large" in errors[0]
    assert read_part(folder / "checkpoints", "ema")[0] == 40


@pytest.mark.slow
def test_a_run_without_finite_gradients_gives_up(photos, cache, tmp_path):
    process = start_training(
        "--data", photos, "--workdir", tmp_path / "run", "train_steps=200", "optimizer.warmup=0",
        "optimizer.learning_rate=1e30", "checkpoint.every=50", cache=cache,
    )  # fmt: skip
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert "error: step 1" in said[-1]
    assert "no finite gradient in 100 steps" in said[-1]
    losses = np.genfromtxt(tmp_path / "run" / "losses.csv", delimiter=",", names=True)
    assert losses["skipped"][-1] == 100


FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


@pytest.mark.slow
def test_devices_and_processes_change_rounding_only(photos, cache, tmp_path):
    """One device, four, four of which two share a state, and two processes: the same 20 losses."""

    def arguments(name: str) -> tuple:
        return "--data", photos, "--workdir", tmp_path / name, "train_steps=20", "ema=0.9"

    validated = (
        f"validation.hq={photos.parent / 'few'}", "validation.images=3",
        "validation.metrics=[psnr_y, ssim_y]", "validation.best_by=psnr_y",
    )  # fmt: skip
    save_photos(photos.parent / "few", count=3)
    train(*arguments("one"), *validated, cache=cache)
    train(*arguments("four"), cache=cache, environment=FOUR_DEVICES)
    train(*arguments("shared"), "mesh.fsdp=2", cache=cache, environment=FOUR_DEVICES)
    for process in start_processes(*arguments("processes"), *validated, cache=cache):
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    losses = {
        name: np.loadtxt(tmp_path / name / "losses.csv", delimiter=",", skiprows=1)[:, 1]
        for name in ("one", "four", "shared", "processes")
    }
    assert losses["one"].shape == (20,)
    for name, values in losses.items():
        difference = np.abs(values - losses["one"]).max()
        print(f"{name}: {difference:.2g}")
        assert difference <= 1e-5
    metrics = [
        np.genfromtxt(tmp_path / name / "validation.csv", delimiter=",", names=True)
        for name in ("one", "processes")
    ]
    assert metrics[0].dtype.names == ("step", "psnr_y", "ssim_y")
    for name in metrics[0].dtype.names:
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-4)
    # What one device has saved, four go on from, and the reverse.
    more = "train_steps=24", "--accept-changes"
    train(*arguments("one")[:4], "ema=0.9", *more, cache=cache, environment=FOUR_DEVICES)
    train(*arguments("shared")[:4], "ema=0.9", *more, cache=cache)
    ends = [
        np.loadtxt(tmp_path / name / "losses.csv", delimiter=",", skiprows=1)[20:, 1]
        for name in ("one", "shared")
    ]
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(photos, cache, tmp_path):
    folder = tmp_path / "run"
    processes = start_processes(
        "--data",
        photos,
        "--workdir",
        folder,
        "train_steps=100000",
        "checkpoint.every=50",
        cache=cache,
    )
    wait_for(processes[0], folder / "checkpoints" / "50")
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    step = int(said[0].split("stopped after step ")[1].split(";")[0])
    assert read_part(folder / "checkpoints", "ema")[0] == step
    assert (folder / "losses.csv").read_text().splitlines()[-1].startswith(f"{step},")


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(photos, cache, tmp_path):
    """Rather than leave them waiting for it."""
    processes = start_processes(
        "--data", photos, "--workdir", tmp_path / "run", "train_steps=100000", cache=cache
    )
    wait_for(processes[0], tmp_path / "run" / "checkpoints" / "8")
    processes[1].kill()
    for process in processes:
        process.communicate(timeout=200)
        assert process.returncode != 0
