"""Bicubic reduction: high-quality images in, low-quality ones out, as MATLAB or OpenCV reduce."""

from dataclasses import dataclass
from typing import Literal

from jax import Array
from jaxtyping import Float, Num

from resshift_jax.pixels import as_unit, in_8_bits
from resshift_jax.resize import resize_matlab, resize_opencv
from resshift_jax.settings import require


@dataclass(frozen=True)
class BicubicConfig:
    """A bicubic reduction, as MATLAB's imresize does it or as OpenCV's INTER_CUBIC.

    Attributes:
        scale: side of the image over the side of its low-quality version.
    """

    kind: Literal["bicubic"] = "bicubic"
    scale: int = 4
    method: Literal["matlab", "opencv"] = "matlab"

    def __post_init__(self) -> None:
        require(self.scale >= 1, f"degradation.scale: {self.scale} given, must be at least 1")
        require(
            self.method in ("matlab", "opencv"),
            f"degradation.method: {self.method!r} given, matlab or opencv needed",
        )


def reduce_bicubic(images: Num[Array, "b H W 3"], config: BicubicConfig) -> Float[Array, "b h w 3"]:
    """(B, H, W, 3), uint8, or float32 in [0, 1] -> (B, H / scale, W / scale, 3) float32.

    MATLAB's is not clipped to [0, 1] and not rounded, as published; OpenCV's are multiples of
    1/255, for it is given 8 bits. Sides that are no multiples of the scale are rounded up by
    MATLAB and down by OpenCV.
    """
    images = as_unit(images)
    if config.method == "matlab":
        return resize_matlab(images, 1 / config.scale)
    size = images.shape[1] // config.scale, images.shape[2] // config.scale
    return in_8_bits(resize_opencv(images, size))
