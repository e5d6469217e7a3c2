"""An image and a generator in, a square of it out: the ways to cut training images.

METHODS has a row for each way, FLIPS for each set of flips; they are the values of `data.crop`.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from resshift_jax.resize import CUBIC_A, cubic

Image = UInt8[np.ndarray, "H W 3"]
Square = UInt8[np.ndarray, "size size 3"]


def padded(
    image: np.ndarray, size: int, mode: Literal["reflect", "symmetric"] = "reflect"
) -> np.ndarray:
    """Mirrored below and to the right until both sides are at least `size`."""
    missing = [max(0, size - side) for side in image.shape[:2]]
    return (
        np.pad(image, [(0, more) for more in missing] + [(0, 0)], mode) if any(missing) else image
    )


def random_window(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A square of `size` pixels, at a random offset."""
    top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def square(image: Image, rng: np.random.Generator, size: int, max_reduction: float) -> Square:
    """A square of the short side, reduced by area averages."""
    image = padded(image, size)
    found = random_window(image, rng, min(image.shape[:2]))
    return found if len(found) == size else reduce_by_area(found, size)


def resized(image: Image, rng: np.random.Generator, size: int, max_reduction: float) -> Square:
    """A square of an image whose short side is resized to `size`."""
    return random_window(resize_short_side(image, size), rng, size)


def random(image: Image, rng: np.random.Generator, size: int, max_reduction: float) -> Square:
    """A square of up to max_reduction times `size`, reduced by area averages."""
    image = padded(image, size)
    if max_reduction == 1:
        return random_window(image, rng, size)
    largest = min(int(size * max_reduction), *image.shape[:2])
    return reduce_by_area(random_window(image, rng, int(rng.integers(size, largest + 1))), size)


METHODS: dict[str, Callable[[Image, np.random.Generator, int, float], Square]] = {
    "square": square,
    "resized": resized,
    "random": random,
}
"""Name -> (image, rng, size, max_reduction) -> square, (H, W, 3) -> (size, size, 3) uint8."""

FLIPS = {"none": 1, "horizontal": 2, "dihedral": 8}
"""Name -> from how many of the eight flips one is drawn."""


def reduce_by_area(image: Image, size: int) -> Square:
    """(H, W, 3) -> (size, size, 3) uint8: the mean of the area under each new pixel.

    Parts of pixels count by their share, as in OpenCV's INTER_AREA when it shrinks. Pillow's BOX
    does not do this: it takes whole pixels, so that fractional factors give it jagged edges.
    """
    rows, columns = (_area_matrix(side, size) for side in image.shape[:2])
    return _resample(image, rows, columns)


def resize_short_side(image: Image, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """(H, W, 3) uint8 with a short side of `size`, as OpenCV's INTER_CUBIC resizes.

    a = -0.75, without antialiasing, half-pixel centres, edges repeated.
    """
    short = min(image.shape[:2])
    if short == size:
        return image
    new = [max(size, int(side * size / short + 0.5)) for side in image.shape[:2]]
    rows, columns = (_cubic_matrix(*sides) for sides in zip(image.shape[:2], new, strict=True))
    return _resample(image, rows, columns)


def _area_matrix(n: int, m: int) -> np.ndarray:
    """(m, n): the share of each of n pixels in each of m that cover them."""
    edges = np.arange(m + 1) * (n / m)
    pixels = np.arange(n)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    # Of edges that should meet and miss each other by a rounding, nothing is left.
    return np.where(overlap > 1e-9, overlap, 0) * (m / n)


def _cubic_matrix(n: int, m: int) -> np.ndarray:
    """(m, n): the weight of each of n pixels in each of m."""
    position = (np.arange(m) + 0.5) * (n / m) - 0.5
    taps = np.floor(position)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((m, n))
    at = np.arange(m)[:, None], np.clip(taps, 0, n - 1).astype(int)
    np.add.at(matrix, at, cubic(position[:, None] - taps, CUBIC_A))
    return matrix


def _resample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with a matrix for each axis, rounded and clipped once."""
    half = _weighted(rows, image).swapaxes(0, 1)
    whole = _weighted(columns, np.ascontiguousarray(half)).swapaxes(0, 1)
    rounded: np.ndarray = np.rint(np.clip(whole, 0, 255)).astype(np.uint8)
    return rounded


def _weighted(matrix: np.ndarray, image: np.ndarray) -> np.ndarray:
    """matrix @ image over the first axis, float32, for a matrix of narrow bands.

    A product with the zeros beside the bands took 15 times as long for a large photograph.
    """
    rest = image.shape[1:]
    pixels = image.reshape(len(image), -1)
    result = np.empty((len(matrix), pixels.shape[1]), np.float32)
    filled = matrix != 0
    starts = filled.argmax(1)
    ends = matrix.shape[1] - filled[:, ::-1].argmax(1)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        weights = matrix[i, start:end].astype(np.float32)
        np.matmul(weights, pixels[start:end].astype(np.float32), out=result[i])
    return result.reshape(-1, *rest)
