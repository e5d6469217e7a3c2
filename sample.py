"""Restores photographs: python sample.py -i PHOTO_OR_FOLDER -o FOLDER --weights FILE."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import jax

import resshift_jax
from resshift_jax.images import list_images, read_image, read_mask, write_png
from resshift_jax.model import Model
from resshift_jax.platform import COMPUTE_DTYPES
from resshift_jax.weights.zoo import TASKS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("-i", "--in_path", type=Path, required=True, help="a PNG or JPEG file, or a folder of them")
    add("-o", "--out_path", type=Path, required=True, help="folder for the PNG files made")
    add("--weights", type=Path, required=True, help="a released .pth, or a converted .safetensors")
    add("--first-stage", type=Path, help="the autoencoder's .pth, if it is not beside the weights")
    add("--task", choices=TASKS, help="what a .pth is for, if its file name does not tell")
    add("--version", help="which release of the task, e.g. v3")
    add("--scale", type=int, help="checked against the model's")
    add("--mask_path", type=Path, help="for inpainting: an image, white where to fill")
    add("--seed", type=int, default=12345, help="another seed gives another sample")
    add("--steps", type=int, help="fewer sampling steps than the model was trained with")
    add("--dtype", choices=COMPUTE_DTYPES, help="of the computation (TPU, GPU: bfloat16)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Restores each image; a bad one is named and the rest goes on. The exit code tells."""
    args = parse_args(argv)
    try:
        model = resshift_jax.load(
            args.weights,
            first_stage=args.first_stage,
            task=args.task,
            version=args.version,
            dtype=args.dtype,
        )
        if args.scale not in (None, model.config.scale):
            raise ValueError(f"--scale {args.scale}: {args.weights} is for {model.config.scale}")
        if (args.mask_path is not None) != model.config.unet.condition_mask:
            needed = "needs one" if args.mask_path is None else "takes none"
            raise ValueError(f"--mask_path: the task {model.config.task} {needed}")
        if args.steps is not None and args.steps < 1:
            raise ValueError(f"--steps {args.steps}: at least 1 needed")
        outputs = name_outputs(list_images(args.in_path), args.out_path)
    except (OSError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1

    failed = 0
    for path, out in outputs.items():
        try:
            restore_file(model, path, out, args)
        except (OSError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as e:
            reason = (str(e).splitlines() or ["out of memory"])[0]
            named = reason if str(path) in reason else f"{path}: {reason}"
            print(f"error: {named}", file=sys.stderr)
            failed += 1
    if len(outputs) > 1:
        print(f"{len(outputs) - failed} of {len(outputs)} images restored in {args.out_path}")
    return 1 if failed else 0


def name_outputs(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Each image and the PNG to make of it; images of one stem keep their suffix in the name."""
    stems = Counter(path.stem for path in paths)
    return {
        path: folder / f"{path.stem if stems[path.stem] == 1 else path.name}.png" for path in paths
    }


def restore_file(model: Model, path: Path, out: Path, args: argparse.Namespace) -> None:
    start = time.perf_counter()
    if out.resolve() == path.resolve():
        raise ValueError(f"{path}: would be replaced by its restoration, choose another folder")
    low = read_image(path)
    mask = None if args.mask_path is None else read_mask(args.mask_path)
    high = model(low, mask, seed=args.seed, steps=args.steps)
    write_png(out, high)
    sizes = " -> ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (low, high))
    print(f"{path} -> {out}  {sizes}  {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
