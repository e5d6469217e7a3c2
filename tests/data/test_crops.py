"""Squares that are cut from images: where from, by which weights, and which way round."""

import jax.numpy as jnp
import numpy as np
import pytest
from data_checks import assert_even, assert_share
from PIL import Image

from resshift_jax.data.config import CropConfig, InputError
from resshift_jax.data.crops import crop_pair
from resshift_jax.data.squares import METHODS, reduce_by_area, resize_short_side
from resshift_jax.resize import resize_opencv
from resshift_jax.settings import from_dict

DRAWS = 400


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def offsets(height, width):
    """An image that holds at each pixel where it is."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)


def crop(image, config, seed=0):
    hq, lq = crop_pair(image, None, np.random.default_rng(seed), config, 4)
    assert lq is None
    return hq


@pytest.mark.parametrize(
    ("height", "width", "size"), [(30, 30, 16), (17, 17, 16), (64, 64, 16), (45, 50, 16)]
)
def test_reduction_is_the_mean_of_the_area(height, width, size):
    image = noise(height, width)
    # Each pixel as size x size small ones, of which whole blocks then make each new pixel.
    small = image.astype(np.float64).repeat(size, 0).repeat(size, 1)
    expected = small.reshape(size, height, size, width, 3).mean((1, 3))
    found = reduce_by_area(image, size)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_reduction_by_whole_factors_is_that_of_pillow():
    image = noise(64, 64)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BOX)
    assert np.abs(reduce_by_area(image, 16).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "size"), [(40, 60, 16), (61, 40, 39), (9, 12, 32), (1, 5, 8)]
)
def test_the_short_side_is_resized_as_opencv_does(height, width, size):
    image = noise(height, width)
    found = resize_short_side(image, size)
    assert min(found.shape[:2]) == size
    assert abs(found.shape[0] / found.shape[1] - height / width) * width <= 0.5
    precise = resize_opencv(jnp.asarray(image[None], jnp.float32), found.shape[:2])[0]
    expected = np.rint(np.clip(precise, 0, 255))
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # halves that were rounded the other way


def test_a_short_side_of_that_size_stays_as_it_is():
    image = noise(16, 40)
    np.testing.assert_array_equal(resize_short_side(image, 16), image)


@pytest.mark.parametrize("method", ["random", "resized", "square"])
def test_crops_are_from_everywhere(method):
    size = 24
    image = offsets(size, 90) if method != "random" else offsets(60, 90)
    rooms = (37, 67) if method == "random" else (1, 67)
    config = CropConfig(method, size, "none")
    found = np.stack([crop(image, config, seed) for seed in range(DRAWS)])
    corner = found[:, :1, :1]
    np.testing.assert_array_equal(found, corner + offsets(size, size))
    for axis, room in enumerate(rooms):
        start = corner[:, 0, 0, axis]
        assert 0 <= start.min() <= start.max() < room
        if room > 1:
            assert_even((start + np.random.default_rng(axis).random(DRAWS)) / room, (0, 1))


def test_a_square_of_the_short_side_is_reduced():
    image = offsets(48, 96)
    found = crop(image, CropConfig("square", 24, "none"))
    # Of each two pixels the mean: 0.5, 2.5, 4.5, rounded to even numbers.
    assert np.abs(found[:, 0, 0] - (2 * np.arange(24) + 0.5)).max() <= 0.5
    assert np.all(np.diff(found[0, :, 1].astype(int)) == 2)


@pytest.mark.parametrize(("height", "width", "largest"), [(60, 90, 40), (32, 90, 32)])
def test_larger_squares_are_reduced(height, width, largest):
    """Of 16 to 40 pixels, each side as often; 32 is all that the second image has."""
    size = 16
    config = CropConfig("random", size, "none", max_reduction=2.5)
    found = np.stack([crop(offsets(height, width), config, seed) for seed in range(DRAWS)])
    first, last = found[:, 0, 0, :2].astype(float), found[:, -1, -1, :2].astype(float)
    # A pixel has the mean of its area, so the outermost are size - 1 areas apart; and is rounded.
    sides = (last - first).mean(1) * size / (size - 1)
    assert_even(sides, (size - 1, largest + 1))
    assert np.all(first.min(0) <= 2)
    assert np.all(last.max(0) >= np.array([height, width]) - 4)


@pytest.mark.parametrize("method", ["random", "square"])
@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 7), (40, 9)])
def test_small_images_are_mirrored_without_repeating_the_edge(method, height, width):
    size = 32
    found = crop(offsets(height, width), CropConfig(method, size, "none"), seed=3)
    start = int(found[0, 0, 0]) if height > size else 0

    def mirrored(n, side):
        if side == 1:
            return 0 * np.arange(n)
        turn = np.arange(n) % (2 * side - 2)
        return np.minimum(turn, 2 * side - 2 - turn)

    np.testing.assert_array_equal(found[:, 0, 0], start + mirrored(size, height))
    np.testing.assert_array_equal(found[0, :, 1], mirrored(size, width))


def draw_flips(flips, image):
    return [crop(image, CropConfig("random", 16, flips), seed) for seed in range(DRAWS)]


def test_horizontal_flips_mirror_half_of_the_images():
    image = noise(16, 16)
    found = draw_flips("horizontal", image)
    same = [np.array_equal(x, image) for x in found]
    assert_share(same, 0.5)
    assert all(np.array_equal(x, image[:, ::-1]) for x, s in zip(found, same, strict=True) if not s)


def test_dihedral_flips_are_all_eight():
    image = noise(16, 16)
    found = draw_flips("dihedral", image)
    ways = [np.rot90(way, turn) for way in (image, image[:, ::-1]) for turn in range(4)]
    for way in ways:
        assert_share([np.array_equal(x, way) for x in found], 1 / 8)


def test_without_flips_nothing_is_flipped():
    image = noise(16, 16)
    assert all(np.array_equal(x, image) for x in draw_flips("none", image))


@pytest.mark.parametrize("flips", ["none", "dihedral"])
@pytest.mark.parametrize(("height", "width"), [(20, 30), (3, 20), (2, 1)])
def test_pairs_stay_together(height, width, flips):
    """Also where they are mirrored since they are too small."""
    scale, size = 4, 32
    lq = noise(height, width)
    hq = lq.repeat(scale, 0).repeat(scale, 1)
    config = CropConfig("random", size, flips)
    seen = set()
    for seed in range(24):
        one, other = crop_pair(hq, lq, np.random.default_rng(seed), config, scale)
        assert other.shape == (size // scale, size // scale, 3)
        np.testing.assert_array_equal(one, other.repeat(scale, 0).repeat(scale, 1))
        seen.add(one.tobytes())
    assert len(seen) > 1 or flips == "none"


def test_pairs_that_cannot_be_cropped_alike_are_refused():
    hq, lq = noise(64, 64), noise(16, 16)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"data.crop.method: 'square' given.*random"):
        crop_pair(hq, lq, rng, CropConfig("square", 32), 4)
    with pytest.raises(InputError, match=r"data.crop.size: 30 given.*multiple of the scale \(4\)"):
        crop_pair(hq, lq, rng, CropConfig("random", 30), 4)


@pytest.mark.parametrize(
    ("method", "reduction"), [("random", 1), ("random", 2), ("resized", 1), ("square", 1)]
)
def test_the_same_generator_the_same_crop(method, reduction):
    image = noise(50, 70)
    config = CropConfig(method, 32, "dihedral", reduction)
    first, again = crop(image, config, 5), crop(image, config, 5)
    assert first.flags.c_contiguous
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


def test_a_method_is_one_function_and_one_row(monkeypatch):
    def corner(image, rng, size, max_reduction):
        return image[:size, :size]

    monkeypatch.setitem(METHODS, "corner", corner)
    config = from_dict(CropConfig, {"method": "corner", "size": 16, "flips": "none"})
    image = noise(50, 70)
    np.testing.assert_array_equal(crop(image, config), image[:16, :16])
