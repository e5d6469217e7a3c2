"""Trains a model: python train.py configs/realsr_x4.yaml --data PHOTOS.

Killed at any moment, the same command goes on where it stood. Settings of the configuration are
changed as in: python train.py configs/realsr_x4.yaml batch_size=16 optimizer.warmup=100
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import jax

from resshift_jax.cli.progress import show
from resshift_jax.data.config import SourceConfig
from resshift_jax.inference.programs import keep_programs
from resshift_jax.platform import start
from resshift_jax.weights.load import cache_dir


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", type=Path, help="a file of configs/, or your own")
    add("settings", nargs="*", help="changes to it, as key=value")
    sources = "photographs: a folder, a .txt that lists files, or tfds:NAME/SPLIT; may be repeated"
    add("--data", action="append", metavar="SOURCE", help=f"{sources} (default: data.sources)")
    add("--init", metavar="FILE", help="weights to start from, or the folder of another run")
    add("--workdir", type=Path, help="folder of the run (default: runs/ and the name of CONFIG)")
    add("--accept-changes", action="store_true", help="go on with a run although CONFIG changed")
    add("--dry-run", action="store_true", help="print what would be trained, and what it needs")
    add("--device", help="cpu, gpu or tpu (default: the best kind there is)")
    add("--distributed", action="store_true", help="one of several processes that train together")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 when done or told to stop, 1 after an error, which is one line."""
    args = parse_args(argv)
    try:
        return run(args)
    except ImportError as e:
        show(f"error: {e}; training needs more packages, pip install '.[train]'", sys.stderr)
    except (OSError, ValueError, ArithmeticError, MemoryError) as e:
        show(f"error: {str(e) or type(e).__name__}", sys.stderr)
    except RuntimeError as e:  # of XLA they have pages
        line = next(iter(str(e).splitlines()), type(e).__name__)
        if "RESOURCE_EXHAUSTED" in line:
            line += "; lower batch_size, or raise micro_batches"
        show(f"error: {line}", sys.stderr)
    except KeyboardInterrupt:
        show("interrupted; the same command goes on from the last checkpoint", sys.stderr)
        return 130
    return 1


def run(args: argparse.Namespace) -> int:
    # Only here, so that a package that is missing is told as any other error.
    from resshift_jax.training.config_file import read_config
    from resshift_jax.training.dry_run import describe
    from resshift_jax.training.run import Run
    from resshift_jax.training.stop import Stop

    config = read_config(args.config, args.settings)
    if args.data:
        sources = tuple(SourceConfig(path) for path in args.data)
        config = replace(config, data=replace(config.data, sources=sources))
    if args.init:
        config = replace(config, init=args.init)
    place = start(args.device, distributed=args.distributed)
    keep_programs(cache_dir() / "programs")
    if args.dry_run:
        show(describe(config, jax.devices()), sys.stdout)
        return 0
    folder = args.workdir or Path("runs") / args.config.stem
    with Stop(place.processes) as stop:
        return Run(config, folder, place, stop, accept_changes=args.accept_changes)()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    if code:
        # What XLA is at would be waited for, and by one of several processes all the others.
        os._exit(code)
