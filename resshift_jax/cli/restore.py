"""Restores photographs: resshift restore -i PHOTO_OR_FOLDER -o FOLDER.

The model that ships with the package enlarges them four times. --task names a published one, whose
weights are taken from the cache folder, or fetched into it once, and --weights any file:

  resshift restore -i photos -o results --task realsr --version v3
  resshift restore -i photos -o results --weights runs/my.safetensors
  resshift restore -i photos -o results --task inpaint_face --mask_path masks

Files that fail are reported and skipped; the exit code is non-zero if any failed.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, get_args

import jax

import resshift_jax
from resshift_jax.chain import SAMPLERS, make_chain
from resshift_jax.cli.errors import describe_error, log_to_stderr
from resshift_jax.cli.progress import Report
from resshift_jax.config import ModelConfig
from resshift_jax.console import show
from resshift_jax.image_io.folders import File, find_files, share_of
from resshift_jax.image_io.photo import FORMATS
from resshift_jax.inference.files import restore_files
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Progress, keep_programs
from resshift_jax.inference.tiles import Blend
from resshift_jax.platform import COMPUTE_DTYPES, Topology, start
from resshift_jax.weights.bundled import bundled_config
from resshift_jax.weights.load import cache_dir
from resshift_jax.weights.zoo import ALIASES, BUNDLED, TASKS, find_releases

FLAGS = {
    "in_path": "--in_path",
    "out_path": "--out_path",
    "mask_path": "--mask_path",
    "format": "--format",
    "suffix": "--suffix",
    "task": "--task",
    "version": "--version",
    "weights": "--weights",
    "first_stage": "--first-stage",
    "scale": "--scale",
    "seed": "--seed",
    "sampling_steps": "--steps",
    "sampler": "--sampler",
    "chop_size": "--chop_size",
    "chop_stride": "--chop_stride",
    "blend": "--blend",
    "batch_size": "--bs",
    "dtype": "--dtype",
    "device": "--device",
    "distributed": "--distributed",
}
"""Parameter of the library -> the flag that sets it."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="resshift restore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = found.add_argument_group("files")
    add = files.add_argument
    add("-i", "--in_path", type=Path, required=True, help="an image, or a folder of images")
    add("-o", "--out_path", type=Path, required=True, help="folder for the results")
    add("--mask_path", type=Path, help="inpainting: an image, white where to fill, or a folder")
    add("--recursive", action="store_true", help="sub-folders too, which the results mirror")
    add("--format", choices=FORMATS, default="png", help="of the results (default: png)")
    add("--suffix", default="", help="added to the names of the results, e.g. _x4")
    add = files.add_mutually_exclusive_group().add_argument
    add("--overwrite", action="store_true", help="replace earlier results (the default)")
    add("--skip-existing", action="store_true", help="leave earlier results, restore the rest")

    aliases = ", ".join(f"{alias} for {task}" for alias, task in ALIASES.items())
    add = found.add_argument_group("model").add_argument
    names = ", ".join((BUNDLED, *TASKS))
    add("--task", help=f"one of {names}; {aliases} (default: {BUNDLED})")
    add("-v", "--version", help="which release of the task, e.g. v3")
    add("--scale", type=int, help="checked against the model's")
    add("--weights", type=Path, help="a .pth or .safetensors file instead of a model by name")
    add("--first-stage", type=Path, help="the autoencoder's .pth, if not beside --weights")
    add("--cache", type=Path, help="folder of weights and programs (default: $RESSHIFT_CACHE)")

    add = found.add_argument_group("result").add_argument
    default = RestoreOptions()
    add("--seed", type=int, default=default.seed, help="another seed gives another sample")
    add("--steps", type=int, dest="sampling_steps", default=default.sampling_steps,
        help="fewer sampling steps than the model was trained with")  # fmt: skip
    add("--sampler", choices=SAMPLERS, default=default.sampler, help="default: that of the model")
    add("--chop_size", type=int, default=default.chop_size,
        help="side of the tiles of large images, for x4 (default: %(default)s)")  # fmt: skip
    add("--chop_stride", type=int, default=default.chop_stride,
        help="distance of the tiles (default: 448 of 512)")  # fmt: skip
    add("--blend", choices=get_args(Blend), default=default.blend,
        help="even: as published, with seams")  # fmt: skip

    add = found.add_argument_group("machine").add_argument
    add("--bs", type=int, dest="batch_size", metavar="BS", default=default.batch_size,
        help="tiles at once on each device (default: %(default)s)")  # fmt: skip
    add("--dtype", choices=COMPUTE_DTYPES, help="default: bfloat16 on TPU, GPU; float32 on CPU")
    add("--device", help="cpu, gpu or tpu: all there are, or one of them as gpu:0")
    add("--distributed", action="store_true", help="one of several processes that share the images")
    return found


def main(argv: list[str] | None = None) -> int:
    """Restores each image. The exit code: 0, 1 if any failed, or 130 where it is interrupted."""
    args = parser().parse_args(argv)
    with log_to_stderr(FLAGS), _terminated_as_interrupted():
        try:
            return run(args)
        except (OSError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as e:
            show(f"error: {describe_error(e, FLAGS)}", sys.stderr)
            return 1
        except KeyboardInterrupt:
            show("interrupted", sys.stderr)
            return 130


def run(args: argparse.Namespace) -> int:
    options = RestoreOptions(
        seed=args.seed, sampling_steps=args.sampling_steps, sampler=args.sampler,
        chop_size=args.chop_size, chop_stride=args.chop_stride, batch_size=args.batch_size,
        blend=args.blend,
    )  # fmt: skip
    topology = start(args.device, distributed=args.distributed)
    files, skipped = files_to_restore(args, topology)
    name = f"process {topology.process + 1} of {topology.processes}" if args.distributed else ""
    report = Report(len(files), args.out_path, skipped=skipped, name=name, flags=FLAGS)
    if not files:
        show(report.summary(), sys.stdout)
        return 0
    model = load_model(args, options, topology.devices)
    progress = Progress(report.advance, report.announce)
    interrupted = False
    with report:
        try:
            restore_files(
                model, files, options, format=args.format, report=report, progress=progress
            )
        except KeyboardInterrupt:
            interrupted = True
    show(report.summary(model.programs(options), interrupted), sys.stdout)
    return 130 if interrupted else 1 if report.failures else 0


def files_to_restore(args: argparse.Namespace, topology: Topology) -> tuple[list[File], int]:
    """Those of this process, and how many it leaves out because their results are there."""
    files = find_files(
        args.in_path,
        args.out_path,
        mask_path=args.mask_path,
        recursive=args.recursive,
        suffix=args.suffix,
        format=args.format,
        keep_results=args.skip_existing,
    )
    files = share_of(files, topology.process, topology.processes)
    wanted = [file for file in files if not (args.skip_existing and os.path.isfile(file.target))]
    return wanted, len(files) - len(wanted)


def load_model(
    args: argparse.Namespace, options: RestoreOptions, devices: tuple[jax.Device, ...]
) -> resshift_jax.Model:
    """The model that is asked for, to which the arguments fit."""
    if args.weights is None:  # before anything is fetched
        require_fit(args, options, configs_of(args.task, args.version))
    programs = (args.cache or cache_dir()) / "programs"
    try:
        keep_programs(programs)
    except OSError as e:
        show(f"{programs}: no compiled program is kept, {e.strerror}", sys.stderr)
    model = resshift_jax.load(
        args.weights,
        task=args.task,
        version=args.version,
        first_stage=args.first_stage,
        cache=args.cache,
        dtype=args.dtype,
        devices=devices,
    )
    require_fit(args, options, [model.config])
    return model


def configs_of(task: str | None, version: str | None) -> list[ModelConfig]:
    """Of the models that go by these names."""
    if task is None or task == BUNDLED:
        return [bundled_config(version)]
    return [release.config for release in find_releases(task, version)]


def require_fit(
    args: argparse.Namespace, options: RestoreOptions, models: list[ModelConfig]
) -> None:
    """Raises ValueError where the arguments fit none of the models, all of one task."""
    task, scale, masked = models[0].task, models[0].scale, models[0].unet.cond_mask
    if args.scale not in (None, scale):
        raise ValueError(f"--scale {args.scale}: the scale of {args.weights or task} is {scale}")
    if (args.mask_path is not None) != masked:
        needed = "needs one" if masked else "takes none"
        raise ValueError(f"--mask_path: the task {task} {needed}")
    errors = [error for model in models if (error := _misfit(model, options))]
    if len(errors) == len(models):
        raise errors[0]


def _misfit(model: ModelConfig, options: RestoreOptions) -> ValueError | None:
    """Why the options do not fit the model, if they do not."""
    steps, sampler = options.sampling_steps, options.sampler
    try:
        make_chain(
            model.chain,
            in_pixels=model.first_stage.in_pixels,
            sampling_steps=steps,
            sampler=sampler,
        )
    except ValueError as e:
        return e
    return None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Batch systems and containers end a run with SIGTERM: it stops as at Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end(code: int) -> NoReturn:
    """Ends the process with this exit code."""
    if code == 130:
        # What XLA is at cannot be stopped, and would be waited for.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
