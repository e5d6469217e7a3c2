"""Times restoration with the full-size network: python benchmarks/sampling.py [--json FILE].

Every part is timed in turn with a 2048^3 matrix product of the same dtype, best of the rounds, so
that a share of that rate can be given: machines differ and are busy, shares hardly move.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import resshift_jax
from benchmarks.timing import (
    MATMUL_SIDE,
    describe_machine,
    gflop,
    interleaved,
    matmul_program,
    peak_gib,
    published,
    timed,
    write_json,
)
from resshift_jax.cli import convert
from resshift_jax.config import ModelConfig
from resshift_jax.image_io.folders import File
from resshift_jax.image_io.photo import Photo, write_photo
from resshift_jax.inference.files import Outcome, restore_files
from resshift_jax.latent_model import Cond, LatentModel
from resshift_jax.platform import COMPUTE_DTYPES, compiler_options, default_dtype
from resshift_jax.restore import restore
from resshift_jax.weights import stand_in

FEW_STEPS = 4  # of what takes many images or tiles


@dataclass
class Row:
    """A line of the table; what is not measured of a part is None.

    share: of the rate of the matrix product. programs: how many were compiled in that time.
    """

    part: str
    seconds: float
    gflop: float | None = None
    share: float | None = None
    programs: int | None = None


def prepare(folder: Path, rows: list[Row], dtype: np.dtype) -> resshift_jax.Model:
    """Weights on disk, converted and loaded, with the time that each took."""
    stand_in.write(folder, "resshift_realsrx4_s15_v2", ModelConfig())
    source, target = folder / "resshift_realsrx4_s15_v2.pth", folder / "realsr.safetensors"
    stage = folder / "autoencoder_vq_f4.pth"
    seconds, _ = timed(convert.main, [str(source), str(target), "--first-stage", str(stage)])
    rows.append(Row("convert .pth to .safetensors", seconds))
    seconds, model = timed(partial(resshift_jax.load, target, dtype=dtype))
    rows.append(Row("load .safetensors", seconds))
    return model


def functions_of(model: LatentModel, steps: int) -> dict[str, Callable]:
    """Name of a part -> a function of the parameters, the LQ image, an image, a latent and keys."""
    t = jnp.zeros((1,), jnp.int32)
    return {
        "U-Net step": lambda p, lq, image, z, keys: model.predict(p, z, t, Cond(lq, None)),
        "encode": lambda p, lq, image, z, keys: model.encode(p, image),
        "decode": lambda p, lq, image, z, keys: model.decode(p, z),
        f"restore, {steps} steps": lambda p, lq, image, z, keys: restore(
            model, p, lq, keys, sampling_steps=steps
        ),
    }


def tiled_image(model: resshift_jax.Model, side: int, steps: int) -> Callable[[], np.ndarray]:
    """Restores an image of 3 by 2 tiles."""
    image = np.random.default_rng(0).integers(0, 256, (side * 3 // 2, 2 * side, 3), dtype=np.uint8)
    return lambda: model(image, chop_size=side, sampling_steps=steps)


def folder_of_sizes(model: resshift_jax.Model, side: int, steps: int, rows: list[Row]) -> None:
    """Restores files of 20 sizes, none of them twice, with what is compiled for them and again."""
    options = resshift_jax.RestoreOptions(sampling_steps=steps)
    programs = model.programs(options)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i in range(20):
            size = (side // 4 + i * side // 30, side * 5 // 4 - i * side // 30)
            photo = Photo(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            write_photo(Path(folder, f"{i}.png"), photo, "png")
            files.append(File(Path(folder, f"{i}.png"), Path(folder, "out", f"{i}.png")))
        for run in ("first", "again"):
            count = programs.count
            outcomes: list[Outcome] = []
            work = partial(restore_files, model, files, options, report=outcomes.append)
            seconds, _ = timed(work)
            assert not any(outcome.error for outcome in outcomes)
            part = f"folder of 20 sizes, {steps} steps, {run}"
            rows.append(Row(part, seconds, programs=programs.count - count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--dtype", choices=COMPUTE_DTYPES, default=str(default_dtype()))
    parser.add_argument("--size", type=int, default=64, help="side of the LQ image, times 64")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    rows: list[Row] = []
    dtype = COMPUTE_DTYPES[args.dtype]
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(Path(folder), rows, dtype)
    latent_model, steps, side = model.latent_model, model.config.chain.num_timesteps, args.size
    lq = jax.random.uniform(jax.random.key(0), (1, side, side, 3), minval=-1, maxval=1)
    image = jax.image.resize(lq, (1, 4 * side, 4 * side, 3), "nearest")
    latent = jax.random.normal(jax.random.key(1), (1, side, side, 3))
    inputs = model.params, lq, image, latent, jax.random.split(jax.random.key(2), 1)

    parts: dict[str, tuple[Callable, tuple]] = {}
    work = {}
    with latent_model.precision():
        as_published = functions_of(published(latent_model), steps)
        for name, function in functions_of(latent_model, steps).items():
            jitted = jax.jit(function, compiler_options=compiler_options())
            work[name] = gflop(as_published[name], *inputs)
            seconds, compiled = timed(lambda f=jitted: f.lower(*inputs).compile())
            rows.append(Row(f"compile {name}", seconds))
            timed(compiled, *inputs)
            parts[name] = compiled, inputs
        # Tiles cost what an image of their size does: the rest is cutting and blending.
        name = f"6 tiles, {FEW_STEPS} steps"
        tile = functions_of(published(latent_model), FEW_STEPS)[f"restore, {FEW_STEPS} steps"]
        work[name] = 6 * gflop(tile, *inputs)
        tiled = tiled_image(model, side, FEW_STEPS)
        tiled()
        parts[name] = tiled, ()
        matmul = matmul_program(dtype)
        timed(matmul)
    best, best_matmul = interleaved(parts, matmul, args.rounds)
    rate = 2 * MATMUL_SIDE**3 / best_matmul / 1e9
    rows += [Row(k, s, work[k], work[k] / s / rate) for k, s in best.items()]
    folder_of_sizes(model, side, FEW_STEPS, rows)

    summary = {
        **describe_machine(),
        "dtype": args.dtype,
        "lq_side": side,
        "matmul_gflops": rate,
        "peak_gib": peak_gib(jax.devices()[0]),
        "rows": [asdict(row) for row in rows],
    }
    print_table(summary, rows)
    if args.json:
        write_json(args.json, summary)


def print_table(summary: dict, rows: list[Row]) -> None:
    for key, value in summary.items():
        if key != "rows":
            print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")
    print(f"\n{'part':36} {'seconds':>9} {'GFLOP':>8} {'GFLOP/s':>8} {'share':>6}")
    for row in rows:
        line = f"{row.part:36} {row.seconds:9.3f}"
        if row.gflop is not None and row.share is not None:
            line += f" {row.gflop:8.1f} {row.gflop / row.seconds:8.1f} {row.share:6.2f}"
        if row.programs is not None:
            line += f"  {row.programs} programs compiled"
        print(line)


if __name__ == "__main__":
    main()
