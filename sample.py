"""Restores photographs: python sample.py -i PHOTO_OR_FOLDER -o FOLDER --weights FILE."""

import argparse
import sys
import time
from pathlib import Path

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
        paths = list_images(args.in_path)
    except (OSError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1

    failed = 0
    for path in paths:
        try:
            restore_file(model, path, args)
        except (OSError, ValueError) as e:
            print(f"error: {e}", file=sys.stderr)
            failed += 1
    if len(paths) > 1:
        print(f"{len(paths) - failed} of {len(paths)} images restored in {args.out_path}")
    return 1 if failed else 0


def restore_file(model: Model, path: Path, args: argparse.Namespace) -> None:
    start = time.perf_counter()
    low = read_image(path)
    mask = None if args.mask_path is None else read_mask(args.mask_path)
    high = model(low, mask, seed=args.seed, steps=args.steps)
    out = args.out_path / f"{path.stem}.png"
    write_png(out, high)
    sizes = " -> ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (low, high))
    print(f"{path} -> {out}  {sizes}  {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
