"""What the tests of whole runs share: the smallest model that trains, and train.py in a process."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from resshift_jax.training.checkpoints.checkpoint import read_part

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny.yaml"

# Of configs/tiny.yaml, so small that a step takes milliseconds.
SMALLEST = (
    "model.unet.image_size=8", "model.unet.cond_size=8", "model.unet.channel_mult=[1]",
    "model.unet.base_channels=32", "model.unet.swin_channels=32", "model.unet.swin_depth=1",
    "model.unet.window_size=4", "data.crop.size=32", "data.threads=1", "batch_size=4",
    "loss={weights: {mse: 1.0, lpips_vgg: 0, lpips_alex: 0}}", "degradation={kind: bicubic}",
    "checkpoint.every=8", "logging={every: 8, tensorboard: false}",
    "validation.metrics=[psnr_y, ssim_y, lpips_alex]", "validation.best_by=lpips_alex",
)  # fmt: skip


def save_photos(folder: Path, count: int = 12, side: int = 40) -> Path:
    """Smooth random pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def start_training(
    *arguments: str | Path,
    cache: Path,
    environment: dict[str, str] | None = None,
    file_limit: int | None = None,
) -> subprocess.Popen:
    """train.py with the smallest model, in a process of its own.

    file_limit: greatest size of a file that it may write, in KiB.
    """
    command = [sys.executable, "-u", ROOT / "train.py", TINY, *SMALLEST, *arguments]
    if file_limit is not None:
        command = ["bash", "-c", f'ulimit -f {file_limit}; exec "$@"', "bash", *command]
    return subprocess.Popen(
        list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "RESSHIFT_CACHE": str(cache), **(environment or {})},
    )  # fmt: skip


def train(*arguments: str | Path, cache: Path, **options) -> str:
    """Trains to the end, or until told to stop; what it said."""
    process = start_training(*arguments, cache=cache, **options)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said


def wait_for(process: subprocess.Popen, path: Path) -> None:
    """Returns when the process has made this file or folder."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def assert_same_run(one: Path, other: Path, parts=("params", "ema", "optimizer")) -> None:
    """Bit for bit: the tables, and these parts of the newest states."""
    for name in ("losses.csv", "validation.csv"):
        assert (one / name).exists() == (other / name).exists()
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes()
    for part in parts:
        (step, _, a), (other_step, _, b) = (
            read_part(run / "checkpoints", part) for run in (one, other)
        )
        assert step == other_step
        assert a.keys() == b.keys()
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def start_processes(*arguments: str | Path, cache: Path, count: int = 2) -> list[subprocess.Popen]:
    """train.py in several processes that train together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start_training(
            *arguments, "--distributed", cache=cache,
            environment={
                "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(i),
            },
        )
        for i in range(count)
    ]  # fmt: skip
