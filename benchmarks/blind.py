"""Two methods beside each other without their names: python -m benchmarks.blind.

python -m benchmarks.blind show OURS THEIRS OUT [--seed 0]
python -m benchmarks.blind tally VERDICTS.csv OUT/key.json [--csv FILE]

`show` writes OUT/01.png and so on: for each image of OURS the two results, left and right by
chance, and OUT/key.json, which is not to be read before the verdicts are written. VERDICTS.csv has
the columns number, better (left, right or equal) and why. `tally` counts them, as seen from OURS.

Both also tell the noise that is left: the median standard deviation of the flattest fifth of a
result's 8x8 blocks, in grey levels of 255, whose mean over the images is compared.
"""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = 8
FLATTEST = 0.2
GAP = 16  # white pixels between the two


def noise_left(image: np.ndarray) -> float:
    """Of (H, W, 3) uint8."""
    grey = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    height, width = (side // BLOCK for side in grey.shape)
    blocks = grey[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK)
    deviations = np.sort(blocks.std((1, 3)), axis=None)
    return float(np.median(deviations[: max(1, round(FLATTEST * deviations.size))]))


def by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix == ".png"}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def show(ours: Path, theirs: Path, out: Path, seed: int) -> None:
    """Writes the pairs and the key, and prints the noise that is left."""
    files, others = by_stem(ours), by_stem(theirs)
    absent = sorted(files.keys() - others.keys())
    if absent or not files:
        raise SystemExit(f"{theirs}: no result for {', '.join(absent) or 'any image'}")
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    key, noise = {}, []
    for number, stem in enumerate(files, 1):
        pair = [read(files[stem]), read(others[stem])]
        if pair[0].shape != pair[1].shape:
            raise SystemExit(f"{files[stem]} and {others[stem]}: not of one size")
        noise.append([noise_left(image) for image in pair])
        is_left = bool(rng.integers(2))
        left, right = pair if is_left else pair[::-1]
        gap = np.full((len(left), GAP, 3), 255, np.uint8)
        Image.fromarray(np.concatenate([left, gap, right], 1)).save(out / f"{number:02}.png")
        key[f"{number:02}"] = {"image": stem, "ours": "left" if is_left else "right"}
    (out / "key.json").write_text(json.dumps(key, indent=1) + "\n")
    mean = np.mean(noise, axis=0)
    print(f"{len(key)} pairs in {out}; noise left {mean[0]:.3f} of ours, {mean[1]:.3f} of theirs")
    print(f"ratio {mean[0] / mean[1]:.2f}")


def tally(verdicts: Path, key_file: Path, table: Path | None) -> None:
    """Prints how many of OURS are better, equal and worse; every pair must have a verdict."""
    key = json.loads(key_file.read_text())
    with verdicts.open(newline="") as file:
        rows = {f"{int(row['number']):02}": row for row in csv.DictReader(file)}
    if rows.keys() != key.keys():
        raise SystemExit(f"{verdicts}: no verdict on {', '.join(sorted(key.keys() - rows.keys()))}")
    found = []
    for number, pair in key.items():
        better = rows[number]["better"].strip()
        if better not in ("left", "right", "equal"):
            raise SystemExit(f"{verdicts}: {better!r} of {number}, left, right or equal needed")
        ours = better if better == "equal" else "better" if better == pair["ours"] else "worse"
        found.append({"image": pair["image"], "ours": ours, "why": rows[number]["why"]})
    counts = Counter(row["ours"] for row in found)
    good = (counts["better"] + counts["equal"]) / len(found)
    print(", ".join(f"{counts[name]} {name}" for name in ("better", "equal", "worse")), end="; ")
    print(f"{good:.0%} better or equal")
    if table is not None:
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, found[0].keys())
            writer.writeheader()
            writer.writerows(found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    showing = commands.add_parser("show")
    for name in ("ours", "theirs", "out"):
        showing.add_argument(name, type=Path)
    showing.add_argument("--seed", type=int, default=0)
    counting = commands.add_parser("tally")
    counting.add_argument("verdicts", type=Path)
    counting.add_argument("key", type=Path)
    counting.add_argument("--csv", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.command == "show":
        show(args.ours, args.theirs, args.out, args.seed)
    else:
        tally(args.verdicts, args.key, args.csv)


if __name__ == "__main__":
    main()
