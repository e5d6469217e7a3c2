"""Whole images in, squares for training out: cropped, resized and flipped at random."""

import numpy as np

from resshift_jax.data.config import CropConfig, InputError
from resshift_jax.resize import CUBIC_A, cubic


def crop_pair(
    high: np.ndarray,
    low: np.ndarray | None,
    rng: np.random.Generator,
    config: CropConfig,
    scale: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The same square of an image and of its low-quality version, flipped together.

    Args:
        high, low: (H, W, 3) and (H / scale, W / scale, 3) uint8; low may be None.

    Returns:
        (size, size, 3) and (size / scale, size / scale, 3) uint8, or None.

    Raises:
        InputError: a pair, but a way of cropping that would resize it, or a size that is not a
            multiple of the scale.
    """
    if low is not None:
        check_pairs_can_be_cropped(config, scale)
        high, low = _random_pair(high, low, rng, config.size, scale)
    elif config.method == "square":
        high = _square(high, rng, config.size)
    elif config.method == "resized":
        high = _random(resize_short_side(high, config.size), rng, config.size)
    else:
        high = _reduced(high, rng, config.size, config.max_reduction)
    which = _draw_flip(rng, config.flips)
    return _flipped(high, which), None if low is None else _flipped(low, which)


def check_pairs_can_be_cropped(config: CropConfig, scale: int) -> None:
    """Raises InputError unless both images of a pair can be cropped alike."""
    if config.method != "random":
        raise InputError(
            f'data.crop.method: {config.method!r} given, but pairs must keep their pixels: "random"'
        )
    if config.max_reduction != 1:
        raise InputError(
            f"data.crop.max_reduction: {config.max_reduction} given, but pairs must keep their "
            f"pixels: 1"
        )
    if config.size % scale:
        raise InputError(
            f"data.crop.size: {config.size} given, must be a multiple of the scale ({scale}) for "
            f"pairs"
        )


def _random(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _random_pair(
    high: np.ndarray, low: np.ndarray, rng: np.random.Generator, size: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
    # With the edge pixel repeated, the mirror lies on the edge, which is the same in both images;
    # mirrors through the middle of the last pixel would shift them against each other.
    low = _padded(low, size // scale, mode="symmetric")
    high = _padded(high, size, mode="symmetric")
    top, left = (int(rng.integers(side - size // scale + 1)) for side in low.shape[:2])
    low = low[top : top + size // scale, left : left + size // scale]
    top, left = top * scale, left * scale
    return high[top : top + size, left : left + size], low


def _reduced(
    image: np.ndarray, rng: np.random.Generator, size: int, max_reduction: float
) -> np.ndarray:
    image = _padded(image, size)
    if max_reduction == 1:
        return _random(image, rng, size)
    largest = min(int(size * max_reduction), *image.shape[:2])
    return reduce_by_area(_random(image, rng, int(rng.integers(size, largest + 1))), size)


def _square(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    image = _padded(image, size)
    square = _random(image, rng, min(image.shape[:2]))
    return square if len(square) == size else reduce_by_area(square, size)


def _padded(image: np.ndarray, size: int, mode="reflect") -> np.ndarray:
    """Mirrored below and to the right until both sides are at least `size`."""
    missing = [max(0, size - side) for side in image.shape[:2]]
    return (
        np.pad(image, [(0, more) for more in missing] + [(0, 0)], mode) if any(missing) else image
    )


def reduce_by_area(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) -> (size, size, 3) uint8: the mean of the area under each new pixel.

    Parts of pixels count by their share, as in OpenCV's INTER_AREA when it shrinks. Pillow's BOX
    does not do this: it takes whole pixels, so that fractional factors give it jagged edges.
    """
    rows, columns = (_area_matrix(side, size) for side in image.shape[:2])
    return _resample(image, rows, columns)


def resize_short_side(image: np.ndarray, size: int) -> np.ndarray:
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
    place = (np.arange(m) + 0.5) * (n / m) - 0.5
    taps = np.floor(place)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((m, n))
    at = np.arange(m)[:, None], np.clip(taps, 0, n - 1).astype(int)
    np.add.at(matrix, at, cubic(place[:, None] - taps, CUBIC_A))
    return matrix


def _resample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with a matrix for each axis, rounded and clipped once."""
    half = _weighted(rows, image).swapaxes(0, 1)
    whole = _weighted(columns, np.ascontiguousarray(half)).swapaxes(0, 1)
    return np.rint(np.clip(whole, 0, 255)).astype(np.uint8)


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


def _draw_flip(rng: np.random.Generator, flips: str) -> int:
    """Bits: 1 mirrors the columns, 2 the rows, 4 the diagonal."""
    return int(rng.integers({"none": 1, "horizontal": 2, "dihedral": 8}[flips]))


def _flipped(image: np.ndarray, which: int) -> np.ndarray:
    if which & 1:
        image = image[:, ::-1]
    if which & 2:
        image = image[::-1]
    if which & 4:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)
