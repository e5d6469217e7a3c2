"""Trains a model: resshift train realsr_x4 --data PHOTOS.

Killed at any moment, the same command goes on where it stood. Settings of the configuration are
changed as in: resshift train realsr_x4 batch_size=16 optimizer.warmup=100
"""

import argparse
import logging
import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax

from resshift_jax.cli.errors import describe_error, log_to_stderr
from resshift_jax.console import show
from resshift_jax.inference.programs import keep_programs
from resshift_jax.platform import start
from resshift_jax.weights.load import cache_dir

FLAGS = {
    "workdir": "--workdir",
    "accept_changes": "--accept-changes",
    "device": "--device",
    "distributed": "--distributed",
}
"""Parameter of the library -> the flag that sets it."""

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="resshift train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("config", help="the name of a configuration of the package, or a .yaml file")
    add("settings", nargs="*", help="changes to it, as key=value")
    sources = "photographs: a folder, a .txt that lists files, or tfds:NAME/SPLIT; may be repeated"
    add("--data", action="append", metavar="SOURCE", help=f"{sources} (default: data.sources)")
    add("--init", metavar="FILE", help="weights to start from, or the folder of another run")
    add("--workdir", type=Path, help="folder of the run (default: runs/ and the name of CONFIG)")
    add("--accept-changes", action="store_true", help="go on with a run although CONFIG changed")
    add("--dry-run", action="store_true", help="print what would be trained, and what it needs")
    add("--device", help="cpu, gpu or tpu (default: the best kind there is)")
    add("--distributed", action="store_true", help="one of several processes that train together")
    return found


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 when done or asked to stop, 1 after an error, which is one line."""
    args = parser().parse_intermixed_args(argv)
    with log_to_stderr(FLAGS):
        try:
            return run(args)
        except ImportError as e:
            error = f"{e}; training needs more packages, pip install 'resshift-jax[train]'"
        except (OSError, ValueError, ArithmeticError, MemoryError) as e:
            error = describe_error(e, FLAGS)
        except RuntimeError as e:  # of XLA they have pages
            error = describe_error(e, FLAGS).splitlines()[0]
            if "RESOURCE_EXHAUSTED" in error:
                error += "; lower batch_size, or raise micro_batches"
        except KeyboardInterrupt:
            show("interrupted; the same command goes on from the last checkpoint", sys.stderr)
            return 130
        show(f"error: {error}", sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    # Only here, so that a package that is missing is reported as any other error.
    from resshift_jax.data.config import SourceConfig
    from resshift_jax.training.config_file import find_config, read_config
    from resshift_jax.training.dry_run import describe
    from resshift_jax.training.run import open_log, open_run, train
    from resshift_jax.training.stop import Stop

    path = find_config(args.config)
    config = read_config(path, args.settings)
    if args.data:
        sources = tuple(SourceConfig(source) for source in args.data)
        config = replace(config, data=replace(config.data, sources=sources))
    if args.init:
        config = replace(config, init=args.init)
    topology = start(args.device, distributed=args.distributed)
    keep_programs(cache_dir() / "programs")
    if args.dry_run:
        show(describe(config, jax.devices()), sys.stdout)
        return 0
    folder = args.workdir or Path("runs") / path.stem
    with Stop(topology.processes) as stop:
        run = open_run(config, folder, topology, accept_changes=args.accept_changes)
        with closing(run.checkpoints):
            if run.is_done():
                logger.info("%s: done, all %d steps of it", folder, config.train_steps)
                return 0
            with open_log(run) as log:
                return train(run, log, stop)


def end(code: int) -> None:
    """Ends the process with this exit code."""
    sys.stdout.flush()
    if code:
        # What XLA is at would be waited for, and by one of several processes all the others.
        os._exit(code)
    sys.exit(code)
