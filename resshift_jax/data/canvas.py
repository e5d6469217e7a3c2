"""Images of any size in arrays of one shape, so that one program serves whatever is drawn.

Inside a degradation an image is in planes, (3, H, W): then both axes are those of matrix products
and of Fourier transforms.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Canvas(NamedTuple):
    """An image at the top left of a larger array; what lies beyond it means nothing.

    Attributes:
        planes: (3, H, W) float32.
        height, width: of the image, int32 scalars.
    """

    planes: Array
    height: Array
    width: Array

    @property
    def inside(self) -> Array:
        """(H, W) bool: where the image is."""
        _, height, width = self.planes.shape
        return (jnp.arange(height) < self.height)[:, None] & (jnp.arange(width) < self.width)


def from_image(image: Array) -> Canvas:
    """An image (H, W, 3) as a canvas that it fills."""
    height, width, _ = image.shape
    return Canvas(image.transpose(2, 0, 1), jnp.int32(height), jnp.int32(width))


def to_image(canvas: Canvas) -> Array:
    """The whole canvas as an image (H, W, 3)."""
    return canvas.planes.transpose(1, 2, 0)
