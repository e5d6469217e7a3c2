"""A trained model out as one weight file, which sample.py takes: network, first stage, settings.

python -m resshift_jax.training.export runs/realsr_x4 realsr_x4.safetensors
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resshift_jax.config import ModelConfig, VQConfig
from resshift_jax.training.weights import FIRST_STAGE, read_ema
from resshift_jax.weights import store
from resshift_jax.weights.mapping import flatten


def write_model(
    path: Path,
    model: ModelConfig,
    params: Mapping[str, Any],
    dtype: Any = np.float32,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes {"unet": tree, "first_stage": tree} with the model's configuration, whole or not.

    Raises:
        OSError: the file cannot be written.
    """
    flat = {
        part: {name: np.asarray(value) for name, value in flatten(tree).items()}
        for part, tree in params.items()
    }
    store.save(path, model, flat, dtype, notes)


def export(run: Path, path: Path, step: int | None = None, dtype: Any = np.float32) -> int:
    """Writes the EMA of a run's newest sound checkpoint, or of that after `step`; its step.

    Raises:
        FileNotFoundError: no run there, or no such checkpoint.
        OSError: no checkpoint is sound, or the file cannot be written.
    """
    found, model, ema = read_ema(run, step)
    params: dict[str, Any] = {"unet": ema, "first_stage": {}}
    if isinstance(model.first_stage, VQConfig):
        if not (run / FIRST_STAGE).is_file():
            raise FileNotFoundError(f"{run / FIRST_STAGE}: not there, the first stage of that run")
        params["first_stage"] = store.read_tensors(run / FIRST_STAGE)
    write_model(path, model, params, dtype, notes={"step": str(found)})
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("path", type=Path, help="the .safetensors to write")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--dtype", choices=store.STORAGE_DTYPES, default="float32")
    args = parser.parse_args(argv)
    try:
        step = export(args.run, args.path, args.step, store.STORAGE_DTYPES[args.dtype])
    except (OSError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(f"{args.path}: the EMA of {args.run} after {step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
