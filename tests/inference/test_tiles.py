"""Tiles: where they start, what they hold, and that blending gives back what was cut."""

import json

import numpy as np
import pytest
from conftest import FIXTURES, assert_close

from resshift_jax.inference.tiles import Blending, default_stride, make_grid, tile_starts, window

SIZES = [(1, 1), (8, 8), (9, 5), (16, 8), (17, 24), (33, 40), (8, 41)]


def grid_of(image, size=16, stride=12, multiple=8, align=4):
    return make_grid(image, size=size, stride=stride, multiple=multiple, align=align)


def photo(height, width):
    return np.random.default_rng(height * width).random((height, width, 3), dtype=np.float32)


def test_starts_are_those_of_the_published_sampler():
    for case, starts in json.loads((FIXTURES / "tile_starts.json").read_text()).items():
        length, size, stride = map(int, case.split("/"))
        assert list(tile_starts(length, size, stride)) == starts, case


def test_default_strides_are_those_of_the_published_sampler():
    assert {size: default_stride(size) for size in (512, 256, 64)} == {512: 448, 256: 224, 64: 48}
    assert default_stride(16) == default_stride(1) == 1


@pytest.mark.parametrize("image", SIZES)
def test_tiles_cover_every_pixel_and_fit_the_model(image):
    grid = grid_of(image)
    covered = np.zeros(grid.canvas, int)
    for row, column in grid.origins:
        assert row % 4 == column % 4 == 0
        covered[row : row + grid.tile[0], column : column + grid.tile[1]] += 1
    assert covered.min() > 0
    for side, tile, canvas in zip(image, grid.tile, grid.canvas, strict=True):
        assert tile % 8 == 0
        assert tile <= 16
        # No more is added than the model needs: whole windows, or whole latent pixels.
        assert 0 <= canvas - side < (8 if side <= 16 else 4)
        assert tile == 16 or canvas == tile


def test_an_image_that_fits_is_one_tile_reflected_to_the_multiple():
    image = photo(5, 9)
    (tile,) = grid_of((5, 9)).cut(image)
    rows, columns = [0, 1, 2, 3, 4, 3, 2, 1], [*range(9), 7, 6, 5, 4, 3, 2, 1]
    np.testing.assert_array_equal(tile, image[rows][:, columns])
    # Reflected again where the padding is longer than the side.
    (tile,) = grid_of((2, 1)).cut(photo(2, 1))
    np.testing.assert_array_equal(tile, photo(2, 1)[[0, 1] * 4][:, [0] * 8])


@pytest.mark.parametrize("blend", ["smooth", "even"])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("image", SIZES)
def test_blending_what_was_cut_gives_the_image_back(image, scale, blend):
    whole = photo(*image)
    grid = grid_of(image)
    blending = Blending(grid, scale, blend)
    order = np.random.default_rng(0).permutation(len(grid.origins))
    tiles = list(grid.cut(whole))
    for index in order:
        blending.add(index, tiles[index].repeat(scale, 0).repeat(scale, 1))
    assert blending.missing == 0
    assert_close(blending.image(), whole.repeat(scale, 0).repeat(scale, 1), 5e-7)


def test_a_smooth_window_takes_over_gradually_and_an_even_one_averages():
    """Two tiles, one black and one white, on a row of 28 pixels with four in common."""
    levels = {}
    for blend in ("smooth", "even"):
        blending = Blending(grid_of((8, 28)), 1, blend)
        blending.add(0, np.zeros((8, 16, 3), np.float32))
        blending.add(1, np.ones((8, 16, 3), np.float32))
        levels[blend] = blending.image()[0, :, 0]
    np.testing.assert_array_equal(levels["even"], np.repeat([0, 0.5, 1], [12, 4, 12]))
    smooth = levels["smooth"]
    np.testing.assert_array_equal(smooth[:12], 0)
    np.testing.assert_array_equal(smooth[16:], 1)
    assert (np.diff(smooth[11:17]) > 0).all()
    assert_close(smooth[12:16] + smooth[12:16][::-1], np.ones(4), 1e-6)
    assert np.diff(smooth).max() < 0.5


def test_windows_are_positive_and_symmetric():
    for size in (1, 2, 7, 2048):
        weights = window(size, "smooth")
        assert weights.min() > 0
        assert_close(weights, weights[::-1], 1e-12)


def test_tiles_without_overlap_are_laid_side_by_side():
    whole = photo(32, 48)
    grid = grid_of((32, 48), stride=16)
    assert grid.rows == (0, 16)
    assert grid.columns == (0, 16, 32)
    blending = Blending(grid, 1)
    for index, tile in enumerate(grid.cut(whole)):
        blending.add(index, tile)
    np.testing.assert_array_equal(blending.image(), whole)
