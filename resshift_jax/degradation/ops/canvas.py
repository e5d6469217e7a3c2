"""Images of any size in arrays of one shape, so that one program serves whatever is drawn.

Inside a degradation an image is in planes, (3, H, W): then both axes are those of matrix products
and of Fourier transforms.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

T = TypeVar("T")

BLOCK = 16
"""Sides of canvases are multiples of this, those of JPEG's blocks where chroma is halved."""


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
    def inside(self) -> Bool[Array, "H W"]:
        """(H, W) bool: where the image is."""
        _, height, width = self.planes.shape
        rows, columns = jnp.arange(height) < self.height, jnp.arange(width) < self.width
        return rows[:, None] & columns[None, :]


def from_image(image: Float[Array, "H W 3"]) -> Canvas:
    """An image (H, W, 3) as a canvas that it fills."""
    height, width, _ = image.shape
    return Canvas(image.transpose(2, 0, 1), jnp.int32(height), jnp.int32(width))


def to_image(canvas: Canvas) -> Float[Array, "H W 3"]:
    """The whole canvas as an image (H, W, 3)."""
    return canvas.planes.transpose(1, 2, 0)


def canvas_shape(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Of a canvas for images of `size` (H, W) times at most a factor."""
    height, width = (math.ceil(math.ceil(side * factor) / BLOCK) * BLOCK for side in size)
    return height, width


def on_canvas(
    function: Callable[[tuple[int, int], Canvas], T],
    canvas: Canvas,
    factor: Array,
    greatest: float,
    smaller: Sequence[float],
) -> T:
    """function(shape, canvas), with a shape that holds the canvas times the factor.

    Shapes are for the `greatest` factor there is and for `smaller` ones, increasing; the first that
    is large enough is used. They change how fast this is, not what it gives.
    """
    _, height, width = canvas.planes.shape
    factors = [*(some for some in smaller if some < greatest), greatest]
    branches = [partial(function, canvas_shape((height, width), some)) for some in factors]
    index = sum((factor > some for some in factors[:-1]), jnp.int32(0))
    result: T = jax.lax.switch(index, branches, canvas)
    return result


def for_each_image(
    one: Callable[..., Any], draws: Any, images: Array, smaller: Sequence[float]
) -> Any:
    """one(draws, image, smaller=...) of every image of a batch.

    CPUs take image after image, and so compute only what was drawn, on a canvas that fits it (see
    `on_canvas`); on other devices all images go together on the greatest one, and what was not
    drawn for an image is computed and not used.
    """
    in_turn = partial(one, smaller=smaller)
    return jax.lax.platform_dependent(
        draws,
        images,
        cpu=lambda *batch: jax.lax.map(lambda sample: in_turn(*sample), batch),
        default=jax.vmap(partial(one, smaller=())),
    )
