"""Writes a trained model as one file: resshift export runs/realsr_x4 realsr_x4.safetensors.

`resshift restore --weights` takes the file: it holds the network, the first stage and all settings.
Of several runs and files that go back to the same weights it is the mean of their weights, which is
often better than any of them: resshift export runs/a runs/b before.safetensors mean.safetensors
"""

import argparse
import sys
from pathlib import Path

from resshift_jax.chain import SAMPLERS
from resshift_jax.cli.errors import describe_error, log_to_stderr
from resshift_jax.console import show
from resshift_jax.weights import store

FLAGS = {"sampler": "--sampler", "sampling_steps": "--steps"}
"""Parameter of the library -> the flag that sets it."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="resshift export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("source", type=Path, nargs="+", help="the folder of a run, or a .safetensors")
    add("path", type=Path, help="the .safetensors to write")
    add("--step", type=int, help="of the checkpoint of each run (default: the newest)")
    add("--dtype", choices=store.STORAGE_DTYPES, default="float32", help="of the stored values")
    add("--sampler", choices=SAMPLERS, help="by which the file is sampled (default: as trained)")
    add("--steps", type=int, help="sampling steps of the file (default: as trained)")
    return found


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 1 after an error, which is one line."""
    args = parser().parse_args(argv)
    with log_to_stderr(FLAGS):
        try:
            from resshift_jax.training.export import export

            words = export(
                args.source, args.path, args.step, store.STORAGE_DTYPES[args.dtype],
                sampler=args.sampler, sampling_steps=args.steps,
            )  # fmt: skip
        except ImportError as e:
            error = f"{e}; it needs more packages, pip install 'resshift-jax[train]'"
        except (OSError, ValueError) as e:
            error = describe_error(e, FLAGS)
        else:
            show(f"{args.path}: {words}", sys.stdout)
            return 0
    show(f"error: {error}", sys.stderr)
    return 1
