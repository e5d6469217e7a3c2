"""Programs on several devices and in several processes: the same pictures, each made once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY, save_model
from PIL import Image

import resshift_jax

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TILES = ["--chop_size", "8", "--chop_stride", "6"]
SIZES = [(5, 9), (7, 12), (8, 10), (40, 21), (6, 9), (8, 11), (17, 16), (5, 12)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors", TINY)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, size in enumerate(SIZES):
        image = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def on_one_device(weights, photos):
    """Name -> restored image, by the library in this process."""
    model = resshift_jax.load(weights, devices=jax.local_devices()[:1])
    settings = {"seed": 12345, "chop_size": 8, "chop_stride": 6}
    return {path.name: model(np.asarray(Image.open(path)), **settings) for path in photos.iterdir()}


def start(photos, out, weights, *options, **environment):
    """The command in a process of its own."""
    command = [sys.executable, ROOT / "sample.py", "-i", photos, "-o", out, "--weights", weights]
    return subprocess.Popen(
        [*map(str, command), *TILES, *options],
        env={**os.environ, "RESSHIFT_CACHE": str(weights.parent / "cache"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def assert_same_pictures(folder, expected):
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    for name, image in expected.items():
        difference = np.asarray(Image.open(folder / name)).astype(float) - image
        mean_square = np.mean(difference**2)
        assert mean_square < 255**2 / 10**6, name  # 60 dB
        print(f"{name}: mean square {mean_square:.2g}")


@pytest.mark.parametrize("batch_size", ["1", "2"])
def test_four_devices_make_the_pictures_of_one(
    photos, weights, tmp_path, on_one_device, batch_size
):
    devices = "--xla_force_host_platform_device_count=4"
    run = start(photos, tmp_path, weights, "--bs", batch_size, XLA_FLAGS=devices)
    assert f"{len(SIZES)} of {len(SIZES)} images restored" in finish(run)
    assert_same_pictures(tmp_path, on_one_device)


def test_two_processes_share_a_folder(photos, weights, tmp_path, on_one_device):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = [
        start(
            photos,
            tmp_path,
            weights,
            "--distributed",
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    printed = [finish(run) for run in runs]
    named = [path for text in printed for path in photos.iterdir() if f"{path} -> " in text]
    assert len(named) == len(SIZES)  # each once
    for index, text in enumerate(printed):
        share = text.count(" -> ") // 2  # the name and the size
        assert f"process {index + 1} of 2: {share} of {share} image" in text
    assert_same_pictures(tmp_path, on_one_device)


def test_processes_that_cannot_find_each_other_say_so(photos, weights, tmp_path):
    run = start(photos, tmp_path, weights, "--distributed")
    _, err = run.communicate(timeout=300)
    assert run.returncode == 1
    assert err.startswith("error: --distributed: ")
    assert "JAX_COORDINATOR_ADDRESS" in err
    assert len(err.splitlines()) == 1
