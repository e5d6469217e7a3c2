"""Compares the degradation with given pairs: python -m benchmarks.degradation_pairs HQ LQ.

Degrades the images of the folder HQ many times and asks whether the figures of LQ, a folder of
their low-quality versions under the same names, lie among those: the mean over the images and the
spread between them of the PSNR-Y of bicubic enlargement, and of the gradient energy (mean square of
the steps between neighbouring pixels of Y).
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.degradation import SETTINGS
from benchmarks.quality import bicubic, read
from benchmarks.timing import write_json
from resshift_jax.degradation.real_esrgan import degrade
from resshift_jax.evaluation.psnr_ssim import psnr_y, rgb_to_y
from resshift_jax.platform import compiler_options


def bicubic_psnr(lq: np.ndarray, hq: np.ndarray) -> float:
    return psnr_y(bicubic(lq, hq), hq)


def gradient_energy(lq: np.ndarray, hq: np.ndarray) -> float:
    luma = rgb_to_y(lq).astype(np.float64)
    return float(sum(np.square(np.diff(luma, axis=axis)).mean() for axis in (0, 1)))


MEASURES = {"PSNR-Y of bicubic, dB": bicubic_psnr, "gradient energy": gradient_energy}


def measure(lqs: np.ndarray, hqs: np.ndarray) -> dict[str, dict[str, float]]:
    """Measure -> its mean over the images and its standard deviation between them."""
    values = {
        name: [one(lq, hq) for lq, hq in zip(lqs, hqs, strict=True)]
        for name, one in MEASURES.items()
    }
    return {
        name: {"mean": float(np.mean(v)), "spread": float(np.std(v))} for name, v in values.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hq", type=Path)
    parser.add_argument("lq", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, default="training")
    parser.add_argument("--draws", type=int, default=20, help="how often each image is degraded")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)

    try:
        originals = read(args.hq)
        lq = read(args.lq, list(originals))
    except OSError as e:
        parser.error(str(e))
    if not originals:
        parser.error(f"{args.hq}: no PNG files")
    hqs = np.stack(list(originals.values()))
    given = measure(np.stack(list(lq.values())), hqs)
    program = jax.jit(
        partial(degrade, config=SETTINGS[args.setting]), compiler_options=compiler_options()
    )
    drawn = []
    for seed in range(args.draws):
        keys = jax.random.split(jax.random.key(seed), len(hqs))
        lqs = np.round(255 * np.asarray(program(keys, hqs))).astype(np.uint8)
        drawn.append(measure(lqs, hqs))

    rows = []
    print(f"{'':32} {'given':>9} {'least':>9} {'mean':>9} {'most':>9}  of {args.draws} draws")
    for name in MEASURES:
        for figure in ("mean", "spread"):
            values = [one[name][figure] for one in drawn]
            row = (given[name][figure], min(values), float(np.mean(values)), max(values))
            print(f"{name + ', ' + figure:32} " + " ".join(f"{value:9.3f}" for value in row))
            keys_of_row = ("given", "least", "mean", "most")
            rows.append({"figure": f"{name}, {figure}", **dict(zip(keys_of_row, row, strict=True))})
    if args.json:
        write_json(
            args.json,
            {"setting": args.setting, "images": len(hqs), "draws": args.draws, "rows": rows},
        )


if __name__ == "__main__":
    main()
