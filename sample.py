"""Restores photographs: python sample.py -i PHOTO_OR_FOLDER -o FOLDER.

The model that ships with the package enlarges them four times. --task names a published one, whose
weights are taken from the cache folder, or fetched into it once, and --weights any file. The README
has a command for each task.
"""

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import jax

import resshift_jax
from resshift_jax.cli.progress import Report, show
from resshift_jax.config import ModelConfig
from resshift_jax.image_io.folders import find_files, share_of
from resshift_jax.image_io.photo import FORMATS
from resshift_jax.inference.batching import Settings
from resshift_jax.inference.files import restore_files
from resshift_jax.inference.programs import keep_programs
from resshift_jax.inference.tiles import Blend
from resshift_jax.platform import COMPUTE_DTYPES, start
from resshift_jax.schedule import make_schedule
from resshift_jax.weights.bundled import bundled_config
from resshift_jax.weights.load import cache_dir
from resshift_jax.weights.zoo import ALIASES, BUNDLED, TASKS, find_releases


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("files").add_argument
    add("-i", "--in_path", type=Path, required=True, help="an image, or a folder of images")
    add("-o", "--out_path", type=Path, required=True, help="folder for the results")
    add("--mask_path", type=Path, help="inpainting: an image, white where to fill, or a folder")
    add("--recursive", action="store_true", help="sub-folders too, which the results mirror")
    add("--format", choices=FORMATS, default="png", help="of the results (default: png)")
    add("--suffix", default="", help="added to the names of the results, e.g. _x4")
    add("--overwrite", action="store_true", help="replace earlier results (the default)")
    add("--skip-existing", action="store_true", help="leave earlier results, restore the rest")

    aliases = ", ".join(f"{alias} for {task}" for alias, task in ALIASES.items())
    add = parser.add_argument_group("model").add_argument
    names = ", ".join((BUNDLED, *TASKS))
    add("--task", help=f"one of {names}; {aliases} (default: {BUNDLED})")
    add("-v", "--version", help="which release of the task, e.g. v3")
    add("--scale", type=int, help="checked against the model's")
    add("--weights", type=Path, help="a .pth or .safetensors file instead of a model by name")
    add("--first-stage", type=Path, help="the autoencoder's .pth, if not beside --weights")
    add("--cache", type=Path, help="folder of weights and programs (default: $RESSHIFT_CACHE)")

    add = parser.add_argument_group("result").add_argument
    add("--seed", type=int, default=12345, help="another seed gives another sample")
    add("--steps", type=int, help="fewer sampling steps than the model was trained with")
    add("--chop_size", type=int, default=512, help="side of the tiles of large images, for x4")
    add("--chop_stride", type=int, help="distance of the tiles (default: 448 of 512)")
    add("--blend", choices=get_args(Blend), default="smooth", help="even: as published, with seams")

    add = parser.add_argument_group("machine").add_argument
    add("--bs", type=int, default=1, help="tiles at once on each device (default: 1)")
    add("--dtype", choices=COMPUTE_DTYPES, help="default: bfloat16 on TPU, GPU; float32 on CPU")
    add("--device", help="cpu, gpu or tpu: all there are, or one of them as gpu:0")
    add("--distributed", action="store_true", help="one of several processes that share the images")
    args = parser.parse_args(argv)
    if args.overwrite and args.skip_existing:
        parser.error("--overwrite and --skip-existing contradict each other")
    return args


def main(argv: list[str] | None = None) -> int:
    """Restores each image; a bad one is named and the rest goes on. The exit code tells."""
    args = parse_args(argv)
    try:
        return run(args)
    except (OSError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as e:
        show(f"error: {str(e) or type(e).__name__}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        show("interrupted", sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    settings = Settings(
        args.seed, args.steps, args.chop_size, args.chop_stride, args.bs, args.blend
    )
    place = start(args.device, distributed=args.distributed)
    files = find_files(
        args.in_path,
        args.out_path,
        mask_path=args.mask_path,
        recursive=args.recursive,
        suffix=args.suffix,
        format=args.format,
        keep_results=args.skip_existing,
    )
    files = share_of(files, place.process, place.processes)
    wanted = [file for file in files if not (args.skip_existing and os.path.isfile(file.target))]
    report = Report(
        len(wanted),
        args.out_path,
        skipped=len(files) - len(wanted),
        name=f"process {place.process + 1} of {place.processes}" if args.distributed else "",
    )
    if not wanted:
        show(report.summary(), sys.stdout)
        return 0
    model = load_model(args, place.devices)
    programs = model.programs(settings)
    programs.announce = report.doing
    interrupted = False
    with report:
        try:
            restore_files(
                model, wanted, settings, format=args.format, report=report, advance=report.advance
            )
        except KeyboardInterrupt:
            interrupted = True
    show(report.summary(programs, interrupted), sys.stdout)
    return 130 if interrupted else 1 if report.failures else 0


def load_model(args: argparse.Namespace, devices: tuple[jax.Device, ...]) -> resshift_jax.Model:
    """The model that is asked for, to which the options fit."""
    if args.weights is None:  # before anything is fetched
        require_fit(args, configs_of(args.task, args.version))
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
        notify=partial(show, stream=sys.stderr),
    )
    require_fit(args, [model.config])
    return model


def configs_of(task: str | None, version: str | None) -> list[ModelConfig]:
    """Of the models that go by these names."""
    if task in (None, BUNDLED):
        return [bundled_config(version)]
    return [release.config for release in find_releases(task, version)]


def require_fit(args: argparse.Namespace, models: list[ModelConfig]) -> None:
    """Raises ValueError where the options fit none of the models, all of one task."""
    task, scale, masked = models[0].task, models[0].scale, models[0].unet.condition_mask
    if args.scale not in (None, scale):
        raise ValueError(f"--scale {args.scale}: the scale of {args.weights or task} is {scale}")
    if (args.mask_path is not None) != masked:
        needed = "needs one" if masked else "takes none"
        raise ValueError(f"--mask_path: the task {task} {needed}")
    if all(model.chain.one_step for model in models):
        make_schedule(models[0].chain, args.steps)


if __name__ == "__main__":
    # Batch systems and containers end a run with SIGTERM: it stops as at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = main()
    if code == 130:
        # What XLA is at cannot be stopped, and would be waited for.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
