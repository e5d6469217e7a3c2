"""Whole images in, squares for training out: cropped, resized and flipped at random."""

import numpy as np
from jaxtyping import UInt8

from resshift_jax.data.config import CropConfig, InputError
from resshift_jax.data.squares import FLIPS, METHODS, padded


def crop_pair(
    hq: UInt8[np.ndarray, "H W 3"],
    lq: UInt8[np.ndarray, "h w 3"] | None,
    rng: np.random.Generator,
    config: CropConfig,
    scale: int,
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "small small 3"] | None]:
    """The same square of an image and of its low-quality version, flipped together.

    Args:
        hq, lq: (H, W, 3) and (H / scale, W / scale, 3) uint8; lq may be None.

    Returns:
        (size, size, 3) and (size / scale, size / scale, 3) uint8, or None.

    Raises:
        InputError: a pair, but a way of cropping that would resize it, or a size that is not a
            multiple of the scale.
    """
    if lq is not None:
        check_pairs_can_be_cropped(config, scale)
        hq, lq = _random_pair(hq, lq, rng, config.size, scale)
    else:
        hq = METHODS[config.method](hq, rng, config.size, config.max_reduction)
    which = int(rng.integers(FLIPS[config.flips]))
    return _flipped(hq, which), None if lq is None else _flipped(lq, which)


def check_pairs_can_be_cropped(config: CropConfig, scale: int) -> None:
    """Raises InputError unless both images of a pair can be cropped alike."""
    if config.method != "random":
        raise InputError(
            f'data.crop.method: {config.method!r} given, but pairs must keep their pixels: "random"'
        )
    if config.size % scale:
        raise InputError(
            f"data.crop.size: {config.size} given, must be a multiple of the scale ({scale}) for "
            f"pairs"
        )


def _random_pair(
    hq: np.ndarray, lq: np.ndarray, rng: np.random.Generator, size: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
    # With the edge pixel repeated, the mirror lies on the edge, which is the same in both images;
    # mirrors through the middle of the last pixel would shift them against each other.
    lq = padded(lq, size // scale, mode="symmetric")
    hq = padded(hq, size, mode="symmetric")
    top, left = (int(rng.integers(side - size // scale + 1)) for side in lq.shape[:2])
    lq = lq[top : top + size // scale, left : left + size // scale]
    top, left = top * scale, left * scale
    return hq[top : top + size, left : left + size], lq


def _flipped(image: np.ndarray, which: int) -> np.ndarray:
    """which: bits; 1 mirrors the columns, 2 the rows, 4 the diagonal."""
    if which & 1:
        image = image[:, ::-1]
    if which & 2:
        image = image[::-1]
    if which & 4:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)
