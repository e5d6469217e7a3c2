"""Masks against drawings of the same kinds by Pillow, and how often each kind is drawn."""

from functools import partial

import jax
import numpy as np
import pytest
from data_checks import assert_even, assert_share, drawn_shapes
from PIL import Image, ImageDraw

from resshift_jax.degradation import masks
from resshift_jax.degradation.masks import MaskConfig

DRAWS = 2000
SIZE = (192, 256)
CONFIG = MaskConfig()


def strokes_by_pillow(rng: np.random.Generator, size) -> np.ndarray:
    """A mask as its description in MaskConfig has it, with the lines of a drawing library."""
    height, width = size
    image = Image.new("1", (width, height))
    canvas = ImageDraw.Draw(image)
    for stroke in range(rng.integers(1, 7)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        for _ in range(rng.integers(1, 6)):
            angle = 0.01 + rng.integers(4)
            if stroke % 2 == 0:
                angle = 2 * np.pi - angle
            length, thickness = rng.integers(10, 210), int(rng.integers(5, 105))
            end_x = int(np.clip(int(x + length * np.sin(angle)), 0, width))
            end_y = int(np.clip(int(y + length * np.cos(angle)), 0, height))
            canvas.line((x, y, end_x, end_y), 1, thickness)
            for a, b in ((x, y), (end_x, end_y)):
                r = thickness / 2
                canvas.ellipse((a - r, b - r, a + r, b + r), 1)
            x, y = end_x, end_y
    return np.asarray(image)


def boxes_by_numpy(rng: np.random.Generator, size) -> np.ndarray:
    mask = np.zeros(size, bool)
    for _ in range(rng.integers(1, 5)):
        sides = rng.integers(30, 151, 2)
        top, left = (
            rng.integers(10, whole - 10 - side + 1) for whole, side in zip(size, sides, strict=True)
        )
        mask[top : top + sides[0], left : left + sides[1]] = True
    return mask


def outpainting_by_numpy(rng: np.random.Generator, size) -> np.ndarray:
    chosen = rng.random(4) < 0.5
    if not chosen.any():
        chosen[rng.integers(4)] = True
    mask = np.zeros(size, bool)
    for turn, edge in enumerate(chosen):
        if edge:  # at the top of the mask turned round
            turned = np.rot90(mask, turn)
            turned[: int(turned.shape[0] * rng.uniform(0.04, 0.25))] = True
    return mask


@pytest.mark.parametrize(
    ("draw", "reference"),
    [
        (masks.draw_strokes, strokes_by_pillow),
        (masks.draw_boxes, boxes_by_numpy),
        (masks.draw_outpainting, outpainting_by_numpy),
    ],
    ids=["strokes", "boxes", "outpainting"],
)
def test_coverage(draw, reference):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    found = np.asarray(jax.jit(jax.vmap(lambda key: draw(key, SIZE, CONFIG)))(keys))
    rng = np.random.default_rng(0)
    expected = np.stack([reference(rng, SIZE) for _ in range(DRAWS)])
    for which, summary in {
        "mean": lambda x: x.mean((1, 2)),
        "spread": lambda x: (x.mean((1, 2)) - x.mean()) ** 2,
        "top left": lambda x: x[:, :48, :64].mean((1, 2)),
        "centre": lambda x: x[:, 72:120, 96:160].mean((1, 2)),
        "bottom": lambda x: x[:, -16:].mean((1, 2)),
        "edges between": lambda x: (x[:, 1:] != x[:, :-1]).mean((1, 2)),
    }.items():
        a, b = summary(found), summary(expected)
        standard_error = ((a.var() + b.var()) / DRAWS) ** 0.5
        print(f"{which}: {a.mean():.4f}, expected {b.mean():.4f}")
        # Pillow's lines end and round otherwise by a fraction of a pixel.
        assert abs(a.mean() - b.mean()) <= 3.5 * standard_error + 0.001, which


KINDS = {
    "strokes": masks.draw_strokes,
    "boxes": masks.draw_boxes,
    "outpainting": masks.draw_outpainting,
}
NONE = dict.fromkeys(KINDS, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alone(kind):
    config = MaskConfig(**(NONE | {kind: 1.0}))
    for key in jax.random.split(jax.random.key(3), 3):
        found = masks.draw_mask(key, SIZE, config)
        assert found.shape == (*SIZE, 1)
        assert found.dtype == np.float32
        expected = KINDS[kind](jax.random.split(key)[1], SIZE, config)
        np.testing.assert_array_equal(found[..., 0], expected.astype(np.float32))


def test_kinds_have_their_shares():
    config = MaskConfig(strokes=0.5, boxes=0.2, outpainting=0.3)
    draw = jax.jit(jax.vmap(partial(masks.draw_mask, size=(64, 64), config=config)))
    filled = np.asarray(draw(jax.random.split(jax.random.key(1), DRAWS)))[..., 0] > 0
    assert filled.any((1, 2)).all()
    margin = np.ones((64, 64), bool)
    margin[10:-10, 10:-10] = False
    # Boxes leave the margin free. Outpainting leaves the centre free, and fills whole bands.
    free_margin = ~(filled & margin).any((1, 2))
    bands = (filled == filled.all(1)[:, None, :] | filled.all(2)[:, :, None]).all((1, 2))
    assert_share(free_margin, 0.2)
    assert_share(bands & ~filled[:, 20:44, 20:44].any((1, 2)), 0.3)


def test_sides_of_boxes_and_their_offsets():
    config = MaskConfig(box_count=(1, 1))
    keys = jax.random.split(jax.random.key(4), DRAWS)
    found = np.asarray(jax.jit(jax.vmap(lambda key: masks.draw_boxes(key, SIZE, config)))(keys))
    for axis, length in ((2, SIZE[0]), (1, SIZE[1])):
        line = found.any(axis)
        side, start = line.sum(1), line.argmax(1)
        assert (side.min(), side.max()) == (30, 150)
        assert_even(side + np.random.default_rng(0).random(DRAWS), (30, 151))
        assert start.min() == 10
        assert (start + side).max() == length - 10
        room = length - 20 - side + 1
        assert_even((start - 10 + np.random.default_rng(1).random(DRAWS)) / room, (0, 1))


def test_lengths_and_angles_of_strokes():
    """Of one thin segment from anywhere, as far as the image does not cut it off."""
    size = (600, 600)
    config = MaskConfig(stroke_count=(1, 1), stroke_segments=(1, 1), segment_width=(1, 1))
    draw = jax.jit(lambda keys: jax.lax.map(lambda k: masks.draw_strokes(k, size, config), keys))
    found = np.asarray(draw(jax.random.split(jax.random.key(5), 400)))
    lengths, slopes = [], []
    for mask in found:
        y, x = np.nonzero(mask)
        if min(x.min(), y.min()) > 0 and max(x.max(), y.max()) < 599:
            height, width = np.ptp(y), np.ptp(x)
            lengths.append(np.hypot(height, width))
            slopes.append(np.degrees(np.arctan2(width, height)))
    assert len(lengths) > 150
    assert 9 <= min(lengths) < 25
    assert 195 < max(lengths) <= 211
    # The angles against the columns: 0.01, 1.01, 2.01 and 3.01 radians, of which lines show less.
    expected = np.degrees([0.01, 1.01, np.pi - 2.01, np.pi - 3.01])
    nearest = np.abs(np.subtract.outer(slopes, expected)).min(1)
    assert np.median(nearest) < 1
    assert set(np.abs(np.subtract.outer(slopes, expected)).argmin(1)) == {0, 1, 2, 3}


def test_outpainting_shows_on_small_images():
    keys = jax.random.split(jax.random.key(6), DRAWS)
    draw = jax.jit(jax.vmap(lambda key: masks.draw_outpainting(key, (16, 16), CONFIG)))
    assert np.asarray(draw(keys)).any((1, 2)).all()


def test_the_same_key_the_same_mask():
    keys = jax.random.split(jax.random.key(2), 8)
    draw = partial(masks.draw_mask, size=SIZE, config=CONFIG)
    together = np.asarray(jax.jit(jax.vmap(draw))(keys))
    one = jax.jit(draw)
    alone = np.stack([one(key) for key in keys])
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together.reshape(8, -1), axis=0)) == 8


def test_an_image_without_room_for_boxes_is_refused_where_boxes_are_drawn():
    with pytest.raises(ValueError, match="masks of 64x20 asked for, more than 20 needed"):
        masks.draw_mask(jax.random.key(0), (20, 64), CONFIG)
    without = MaskConfig(strokes=0.5, boxes=0, outpainting=0.5)
    assert masks.draw_mask(jax.random.key(0), (20, 64), without).any()


def test_as_many_numbers_are_drawn_as_were_counted_by_hand(monkeypatch):
    """Their number is part of the result: 3 + 3 for each segment, 1 + 4 for each box, 9."""
    config = MaskConfig(stroke_count=(2, 9), stroke_segments=(1, 7), box_count=(2, 6))
    expected = {"strokes": [(1,), (3 + 3 * 7, 9)], "boxes": [(1 + 4 * 6,)], "outpainting": [(9,)]}
    for kind, draw in KINDS.items():
        shapes = drawn_shapes(monkeypatch, partial(draw, jax.random.key(0), SIZE, config))
        assert shapes == expected[kind]
    alone = MaskConfig(**(NONE | {"outpainting": 1.0}))
    draw_one = partial(masks.draw_mask, jax.random.key(0), SIZE, alone)
    assert drawn_shapes(monkeypatch, draw_one) == [(1,), (9,)]
