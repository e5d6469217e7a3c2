"""Masks for inpainting: a key in, where to fill out.

The three kinds of LaMa (arXiv 2109.07161): thick strokes, boxes, and outpainting at the edges.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from resshift_jax.degradation.config import MaskConfig
from resshift_jax.degradation.ops.draws import Numbers, choice, happens, integer, numbers, uniform


def draw_mask(key: Array, size: tuple[int, int], config: MaskConfig) -> Array:
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
    index = choice(numbers(kind_key, 1), list(shares.values()))
    kinds = [partial(kind, size=size, config=config) for kind in shares]
    return jax.lax.switch(index, kinds, key)[..., None].astype(jnp.float32)


def draw_strokes(key: Array, size: tuple[int, int], config: MaskConfig) -> Array:
    """(H, W) bool: polygonal lines with round ends.

    A segment ends at its start + length * (sin, cos) of an angle of 0.01, 1.01, 2.01 or 3.01
    radians, or of 2 pi less one of them in the first, third and fifth stroke, in whole pixels and
    from 0 to the image's width and height.
    """
    height, width = size
    most, longest = config.stroke_count[1], config.stroke_segments[1]
    count_key, key = jax.random.split(key)
    strokes = jnp.arange(most)
    stroke_is_drawn = strokes < integer(numbers(count_key, 1), config.stroke_count)

    u = numbers(key, 3 + 3 * longest, (most,))  # arrays with an item for each stroke
    segments = integer(u, config.stroke_segments)
    start = jnp.stack([integer(u, (0, width - 1)), integer(u, (0, height - 1))], -1)
    lines = []
    for segment in range(longest):
        angle = 0.01 + integer(u, (0, 3))
        angle = jnp.where(strokes % 2 == 0, 2 * np.pi - angle, angle)
        length, thickness = integer(u, config.segment_length), integer(u, config.segment_width)
        step = length[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
        end = jnp.clip((start + step).astype(jnp.int32), 0, np.array([[width, height]], np.int32))
        lines.append((start, end, thickness, stroke_is_drawn & (segment < segments)))
        start = end
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


def draw_boxes(key: Array, size: tuple[int, int], config: MaskConfig) -> Array:
    """(H, W) bool: rectangles that keep a margin from the edges.

    Raises:
        ValueError: an image that is all margin.
    """
    if min(size) <= 2 * config.box_margin:
        raise ValueError(
            f"masks of {size[1]}x{size[0]} asked for, more than {2 * config.box_margin} needed: "
            f"boxes keep {config.box_margin} pixels from every edge"
        )
    most = config.box_count[1]
    u = numbers(key, 1 + 4 * most)
    count = integer(u, config.box_count)
    mask = jnp.zeros(size, bool)
    for box in range(most):
        rows, columns = (_draw_interval(u, side, config) for side in size)
        mask |= (box < count) & rows[:, None] & columns[None, :]
    return mask


def _draw_interval(u: Numbers, length: int, config: MaskConfig) -> Array:
    """(length,) bool: a side of a box, evenly placed within the margins."""
    room = length - 2 * config.box_margin
    low, high = (min(side, room) for side in config.box_side)
    side = integer(u, (low, high))
    start = config.box_margin + jnp.floor((room - side + 1) * next(u)).astype(jnp.int32)
    place = jnp.arange(length)
    return (start <= place) & (place < start + side)


def draw_outpainting(key: Array, size: tuple[int, int], config: MaskConfig) -> Array:
    """(H, W) bool: bands at the edges that are chosen, a share of the side and at least a pixel."""
    u = numbers(key, 9)
    chosen = jnp.stack([happens(u, config.edge_prob) for _ in range(4)])
    chosen |= ~chosen.any() & (jnp.arange(4) == integer(u, (0, 3)))
    top, bottom, left, right = (
        jnp.where(use, jnp.maximum(jnp.floor(uniform(u, config.outpainting_share) * side), 1), 0)
        for use, side in zip(chosen, (size[0], size[0], size[1], size[1]), strict=True)
    )
    y, x = jnp.arange(size[0])[:, None], jnp.arange(size[1])[None, :]
    return (y < top) | (y >= size[0] - bottom) | (x < left) | (x >= size[1] - right)
