"""The metrics: restored images and their originals in, a value for each pair out.

METRICS has a row for each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resshift_jax.evaluation.lpips import Lpips
from resshift_jax.evaluation.psnr_ssim import WINDOW, psnr_y, ssim_y
from resshift_jax.nn.lpips import LEAST_SIZE, Network
from resshift_jax.weights.lpips import load_lpips

Images = Sequence[np.ndarray]
Measure = Callable[[Images, Images], np.ndarray]
"""(restored, originals), N pairs (H, W, 3) uint8 of any sizes -> (N,) values."""


def each(function: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    """The measure of a function of one pair."""
    return lambda restored, originals: np.array(
        [function(*pair) for pair in zip(restored, originals, strict=True)], np.float64
    )


def lpips(network: Network, weights: Path | None) -> Measure:
    """LPIPS, for which images of one size are computed together."""
    distance = Lpips(network, load_lpips(network, weights))

    def measure(restored: Images, originals: Images) -> np.ndarray:
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, original in enumerate(originals):
            by_size.setdefault(original.shape, []).append(i)
        values = np.empty(len(originals), np.float32)
        for group in by_size.values():
            values[group] = distance([restored[i] for i in group], [originals[i] for i in group])
        return values

    return measure


class Metric(NamedTuple):
    """A row of METRICS.

    Attributes:
        make: file with the parameters of its network, or None for what is installed -> the measure.
        higher_is_better: the direction in which it improves.
        min_side: of either side of an image, in pixels.
        network: that of LPIPS which it needs.
    """

    make: Callable[[Path | None], Measure]
    higher_is_better: bool
    min_side: int = 1
    network: Network | None = None

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is at least as good as another."""
        return value >= than if self.higher_is_better else value <= than


METRICS: dict[str, Metric] = {
    "psnr_y": Metric(lambda weights: each(psnr_y), higher_is_better=True),
    "ssim_y": Metric(lambda weights: each(ssim_y), higher_is_better=True, min_side=WINDOW),
    **{
        f"lpips_{network}": Metric(
            partial(lpips, network), higher_is_better=False, min_side=least, network=network
        )
        for network, least in LEAST_SIZE.items()
    },
}
