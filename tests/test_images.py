"""Image files: what is read of each kind, and what a mask is."""

import numpy as np
import pytest
from PIL import Image

from resshift_jax.images import ImageFileError, list_images, read_image, read_mask, write_png


def test_a_png_comes_back_bit_by_bit(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    write_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), image)


def test_grey_is_three_equal_colours_and_transparency_is_left_out(tmp_path):
    grey = np.arange(35, dtype=np.uint8).reshape(7, 5)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, -1))
    colours = np.dstack([grey, grey + 1, grey + 2, np.zeros_like(grey)])
    Image.fromarray(colours).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), colours[..., :3])


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.linspace(0, 65535, 35).astype(np.uint16).reshape(7, 5)
    Image.fromarray(grey).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")[..., 0]
    assert np.abs(found - grey / 257).max() <= 0.5


def test_a_mask_is_full_where_the_image_is_white(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    for name, image in (("grey", mask), ("colour", np.stack([mask] * 3, -1)), ("bit", mask > 0)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), mask)


def test_images_of_a_folder_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "c.jpeg", "d.txt", "e.npz"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "c.jpeg"]
    assert list_images(tmp_path / "d.txt") == [tmp_path / "d.txt"]


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_file_cut_anywhere_is_refused_by_name_or_whole(tmp_path, kind):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / f"a.{kind}")
    content = (tmp_path / f"a.{kind}").read_bytes()
    whole = read_image(tmp_path / f"a.{kind}")
    cut = tmp_path / f"cut.{kind}"
    messages = []
    for length in range(0, len(content), 13):
        cut.write_bytes(content[:length])
        try:
            np.testing.assert_array_equal(read_image(cut), whole)
        except ImageFileError as e:
            messages.append(str(e))
    assert len(messages) > 0.9 * len(content) / 13
    assert all(message.startswith(f"{cut}: ") for message in messages)
