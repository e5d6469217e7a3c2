"""The pictures of the README: python examples/picture.py LQ RESTORED OUT.

LQ is a folder of images, and RESTORED that of what they became.

OUT/restored.webp  beside each other, each image enlarged bicubically and restored, in rows of at
                   most 1280 pixels
OUT/whole.webp     that of LQ/whole, restored and reduced to 1280 pixels, and under it two pieces
                   at full size, enlarged bicubically and restored
"""

import sys
from pathlib import Path

from PIL import Image, ImageFilter, ImageStat

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


def pieces(both: Image.Image) -> list[Image.Image]:
    """Of a pair, the pairs of squares with the most edges and with a median of them."""
    side, width = WIDTH // 4, both.width // 2
    edges = both.convert("L").filter(ImageFilter.FIND_EDGES)
    corners = [
        (x, y)
        for y in range(0, both.height - side + 1, side)
        for x in range(0, width - side + 1, side)
    ]

    def detail(corner: tuple[int, int]) -> float:
        x, y = corner[0] + width, corner[1]
        return float(ImageStat.Stat(edges.crop((x, y, x + side, y + side))).mean[0])

    found = []
    corners.sort(key=detail)
    for x, y in (corners[-1], corners[len(corners) // 2]):
        piece = Image.new("RGB", (2 * side, side))
        for i in range(2):
            left = x + i * width
            piece.paste(both.crop((left, y, left + side, y + side)), (i * side, 0))
        found.append(piece)
    return found


def whole(both: Image.Image) -> Image.Image:
    """What is restored of a pair, reduced, over pieces of the pair."""
    restored = both.crop((both.width // 2, 0, both.width, both.height))
    height = round(WIDTH * restored.height / restored.width)
    return stacked([restored.resize((WIDTH, height), Image.Resampling.LANCZOS), *pieces(both)])


def pairs(lq: Path, restored: Path) -> list[Image.Image]:
    names = sorted(path for path in lq.iterdir() if path.suffix in (".jpg", ".png"))
    return [pair(path, restored / f"{path.stem}.png") for path in names]


def main(lq: Path, restored: Path, out: Path) -> None:
    stacked(pairs(lq, restored)).save(out / "restored.webp", quality=92)
    (large,) = pairs(lq / "whole", restored / "whole")
    whole(large).save(out / "whole.webp", quality=90)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/picture.py LQ RESTORED OUT")
    try:
        main(*map(Path, sys.argv[1:]))
    except OSError as e:
        sys.exit(f"error: {e}")
