"""LPIPS: two batches of images (B, H, W, 3) in [-1, 1] in, their perceptual distances (B,) out.

Zhang et al. 2018, arXiv 1801.03924, version 0.1: features of a network trained to classify,
compared by weights that were fitted to what people see. `weights/lpips.py` reads the parameters.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from resshift_jax.nn.layers import Conv3x3
from resshift_jax.platform import Compute, matmul_precision

Network = Literal["alex", "vgg"]

# The images' mean and deviation, per colour, on which the networks were trained, for [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188])
SCALE = np.array([0.458, 0.448, 0.450])

EPS = 1e-10  # added to a feature vector's norm

# Of either side of an image, in pixels: below it some feature map has none.
LEAST_SIZE: dict[Network, int] = {"alex": 31, "vgg": 16}


class AlexNet(nn.Module):
    """(B, H, W, 3) -> the maps after each of five rectified convolutions."""

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        layers = [
            nn.Conv(64, (11, 11), strides=4, padding=2, dtype=self.compute.dtype, name="conv1"),
            nn.Conv(192, (5, 5), padding=2, dtype=self.compute.dtype, name="conv2"),
            *(
                Conv3x3(width, compute=self.compute, name=f"conv{i}")
                for i, width in ((3, 384), (4, 256), (5, 256))
            ),
        ]
        maps = []
        for i, layer in enumerate(layers):
            if i in (1, 2):
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
            x = nn.relu(layer(x))
            maps.append(x)
        return maps


class VGG16(nn.Module):
    """(B, H, W, 3) -> the maps at the end of each of five blocks of rectified convolutions."""

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        maps = []
        for block, (width, depth) in enumerate(
            [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1
        ):
            if block > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for i in range(1, depth + 1):
                x = nn.relu(Conv3x3(width, compute=self.compute, name=f"conv{block}_{i}")(x))
            maps.append(x)
        return maps


class LPIPS(nn.Module):
    """The distance d(x, y) = sum_l mean_hw sum_c w_lc (f_lhwc(x) - f_lhwc(y))^2.

    Equation 1, whose w is squared: f_l are the maps of layer l, each pixel's vector divided by its
    norm, and w_l the layer's head. It is zero for equal images and about 1 for unlike ones. Its
    gradient is finite everywhere.

    Attributes:
        network: "alex", with which tables are published, or "vgg", which suits a loss.
        compute: of the convolutions; normalisation and distances are at least float32.
    """

    network: Network = "alex"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "b"]:
        """The distances (B,) float32 of two batches (B, H, W, 3) in [-1, 1].

        Raises:
            ValueError: shapes that differ or are not of such images, or images too small.
        """
        _check_images(x.shape, y.shape, self.network)
        precise = jnp.promote_types(self.compute.dtype, jnp.float32)
        net = (AlexNet if self.network == "alex" else VGG16)(self.compute, name="features")

        def features(image: Array) -> list[Array]:
            image = (image.astype(precise) - SHIFT.astype(precise)) / SCALE.astype(precise)
            return [_normalize(f.astype(precise)) for f in net(image)]

        # One after the other, not as one batch: of a target nothing is then differentiated.
        with jax.default_matmul_precision(matmul_precision(self.compute.dtype)):
            pairs = zip(features(x), features(y), strict=True)
        distance = jnp.zeros(len(x), precise)
        for i, (f, g) in enumerate(pairs, start=1):
            head = self.param(f"head{i}", nn.initializers.ones, (f.shape[-1],)).astype(precise)
            distance += (jnp.square(f - g) * head).sum(-1).mean((1, 2))
        return distance


def _normalize(f: Array) -> Array:
    """f / (|f| + EPS) over the last axis, with a finite derivative also where f is zero."""
    squares = jnp.square(f).sum(-1, keepdims=True)
    # The root's derivative is infinite at zero, and infinity times zero would be no number.
    is_zero = squares < jnp.finfo(f.dtype).tiny
    norm = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
    return f / (norm + EPS)


def _check_images(x: tuple[int, ...], y: tuple[int, ...], network: Network) -> None:
    if network not in LEAST_SIZE:
        raise ValueError(f"LPIPS: no network {network!r}, give one of {', '.join(LEAST_SIZE)}")
    if x != y or len(x) != 4 or x[-1] != 3:
        raise ValueError(
            f"LPIPS: two batches (B, H, W, 3) of one shape expected, {x} and {y} found"
        )
    least = LEAST_SIZE[network]
    if min(x[1:3]) < least:
        raise ValueError(
            f"LPIPS: images of {x[2]}x{x[1]} pixels are too small for {network}, "
            f"which takes {least}x{least} and more"
        )
