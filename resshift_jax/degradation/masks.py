"""Masks for inpainting: a key in, where to fill out.

The three kinds of LaMa (arXiv 2109.07161): thick strokes, boxes, and outpainting at the edges.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key

from resshift_jax.degradation.config import (
    Range,
    require_probabilities,
    require_ranges,
    require_shares,
)
from resshift_jax.degradation.ops.draws import (
    Numbers,
    choice,
    happens,
    integer,
    uniform,
    with_numbers,
)
from resshift_jax.settings import require, require_positive


@dataclass(frozen=True)
class MaskConfig:
    """Masks for inpainting, of one of three kinds (LaMa, arXiv 2109.07161).

    Attributes:
        strokes, boxes, outpainting: probabilities of the kinds, 1 in sum.
        stroke_count, stroke_segments: how many strokes, and how many segments each.
        segment_length, segment_width: in pixels, whole.
        box_count: how many boxes.
        box_side: in pixels, whole.
        box_margin: that boxes keep from the edges, in pixels.
        edge_prob: that an edge is chosen for outpainting; where none is, one of the four is.
        outpainting_share: of a side of the image, at each edge that is chosen.
    """

    kind: Literal["masks"] = "masks"
    strokes: float = 1 / 3
    boxes: float = 1 / 3
    outpainting: float = 1 / 3
    stroke_count: tuple[int, int] = (1, 6)
    stroke_segments: tuple[int, int] = (1, 5)
    segment_length: tuple[int, int] = (10, 209)
    segment_width: tuple[int, int] = (5, 104)
    box_count: tuple[int, int] = (1, 4)
    box_side: tuple[int, int] = (30, 150)
    box_margin: int = 10
    edge_prob: float = 0.5
    outpainting_share: Range = (0.04, 0.25)
    scale = 1

    def __post_init__(self) -> None:
        require_shares("degradation", self, "strokes", "boxes", "outpainting")
        require_probabilities("degradation", self, "edge_prob")
        ranges = (
            "stroke_count", "stroke_segments", "segment_length", "segment_width", "box_count",
            "box_side", "outpainting_share",
        )  # fmt: skip
        require_positive("degradation", self, *ranges)
        require_ranges("degradation", self, *ranges)
        require(
            self.box_margin >= 0,
            f"degradation.box_margin: {self.box_margin} given, 0 or more needed",
        )
        require(
            self.outpainting_share[1] < 0.5,
            f"degradation.outpainting_share: {self.outpainting_share} given, below a half needed",
        )


def draw_mask(
    key: Key[Array, ""], size: tuple[int, int], config: MaskConfig
) -> Float[Array, "h w 1"]:
    """The mask of a key, (H, W, 1) float32: 1 where to fill, 0 where the image is known.

    Raises:
        ValueError: a size that leaves no room for boxes.
    """
    kind_key, key = jax.random.split(key)
    shares = {
        draw_strokes: config.strokes,
        draw_boxes: config.boxes,
        draw_outpainting: config.outpainting,
    }
    shares = {kind: share for kind, share in shares.items() if share > 0}
    index = with_numbers(kind_key, lambda u: choice(u, list(shares.values())))
    kinds = [partial(kind, size=size, config=config) for kind in shares]
    mask: Array = jax.lax.switch(index, kinds, key)
    return mask[..., None].astype(jnp.float32)


def draw_strokes(
    key: Key[Array, ""], size: tuple[int, int], config: MaskConfig
) -> Bool[Array, "h w"]:
    """(H, W) bool: polygonal lines with round ends.

    A segment ends at its start + length * (sin, cos) of an angle of 0.01, 1.01, 2.01 or 3.01
    radians, or of 2 pi less one of them in the first, third and fifth stroke, in whole pixels and
    from 0 to the image's width and height.
    """
    height, width = size
    most, longest = config.stroke_count[1], config.stroke_segments[1]
    count_key, key = jax.random.split(key)
    strokes = jnp.arange(most)
    stroke_is_drawn = strokes < with_numbers(count_key, lambda u: integer(u, config.stroke_count))

    def draw_lines(u: Numbers) -> list[tuple[Array, Array, Array, Array]]:
        segments = integer(u, config.stroke_segments)
        start = jnp.stack([integer(u, (0, width - 1)), integer(u, (0, height - 1))], -1)
        lines = []
        for segment in range(longest):
            angle = 0.01 + integer(u, (0, 3))
            angle = jnp.where(strokes % 2 == 0, 2 * np.pi - angle, angle)
            length, thickness = integer(u, config.segment_length), integer(u, config.segment_width)
            step = length[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
            corner = np.array([[width, height]], np.int32)
            end = jnp.clip((start + step).astype(jnp.int32), 0, corner)
            lines.append((start, end, thickness, stroke_is_drawn & (segment < segments)))
            start = end
        return lines

    lines = with_numbers(key, draw_lines, shape=(most,))  # numbers with an item for each stroke
    return _near_lines(size, *(jnp.concatenate(parts) for parts in zip(*lines, strict=True)))


def _near_lines(
    size: tuple[int, int], starts: Array, ends: Array, widths: Array, drawn: Array
) -> Array:
    """(H, W) bool: the pixels within half a width of one of N line segments that are drawn.

    starts, ends: (N, 2) int32, x and y.
    """
    y, x = jnp.mgrid[: size[0], : size[1]].astype(jnp.float32)

    def add(mask: Array, line: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        start, end, width, is_drawn = line
        along = (end - start).astype(jnp.float32)
        from_x, from_y = x - start[0], y - start[1]
        squared_length = along[0] ** 2 + along[1] ** 2
        share = (from_x * along[0] + from_y * along[1]) / jnp.maximum(squared_length, 1)
        share = jnp.clip(share, 0, 1)
        distance = jnp.hypot(from_x - share * along[0], from_y - share * along[1])
        return mask | (is_drawn & (distance <= width / 2)), None

    mask, _ = jax.lax.scan(add, jnp.zeros(size, bool), (starts, ends, widths, drawn))
    return mask


def draw_boxes(
    key: Key[Array, ""], size: tuple[int, int], config: MaskConfig
) -> Bool[Array, "h w"]:
    """(H, W) bool: rectangles that keep a margin from the edges.

    Raises:
        ValueError: an image that is all margin.
    """
    if min(size) <= 2 * config.box_margin:
        raise ValueError(
            f"masks of {size[1]}x{size[0]} asked for, more than {2 * config.box_margin} needed: "
            f"boxes keep {config.box_margin} pixels from every edge"
        )

    def draw_all(u: Numbers) -> Array:
        count = integer(u, config.box_count)
        mask = jnp.zeros(size, bool)
        for box in range(config.box_count[1]):
            rows, columns = (_draw_interval(u, side, config) for side in size)
            mask |= (box < count) & rows[:, None] & columns[None, :]
        return mask

    return with_numbers(key, draw_all)


def _draw_interval(u: Numbers, length: int, config: MaskConfig) -> Array:
    """(length,) bool: a side of a box, at a random offset within the margins."""
    room = length - 2 * config.box_margin
    low, high = (min(side, room) for side in config.box_side)
    side = integer(u, (low, high))
    start = config.box_margin + jnp.floor((room - side + 1) * u.next()).astype(jnp.int32)
    index = jnp.arange(length)
    return (start <= index) & (index < start + side)


def draw_outpainting(
    key: Key[Array, ""], size: tuple[int, int], config: MaskConfig
) -> Bool[Array, "h w"]:
    """(H, W) bool: bands at the edges that are chosen, a share of the side and at least a pixel."""
    height, width = size

    def draw_all(u: Numbers) -> Array:
        chosen = jnp.stack([happens(u, config.edge_prob) for _ in range(4)])
        chosen |= ~chosen.any() & (jnp.arange(4) == integer(u, (0, 3)))
        top, bottom, left, right = (
            jnp.where(
                use, jnp.maximum(jnp.floor(uniform(u, config.outpainting_share) * side), 1), 0
            )
            for use, side in zip(chosen, (height, height, width, width), strict=True)
        )
        y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        return (y < top) | (y >= height - bottom) | (x < left) | (x >= width - right)

    return with_numbers(key, draw_all)
