"""Times training: python -m benchmarks.training [CONFIG] [key=value ...] [--data PHOTOS].

Without photographs, of what a step does with a batch in memory: the degradation, the step itself,
and the latter's parts. With them, also what reading a batch takes. Each is timed in turn with a
2048^3 matrix product of the same dtype, best of the rounds, so that shares compare across machines.
By default the published recipe with one image a device in float32.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

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
from resshift_jax.data.config import SourceConfig
from resshift_jax.data.loader import Loader
from resshift_jax.flops import peak_flops
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.config_file import find_config, read_config
from resshift_jax.training.mesh import make_mesh, require_divisible, to_global
from resshift_jax.training.state import TrainingState, sharded_init
from resshift_jax.training.step import latent_model, make_prepare, make_step, step_function
from resshift_jax.training.weights import abstract_frozen

PUBLISHED = "realsr_x4"


@dataclass
class Row:
    """A line of the table. share: of the rate of the matrix product, all devices together."""

    part: str
    seconds: float
    images_per_second: float
    gflop: float | None = None
    share: float | None = None
    compile_seconds: float | None = None


class Step:
    """The training step on its own last state, which it consumes."""

    def __init__(self, program: Callable, state: TrainingState, frozen: Any, pairs: Any):
        self.program, self.state, self.frozen, self.pairs = program, state, frozen, pairs

    def __call__(self) -> Any:
        self.state, metrics = self.program(self.state, self.frozen, self.pairs)
        return metrics


def random_frozen(config: TrainingConfig) -> Any:
    """Small random numbers for the parameters that are not trained: their values cost nothing."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.02, leaf.shape).astype(np.float32), abstract_frozen(config)
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default=PUBLISHED)
    parser.add_argument("settings", nargs="*", help="changes to it, as key=value")
    parser.add_argument("--data", action="append", help="photographs, as for `resshift train`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_intermixed_args(argv)
    devices = jax.devices()
    one_each = [f"batch_size={len(devices)}", "dtype=float32"]
    defaults = one_each if args.config == PUBLISHED else []
    config = read_config(find_config(args.config), [*defaults, *args.settings])
    if args.data:
        sources = tuple(SourceConfig(path) for path in args.data)
        config = replace(config, data=replace(config.data, sources=sources))

    mesh = make_mesh(devices, config.mesh.fsdp)
    require_divisible(config.batch_size, config.micro_batches, mesh.size)
    model = latent_model(config, mesh)
    dtype = model.compute.dtype
    state = sharded_init(config, mesh)
    frozen = jax.device_put(random_frozen(config), NamedSharding(mesh, P()))
    side = config.data.crop.size
    shape = config.batch_size, side, side, 3
    batch = {"hq": np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)}
    lq = config.model.unet.cond_size
    if config.degradation.kind == "pairs":
        batch["lq"] = batch["hq"][:, :lq, :lq]
    images = to_global(mesh, batch)

    prepare, step = make_prepare(config, mesh), make_step(config, model, mesh)
    prepare_compile, prepare = timed(lambda: prepare.lower(np.int32(0), images).compile())
    pairs = prepare(np.int32(0), images)
    count = gflop(step_function(config, published(model), mesh), state, frozen, pairs)
    step_compile, step = timed(lambda: step.lower(state, frozen, pairs).compile())
    memory = step.memory_analysis()
    parts: dict[str, tuple[Callable, tuple]] = {
        "training step": (Step(step, state, frozen, pairs), ()),
        "degradation": (prepare, (np.int32(0), images)),
    }
    matmul = matmul_program(dtype)
    for function, inputs in [*parts.values(), (matmul, ())]:
        timed(function, *inputs)
    best, best_matmul = interleaved(parts, matmul, args.rounds)
    rate = mesh.size * 2 * MATMUL_SIDE**3 / best_matmul / 1e9
    images_per_second = {name: config.batch_size / seconds for name, seconds in best.items()}
    seconds = best["training step"]
    rows = [
        Row("training step", seconds, images_per_second["training step"], count,
            count / seconds / rate, step_compile),
        Row("degradation", best["degradation"], images_per_second["degradation"],
            compile_seconds=prepare_compile),
    ]  # fmt: skip
    if config.data.sources and args.data:
        rows.append(reading(config))
    peak = mesh.size * peak_flops(devices[0], dtype) / 1e9
    summary = {
        **describe_machine(),
        "config": Path(args.config).stem,
        "settings": args.settings,
        "batch_size": config.batch_size,
        "dtype": jnp.dtype(dtype).name,
        "matmul_gflops": rate,
        "mfu": count / seconds / peak,
        "step_temporary_gib": memory.temp_size_in_bytes / 2**30 if memory else None,
        "peak_gib": peak_gib(devices[0]),
        "rows": [asdict(row) for row in rows],
    }
    show(summary, rows)
    if args.json:
        write_json(args.json, summary)


def reading(config: TrainingConfig) -> Row:
    """Batches of photographs, read as in training."""
    loader = Loader(config.data, config.model.scale, seed=0, batch_size=config.batch_size)
    batches = loader.batches(0)
    next(batches)
    count = max(2 * config.data.prefetch, 256 // config.batch_size)
    seconds, _ = timed(lambda: [next(batches) for _ in range(count)])
    batches.close()
    return Row("reading", seconds / count, count * config.batch_size / seconds)


def show(summary: dict[str, Any], rows: list[Row]) -> None:
    print(
        f"{summary['config']}, batch of {summary['batch_size']} in {summary['dtype']} on "
        f"{summary['devices']} {summary['device']}; matrix product "
        f"{summary['matmul_gflops']:.0f} GFLOP/s, MFU {summary['mfu']:.2f}, "
        f"{summary['step_temporary_gib']:.2f} GiB for a step, peak {summary['peak_gib']:.2f} GiB"
    )
    print(f"{'part':16} {'seconds':>9} {'images/s':>9} {'GFLOP':>8} {'share':>6} {'compile s':>9}")
    for row in rows:
        cells = [f"{row.part:16} {row.seconds:9.3f} {row.images_per_second:9.2f}"]
        cells.append(f"{row.gflop:8.0f} {row.share:6.2f}" if row.gflop else " " * 15)
        cells.append(f"{row.compile_seconds:9.1f}" if row.compile_seconds else "")
        print(" ".join(cells))


if __name__ == "__main__":
    main()
