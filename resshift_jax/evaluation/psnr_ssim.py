"""PSNR and SSIM: a restored image and its original in, a number out.

Computed in float64 from images (H, W) or (H, W, 3) in 0..255. Published tables tell those of luma
(`_y`).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_PEAK = 255.0
WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """Luma of a uint8 RGB image (H, W, 3), as (H, W) uint8 in 16..235.

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (ITU-R BT.601, MATLAB's rgb2ycbcr), rounded,
    halves up: in integers, so that no machine rounds another way.

    Raises:
        ValueError: not such an image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"an image (H, W, 3) of uint8 expected, {image.shape} of {image.dtype} found"
        )
    thousandths = image.astype(np.int32) @ np.array([65481, 128553, 24966], np.int32)
    return (16 + (thousandths + 127_500) // 255_000).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """10 log10(255^2 / mean (a - b)^2) in dB; infinite for equal images.

    Args:
        a, b: (H, W) or (H, W, 3), both uint8 or both floats, in 0..255.
        border: pixels left out on each side.

    Raises:
        ValueError: images of other or of different shapes or dtypes, or with nothing inside the
            border.
    """
    a, b = _pair(a, b, border, least=1)
    error = np.square(a - b).mean()
    return float(10 * np.log10(_PEAK**2 / error)) if error else np.inf


def ssim(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """Structural similarity, at most 1 (Wang et al. 2004, equation 13), the mean of the channels.

    Statistics are weighted by a Gaussian of 11x11 pixels, sigma 1.5, where it fits into the image.

    Args, Raises: as for `psnr`; within the border 11x11 pixels are the least.
    """
    a, b = _pair(a, b, border, least=WINDOW)
    return float(np.mean([_ssim_map(*pair).mean() for pair in zip(a, b, strict=True)]))


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of one channel (H, W): one at a time, caches hold it."""
    # Of the variances only the sum is needed.
    maps = np.stack([a, b, a * a + b * b, a * b])
    mean_a, mean_b, squares, products = _filter_columns(_filter_columns(maps))
    mean_product, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    numerator = (2 * mean_product + _C1) * (2 * (products - mean_product) + _C2)
    denominator = (mean_squares + _C1) * (squares - mean_squares + _C2)
    return numerator / denominator


def psnr_y(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """`psnr` of the luma of two uint8 RGB images (H, W, 3)."""
    return psnr(rgb_to_y(a), rgb_to_y(b), border)


def ssim_y(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """`ssim` of the luma of two uint8 RGB images (H, W, 3)."""
    return ssim(rgb_to_y(a), rgb_to_y(b), border)


def _pair(a: np.ndarray, b: np.ndarray, border: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (channels, H, W), without their borders."""
    for image in (a, b):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
            raise ValueError(f"an image (H, W) or (H, W, 3) expected, {image.shape} found")
        if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"an image of uint8 or floats in 0..255 expected, {image.dtype} found")
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(
            f"two images of one size and kind expected, {a.shape} of {a.dtype} and "
            f"{b.shape} of {b.dtype} found"
        )
    height, width = a.shape[:2]
    if border < 0 or min(height, width) - 2 * border < least:
        raise ValueError(
            f"{least}x{least} pixels are the least within the border, "
            f"{width}x{height} with a border of {border} found"
        )

    def prepare(image: np.ndarray) -> np.ndarray:
        image = image[border : height - border, border : width - border]
        channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        return channels.astype(np.float64, order="C")

    return prepare(a), prepare(b)


# As many pixels at a time as one matrix product makes: more of it would be zeros.
_BLOCK = 16


def _gaussian_band() -> np.ndarray:
    """(_BLOCK + 10, _BLOCK): column i holds the Gaussian's 11 weights from row i on."""
    weights = np.exp(-np.square(np.arange(WINDOW) - WINDOW // 2) / (2 * _SIGMA**2))
    band = np.zeros((_BLOCK + WINDOW - 1, _BLOCK))
    for i in range(_BLOCK):
        band[i : i + WINDOW, i] = weights / weights.sum()
    return band


_BAND = _gaussian_band()


def _filter_columns(x: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., W, H - 10): filtered along H where the window fits, and transposed."""
    *maps, height, width = x.shape
    blocks = -(-(height - WINDOW + 1) // _BLOCK)
    missing = blocks * _BLOCK + WINDOW - 1 - height
    x = np.pad(x, [*[(0, 0)] * len(maps), (0, missing), (0, 0)])
    windows = sliding_window_view(x, len(_BAND), axis=-2)[..., ::_BLOCK, :, :]
    out = np.moveaxis(windows @ _BAND, -3, -2)  # (..., W, blocks, _BLOCK)
    return out.reshape(*maps, width, -1)[..., : height - WINDOW + 1]
