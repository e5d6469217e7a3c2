"""Figures of restored images beside bicubic enlargement: python -m benchmarks.quality.

python -m benchmarks.quality ORIGINALS RESULTS [...] [--lq LQ] [--json FILE] [--worst FILE]

Folders with PNG files of the same names and, but for LQ, all of one size. --worst writes a
picture: the first of RESULTS between bicubic and the original, where LPIPS-VGG is greatest. Figures
are means over the images:

PSNR-Y, SSIM-Y  of luma, PSNR in dB
LPIPS      with AlexNet and with VGG
colour     difference of an image's mean colour, in grey levels of 255
grid       whether steps between neighbouring pixels depend on the position in a 4x4 block: ratio is
           the mean absolute step of luma at a phase over that at all phases, and the figure the
           greatest |ratio - that of the originals| over phases and axes
spectrum   power of luma under a Hann window as a multiple of the originals', in four bands of
           0.0625, 0.125, 0.1875, 0.25, 0.375 cycles a pixel; 1 is right, less is blurred
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import write_json
from resshift_jax.evaluation.lpips import Lpips
from resshift_jax.evaluation.psnr_ssim import psnr_y, ssim_y

BLOCK = 4
BANDS = (0.0625, 0.125, 0.1875, 0.25, 0.375)

WORST = 6  # images in the picture of the worst

Images = dict[str, np.ndarray]


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float64 in 16..235, not rounded."""
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def step_ratios(image: np.ndarray) -> np.ndarray:
    """(2, BLOCK): for each axis, the mean step at each phase over the mean of all."""
    y = luma(image)
    steps = [np.abs(np.diff(plane, axis=1)) for plane in (y, y.T)]
    means = np.array([[s[:, phase::BLOCK].mean() for phase in range(BLOCK)] for s in steps])
    return means / means.mean(1, keepdims=True)


def band_powers(image: np.ndarray) -> np.ndarray:
    """(4,): power of luma in each of the bands, of an image under a Hann window."""
    y = luma(image)
    height, width = y.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.square(np.abs(np.fft.fft2((y - y.mean()) * window)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return np.histogram(frequency, BANDS, weights=power)[0]


def measure(restored: Images, originals: Images, lpips: dict[str, Lpips]) -> dict:
    """The figures of a folder."""
    pairs = [(restored[name], original) for name, original in originals.items()]

    def mean(function: Callable[[np.ndarray], np.ndarray], images: Iterable) -> np.ndarray:
        return np.mean([function(image) for image in images], axis=0)

    results, truths = zip(*pairs, strict=True)
    grid = np.abs(mean(step_ratios, results) - mean(step_ratios, truths)).max()
    spectrum = mean(band_powers, results) / mean(band_powers, truths)
    colours = [np.abs(a.mean((0, 1)) - b.mean((0, 1))).mean() for a, b in pairs]
    return {
        "images": len(pairs),
        "psnr_y": float(np.mean([psnr_y(*pair) for pair in pairs])),
        "ssim_y": float(np.mean([ssim_y(*pair) for pair in pairs])),
        **{
            f"lpips_{name}": float(np.mean(distance(results, truths)))
            for name, distance in lpips.items()
        },
        "colour": float(np.mean(colours)),
        "grid": float(grid),
        "spectrum": [float(share) for share in spectrum],
    }


def read(folder: Path, names: list[str] | None = None) -> Images:
    """The images of a folder, or those of these names."""
    if names is None:
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    images = {}
    for name in names:
        with Image.open(folder / name) as image:
            images[name] = np.asarray(image.convert("RGB"))
    return images


def bicubic(lq: np.ndarray, like: np.ndarray) -> np.ndarray:
    size = like.shape[1], like.shape[0]
    return np.asarray(Image.fromarray(lq).resize(size, Image.Resampling.BICUBIC))


def worst(restored: Images, lq: Images, originals: Images, distance: Lpips) -> Image.Image:
    """Rows of bicubic, restored and original, of the images of the greatest distance."""
    distances = distance([restored[name] for name in originals], list(originals.values()))
    names = [list(originals)[i] for i in np.argsort(-distances)[:WORST]]
    rows = [
        np.concatenate([bicubic(lq[name], originals[name]), restored[name], originals[name]], 1)
        for name in names
    ]
    return Image.fromarray(np.concatenate(rows))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("originals", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--lq", type=Path, help="the low-quality images, for bicubic's figures")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--worst", type=Path, metavar="FILE", help="a picture; needs --lq")
    args = parser.parse_args(argv)
    if args.worst and not args.lq:
        parser.error("--worst: needs --lq")

    try:
        originals = read(args.originals)
        folders = {str(folder): read(folder, list(originals)) for folder in args.results}
        lq = read(args.lq, list(originals)) if args.lq else {}
    except OSError as e:
        parser.error(str(e))
    if not originals:
        parser.error(f"{args.originals}: no PNG files")
    if lq:
        folders["bicubic"] = {name: bicubic(lq[name], originals[name]) for name in originals}
    lpips = {name: Lpips(name) for name in ("alex", "vgg")}
    print(f"{'PSNR-Y':>7} {'SSIM-Y':>7} {'Alex':>7} {'VGG':>7} {'colour':>6} {'grid':>6}  spectrum")
    rows = {}
    for name, images in folders.items():
        row = rows[name] = measure(images, originals, lpips)
        spectrum = " ".join(f"{share:.2f}" for share in row["spectrum"])
        print(
            f"{row['psnr_y']:7.2f} {row['ssim_y']:7.3f} {row['lpips_alex']:7.4f} "
            f"{row['lpips_vgg']:7.4f} {row['colour']:6.2f} {row['grid']:6.3f}  {spectrum}  {name}"
        )
    if args.json:
        write_json(args.json, rows)
    if args.worst:
        picture = worst(folders[str(args.results[0])], lq, originals, lpips["vgg"])
        picture.save(args.worst, quality=90)


if __name__ == "__main__":
    main()
