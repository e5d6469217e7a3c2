"""The picture of the README: python examples/picture.py LQ RESTORED OUT.

Beside each other, each image of the folder LQ enlarged bicubically and as it is in the folder
RESTORED, in rows of at most 1280 pixels.
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1280


def pair(lq: Path, restored: Path) -> Image.Image:
    """An image enlarged bicubically, and restored, side by side."""
    with Image.open(lq) as before, Image.open(restored) as after:
        both = Image.new("RGB", (2 * after.width, after.height))
        both.paste(before.convert("RGB").resize(after.size, Image.Resampling.BICUBIC))
        both.paste(after, (after.width, 0))
    return both


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Rows from left to right, from the top."""
    corners: list[tuple[int, int]] = []
    x, y, height = 0, 0, 0
    for picture in pictures:
        if x and x + picture.width > WIDTH:
            x, y, height = 0, y + height, 0
        corners.append((x, y))
        x, height = x + picture.width, max(height, picture.height)
    whole = Image.new("RGB", (WIDTH, y + height), "white")
    for picture, corner in zip(pictures, corners, strict=True):
        whole.paste(picture, corner)
    return whole


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/picture.py LQ RESTORED OUT")
    lq, restored, out = map(Path, sys.argv[1:])
    try:
        names = sorted(path for path in lq.iterdir() if path.suffix in (".jpg", ".png"))
        picture = stacked([pair(path, restored / f"{path.stem}.png") for path in names])
        picture.save(out, quality=92)
    except OSError as e:
        sys.exit(f"error: {e}")
