"""Cutting an image into tiles of one shape, and blending what was made of them into one image.

Every image is cut this way: one that fits a tile has one tile, padded to the model's multiple.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

Blend = Literal["smooth", "even"]


def default_stride(size: int) -> int:
    """Distance of tiles that overlap by an eighth, and by 16 pixels at least: 512 -> 448."""
    return max(1, size - max(16, size // 8))


def tile_starts(length: int, size: int, stride: int) -> tuple[int, ...]:
    """Where tiles start along a side: 0, stride, 2 stride, ..., the last one moved back to fit."""
    if length <= size:
        return (0,)
    return (*range(0, length - size, stride), length - size)


def window(size: int, blend: Blend) -> Float64[np.ndarray, " size"]:
    """Weights of a tile's pixels along a side, (size,) float64, all positive.

    "smooth" falls to nearly nothing at the ends, where a tile lacks context: sin^2. Divided by the
    sum over the tiles that cover a pixel, it leads from one tile to the next without an edge.
    """
    if blend == "even":
        return np.ones(size)
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2


@dataclass(frozen=True)
class Grid:
    """Where the tiles of an image lie.

    Attributes:
        image: (H, W) of the image, in pixels.
        tile: (h, w) of every tile.
        rows, columns: where tiles start on each axis; tiles are counted row by row.
    """

    image: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def origins(self) -> list[tuple[int, int]]:
        """(row, column) of each tile's first pixel."""
        return [(row, column) for row in self.rows for column in self.columns]

    @property
    def canvas(self) -> tuple[int, int]:
        """(H, W) of the padded image that the tiles cover."""
        return self.rows[-1] + self.tile[0], self.columns[-1] + self.tile[1]

    def cut(self, image: Shaped[np.ndarray, "H W C"]) -> Iterator[Shaped[np.ndarray, "h w C"]]:
        """The tiles of an image (H, W, C), each (h, w, C).

        The image is reflected at the bottom and the right to the canvas, its edge not repeated; a
        side shorter than its padding is reflected again and again.
        """
        padding = [(0, all_ - here) for all_, here in zip(self.canvas, self.image, strict=True)]
        padded = np.pad(image, (*padding, (0, 0)), "reflect")
        for row, column in self.origins:
            yield padded[row : row + self.tile[0], column : column + self.tile[1]]


def make_grid(image: tuple[int, int], *, size: int, stride: int, multiple: int, align: int) -> Grid:
    """The grid of an image.

    Args:
        image: (H, W), in pixels.
        size, stride: side of a tile and distance of tiles where the image is larger than one.
        multiple: what the sides of a tile are multiples of, `size` among them.
        align: what the starts of tiles are multiples of, `stride` among them: the pixels that one
            latent pixel stands for.
    """
    tile, starts = [], []
    for length in image:
        fits = length <= size
        tile.append(_round_up(length, multiple) if fits else size)
        starts.append((0,) if fits else tile_starts(_round_up(length, align), size, stride))
    return Grid(image, (tile[0], tile[1]), starts[0], starts[1])


@dataclass(eq=False)
class Blending:
    """The restored image while its tiles come in, in any order.

    Attributes:
        grid: of the image that was cut.
        scale: side of a restored tile over the side of the tile.
        missing: how many tiles have not come yet.
    """

    grid: Grid
    scale: int
    blend: Blend = "smooth"
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        height, width = (self.scale * side for side in self.grid.image)
        # Tiles are added with weights whose sum is 1 at every pixel.
        self._sum = np.zeros((height, width, 3), np.float32)
        self._weights = [
            _weights(starts, side, self.scale, self.blend)
            for starts, side in zip(
                (self.grid.rows, self.grid.columns), self.grid.tile, strict=True
            )
        ]
        self.missing = len(self.grid.origins)

    def add(self, index: int, tile: Float[np.ndarray, "h w 3"]) -> None:
        """Adds a restored tile, its sides `scale` times those of the grid.

        index: of the tile among `grid.origins`.
        """
        row, column = divmod(index, len(self.grid.columns))
        top, left = (self.scale * start for start in self.grid.origins[index])
        covered = self._sum[top : top + tile.shape[0], left : left + tile.shape[1]]
        inside = tile[: covered.shape[0], : covered.shape[1]]
        down, across = self._weights[0][row], self._weights[1][column]
        covered += inside * down[: len(inside), None, None] * across[: inside.shape[1], None]
        self.missing -= 1

    def image(self) -> Float32[np.ndarray, "H W 3"]:
        """(scale H, scale W, 3) float32, once no tile is missing."""
        assert not self.missing
        return self._sum


def _weights(
    starts: tuple[int, ...], side: int, scale: int, blend: Blend
) -> list[Float32[np.ndarray, " size"]]:
    """The weights along an axis of the tile at each start; at every pixel their sum is 1."""
    one = window(scale * side, blend)
    total = np.zeros(scale * (starts[-1] + side))
    spans = [slice(scale * start, scale * (start + side)) for start in starts]
    for span in spans:
        total[span] += one
    return [(one / total[span]).astype(np.float32) for span in spans]


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
