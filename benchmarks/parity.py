"""How far this device is from a CPU: python -m benchmarks.parity [--json FILE].

The full-size network with the same weights and inputs, on the CPU in float32 and on JAX's default
device in float32, at the highest precision, and in bfloat16. Errors are relative, |a - b| / |b| in
the Euclidean norm; of images also the mean and the greatest difference, in grey levels of 255.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

import resshift_jax
from benchmarks.timing import describe_machine, write_json
from resshift_jax.cli import convert
from resshift_jax.config import ModelConfig
from resshift_jax.latent_model import Cond, LatentModel, Params
from resshift_jax.platform import COMPUTE_DTYPES, Compute, compiler_options, matmul_precision
from resshift_jax.restore import restore
from resshift_jax.weights import stand_in


@dataclass
class Row:
    """A line of the table; mean and greatest difference are of images alone."""

    part: str
    dtype: str
    error: float
    mean_grey: float | None = None
    max_grey: float | None = None


def load(folder: Path) -> resshift_jax.Model:
    stand_in.write(folder, "resshift_realsrx4_s15_v2", ModelConfig())
    target = folder / "realsr.safetensors"
    convert.main([
        str(folder / "resshift_realsrx4_s15_v2.pth"), str(target),
        "--first-stage", str(folder / "autoencoder_vq_f4.pth"),
    ])  # fmt: skip
    return resshift_jax.load(target, dtype=np.float32)


def parts(config: ModelConfig, dtype: np.dtype) -> dict[str, Callable]:
    """Name -> a function of the parameters, the LQ image and a latent."""
    model = LatentModel(config, Compute(dtype))
    step, keys = jnp.full((1,), 7, jnp.int32), jax.random.split(jax.random.key(2), 1)

    def unquantized(params: Params, lq: Array, latent: Array) -> Any:
        weights = {"params": params["first_stage"]}
        return model.first_stage.apply(weights, latent, quantize=False, method="decode")

    return {
        "U-Net step": lambda p, lq, x: model.predict(p, x, step, Cond(lq, None)),
        "encode": lambda p, lq, x: model.encode(p, jnp.repeat(jnp.repeat(lq, 4, 1), 4, 2)),
        "decode": lambda p, lq, x: model.decode(p, x),
        "decode, unquantized": unquantized,
        f"restore, {config.chain.num_timesteps} steps": lambda p, lq, x: restore(
            model, p, lq, keys
        ),
    }


def run(function: Callable, dtype: DTypeLike, device: jax.Device, inputs: tuple) -> np.ndarray:
    with jax.default_device(device), jax.default_matmul_precision(matmul_precision(dtype)):
        compiled = jax.jit(function, compiler_options=compiler_options(device.platform))
        return np.asarray(compiled(*jax.device_put(inputs, device)), np.float64)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--size", type=int, default=64, help="side of the LQ image, times 64")
    args = parser.parse_args(argv)

    with TemporaryDirectory() as folder:
        model = load(Path(folder))
    rng = np.random.default_rng(0)
    lq = rng.uniform(-1, 1, (1, args.size, args.size, 3)).astype(np.float32)
    latent = rng.standard_normal(lq.shape, dtype=np.float32)
    inputs = (jax.device_get(model.params), lq, latent)
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]

    rows = []
    float32 = COMPUTE_DTYPES["float32"]
    expected = {k: run(f, float32, cpu, inputs) for k, f in parts(model.config, float32).items()}
    for name, dtype in COMPUTE_DTYPES.items():
        for part, function in parts(model.config, dtype).items():
            got, wanted = run(function, dtype, device, inputs), expected[part]
            row = Row(part, name, float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)))
            if got.shape[1] > args.size:
                grey = np.abs(np.clip(got, -1, 1) - np.clip(wanted, -1, 1)) * 127.5
                row.mean_grey, row.max_grey = float(grey.mean()), float(grey.max())
            rows.append(row)
    summary = {**describe_machine(), "lq_side": args.size, "rows": [asdict(row) for row in rows]}
    print(f"{summary['device']}, JAX {summary['jax']}, LQ image of {args.size}x{args.size}")
    print(f"{'part':20} {'dtype':9} {'error':>9} {'mean grey':>9} {'max grey':>9}")
    for row in rows:
        grey = "" if row.mean_grey is None else f"{row.mean_grey:9.4f} {row.max_grey:9.3f}"
        print(f"{row.part:20} {row.dtype:9} {row.error:9.1e} {grey}")
    if args.json:
        write_json(args.json, summary)


if __name__ == "__main__":
    main()
