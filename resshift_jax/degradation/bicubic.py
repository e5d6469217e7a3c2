"""Bicubic reduction: high-quality images in, low-quality ones out, as MATLAB or OpenCV reduce."""

from jax import Array

from resshift_jax.degradation.config import BicubicConfig
from resshift_jax.degradation.ops.canvas import in_unit_range, to_8_bits
from resshift_jax.resize import resize_matlab, resize_opencv


def reduce_bicubic(images: Array, config: BicubicConfig) -> Array:
    """(B, H, W, 3), uint8, or float32 in [0, 1] -> (B, H / scale, W / scale, 3) float32.

    MATLAB's is not clipped to [0, 1] and not rounded, as published; OpenCV's are multiples of
    1/255, for it is given 8 bits. Sides that are no multiples of the scale are rounded up by
    MATLAB and down by OpenCV.
    """
    images = in_unit_range(images)
    if config.method == "matlab":
        return resize_matlab(images, 1 / config.scale)
    size = images.shape[1] // config.scale, images.shape[2] // config.scale
    return to_8_bits(resize_opencv(images, size))
