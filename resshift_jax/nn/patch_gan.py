"""The discriminator of patches (PatchGAN, arXiv 1611.07004): images in, one logit a patch out."""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from resshift_jax.platform import Compute
from resshift_jax.settings import require_positive


@dataclass(frozen=True)
class PatchGanConfig:
    """The discriminator of patches. The defaults are that of the published f4 autoencoder.

    Attributes:
        base_channels: width of the first convolution; it doubles up to eight times.
        strided: how many convolutions halve the image; two of stride 1 follow.
    """

    base_channels: int = 64
    strided: int = 3

    def __post_init__(self) -> None:
        require_positive("discriminator", self, "base_channels", "strided")

    @property
    def least_side(self) -> int:
        """Least side of an image that has a patch."""
        return 3 * 2**self.strided


class BatchNorm(nn.Module):
    """Normalisation by the statistics of the batch that is given, in training and ever after.

    Attributes:
        axes: of the devices that share a batch; none where it is whole.
    """

    axes: Sequence[str] = ()
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", lambda key: 1 + 0.02 * jax.random.normal(key, (channels,)))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        wide = x.astype(jnp.float32)
        mean = self._mean(wide)
        variance = self._mean(jnp.square(wide - mean))
        gain = scale * jax.lax.rsqrt(variance + self.eps)
        return (wide * gain + (bias - mean * gain)).astype(x.dtype)

    def _mean(self, x: Array) -> Array:
        mean = x.mean((0, 1, 2))
        return jax.lax.pmean(mean, tuple(self.axes)) if self.axes else mean


class PatchGan(nn.Module):
    """Convolutions of 4x4, each but the first and the last with a norm; leaky rectifiers between.

    Attributes:
        axes: of the devices that share a batch; see `BatchNorm`.
    """

    config: PatchGanConfig = PatchGanConfig()
    axes: Sequence[str] = ()
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, image: Float[Array, "b H W 3"]) -> Float[Array, "b patches_down across 1"]:
        """(B, H, W, 3) about [-1, 1] -> logits (B, h, w, 1) float32, positive for "real".

        They depend on the whole batch, by the statistics of its norms.
        """
        config = self.config
        x = image.astype(self.compute.dtype)
        for i in range(config.strided + 1):
            width, stride = config.base_channels * min(2**i, 8), 2 if i < config.strided else 1
            x = self._conv(width, stride, f"conv_{i}", use_bias=i == 0)(x)
            if i > 0:
                x = BatchNorm(self.axes, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        return self._conv(1, 1, "conv_out")(x).astype(jnp.float32)

    def _conv(self, width: int, stride: int, name: str, use_bias: bool = True) -> nn.Conv:
        return nn.Conv(
            width, (4, 4), stride, padding=1, use_bias=use_bias, dtype=self.compute.dtype,
            kernel_init=nn.initializers.normal(0.02), name=name,
        )  # fmt: skip
