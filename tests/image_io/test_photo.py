"""Image files: what is read of each kind, and what comes back."""

import struct

import numpy as np
import pytest
from image_samples import LOSSLESS, colours, png, rewritten, save, tiff
from PIL import Image

from resshift_jax.image_io import photo as images
from resshift_jax.image_io.photo import (
    ImageFileError,
    Photo,
    losses,
    read_mask,
    read_photo,
    write_photo,
)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_colours_are_read_bit_by_bit(tmp_path, kind):
    photo = read_photo(save(tmp_path / f"a.{kind}", colours(), **LOSSLESS[kind]))
    np.testing.assert_array_equal(photo.pixels, colours())
    assert photo.pixels.dtype == np.uint8
    assert (photo.grey, photo.alpha, photo.exif, photo.icc_profile) == (False, None, b"", b"")
    assert photo.notices == ()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("format", images.FORMATS)
def test_sides_of_one_pixel_go_in_and_out(tmp_path, height, width, format):
    flat = np.full((height, width, 3), 99, np.uint8)
    for grey in (False, True):
        back = rewritten(tmp_path, Photo(flat, grey), format)
        assert back.pixels.shape == flat.shape
        assert np.abs(back.pixels.astype(int) - 99).max() <= 2


def test_what_is_written_keeps_close_to_the_pixels(tmp_path):
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([3 * x, 255 - 3 * y, 2 * (x + y)], -1).astype(np.uint8)
    lines = smooth.copy()
    lines[::4] = (255, 0, 0)  # which colours of half the resolution would blur

    def error(image, format):
        back = rewritten(tmp_path, Photo(image), format).pixels
        return np.sqrt(np.mean((back.astype(float) - image) ** 2))

    assert error(lines, "png") == 0
    assert error(smooth, "jpg") < 1.5
    assert error(smooth, "webp") < 1.5
    save(tmp_path / "half.jpg", lines, quality=95)
    halved = np.sqrt(np.mean((read_photo(tmp_path / "half.jpg").pixels.astype(float) - lines) ** 2))
    assert error(lines, "jpg") < halved / 3


@pytest.mark.parametrize(
    ("name", "mode"), [("L.png", "L"), ("1.png", "1"), ("L.jpg", "L"), ("L.tif", "L")]
)
def test_grey_stays_grey(tmp_path, name, mode):
    source = Image.fromarray(colours()).convert(mode)
    photo = read_photo(save(tmp_path / name, source))
    assert photo.grey
    assert photo.pixels.shape == (7, 5, 3)
    assert np.ptp(photo.pixels, axis=-1).max() == 0
    for format in ("png", "jpg"):
        path = tmp_path / f"out.{format}"
        write_photo(path, photo, format)
        with Image.open(path) as image:
            assert image.mode == "L"
            if format == "png":
                np.testing.assert_array_equal(np.asarray(image), photo.pixels[..., 0])


def test_every_grey_comes_back_as_itself_and_colours_by_their_weight(tmp_path):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(rewritten(tmp_path, Photo(ramp, grey=True), "png").pixels, ramp)
    primary = np.diag([255, 255, 255]).astype(np.uint8)[None]
    back = rewritten(tmp_path, Photo(primary, grey=True), "png").pixels[0, :, 0]
    assert back.tolist() == [76, 150, 29]  # 255 times .299, .587, .114
    deep = rewritten(tmp_path, Photo((primary / 255).astype(np.float32), grey=True), "png").pixels
    np.testing.assert_allclose(deep[0, :, 0], [0.299, 0.587, 0.114], atol=1e-5)


def test_a_palette_is_read_as_its_colours(tmp_path):
    source = Image.fromarray(colours()).quantize(16)
    expected = np.asarray(source.convert("RGB"))
    for kind in ("png", "bmp", "tif"):
        photo = read_photo(save(tmp_path / f"a.{kind}", source))
        np.testing.assert_array_equal(photo.pixels, expected)
        assert photo.alpha is None


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_of_grey_are_exact_in_and_out(tmp_path, kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    photo = read_photo(save(tmp_path / f"a.{kind}", values))
    assert photo.pixels.dtype == np.float32
    assert photo.pixels.shape == (256, 256, 3)
    assert photo.grey
    np.testing.assert_allclose(photo.pixels[..., 1], values / 65535, atol=1e-7)
    write_photo(tmp_path / "b.png", photo, "png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), values)
    assert losses(photo, "png") == []
    for format in ("jpg", "webp"):
        assert losses(photo, format) == [f"{format} holds 8 bits"]
        back = rewritten(tmp_path, photo, format).pixels
        assert back.dtype == np.uint8
        assert np.abs(back[..., 0] - values / 257).mean() < 1


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", "<>")
def test_sixteen_bits_of_tiff_in_either_order_and_sense(tmp_path, order, compression):
    values = np.linspace(0, 65535, 12).astype(f"{order}u2").reshape(3, 4)
    path = tiff(tmp_path / "a.tif", order, values, 16, 1, compression=compression)
    np.testing.assert_allclose(read_photo(path).pixels[..., 0], values / 65535, atol=1e-7)
    if order == "<":  # the other is refused by Pillow
        path = tiff(tmp_path / "b.tif", order, values, 16, 0, compression=compression)
        np.testing.assert_allclose(read_photo(path).pixels[..., 0], 1 - values / 65535, atol=1e-7)


def test_twelve_bits_are_white_at_4095(tmp_path):
    path = tiff(tmp_path / "a.tif", "<", np.frombuffer(b"\xff\xf0\x00", np.uint8)[None], 12, 1)
    content = bytearray(path.read_bytes())
    content[18:22] = struct.pack("<I", 2)  # two pixels in three bytes
    path.write_bytes(content)
    assert read_photo(path).pixels[0, :, 0].tolist() == [1.0, 0.0]


def test_integers_are_read_as_sixteen_bits_where_they_fit(tmp_path):
    values = np.array([[0, 7, 65535]], np.int32)
    photo = read_photo(save(tmp_path / "a.tif", values))
    np.testing.assert_allclose(photo.pixels[..., 2], values / 65535, atol=1e-7)
    for wrong in (values - 1, values + 1, values.astype(np.float32)):
        with pytest.raises(ImageFileError, match=r"a\.tif: .* not read, save it with"):
            read_photo(save(tmp_path / "a.tif", wrong))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA"])
def test_sixteen_bits_of_colour_are_read_as_eight_and_said_so(tmp_path, kind):
    deep = np.random.default_rng(0).integers(0, 65536, (3, 4, len(kind))).astype(">u2")
    number = {"RGB": 2, "LA": 4, "RGBA": 6}[kind]
    rows = [row.tobytes() for row in deep]
    photo = read_photo(png(tmp_path / "a.png", 4, 3, 16, number, rows))
    assert photo.notices == ("16 bits a channel read as 8",)
    assert photo.grey == (kind == "LA")
    high = (deep >> 8).astype(np.uint8)
    np.testing.assert_array_equal(
        photo.pixels, high[..., :3] if "R" in kind else high[..., [0] * 3]
    )
    if "A" in kind:
        np.testing.assert_array_equal(photo.alpha, high[..., -1])


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", "<>")
def test_sixteen_bits_of_colour_in_tiff(tmp_path, order, compression):
    deep = np.random.default_rng(0).integers(0, 65536, (3, 4, 3)).astype(f"{order}u2")
    path = tiff(tmp_path / "a.tif", order, deep, 16, 2, samples=3, compression=compression)
    photo = read_photo(path)
    assert photo.notices == ("16 bits a channel read as 8",)
    np.testing.assert_array_equal(photo.pixels, deep >> 8)
    # In separate planes Pillow reads them only where they are compressed.
    planes = np.moveaxis(deep, -1, 0).copy()
    tiff(path, order, planes, 16, 2, planes=2, samples=3, compression=compression)
    if compression == 8:
        np.testing.assert_array_equal(read_photo(path).pixels, deep >> 8)
    else:
        with pytest.raises(ImageFileError, match="separate planes"):
            read_photo(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_goes_in_and_out(tmp_path, mode, format):
    array = np.dstack([colours(), colours(seed=1)[..., 0]])
    source = Image.fromarray(array).convert(mode)
    photo = read_photo(save(tmp_path / "a.png", source))
    assert photo.grey == (mode == "LA")
    np.testing.assert_array_equal(photo.alpha, array[..., 3])
    back = rewritten(tmp_path, photo, format)
    np.testing.assert_array_equal(back.alpha, array[..., 3])
    if format == "png":
        np.testing.assert_array_equal(back.pixels, np.asarray(source.convert("RGB")))
        assert back.grey == photo.grey
    assert losses(photo, format) == []
    assert losses(photo, "jpg") == ["jpg holds no transparency"]
    assert rewritten(tmp_path, photo, "jpg").alpha is None
    opaque = Photo(photo.pixels, alpha=np.full_like(photo.alpha, 255))
    assert losses(opaque, "jpg") == []


def test_a_transparent_colour_is_transparent_wherever_it_is(tmp_path):
    index = np.array([[0, 1, 2, 1]], np.uint8)
    hidden = [[255, 0, 255, 0]]
    for depth, scale in ((8, 1), (4, 17), (2, 85)):
        row = {8: index.tobytes(), 4: b"\x01\x21", 2: b"\x19"}[depth]
        photo = read_photo(png(tmp_path / "g.png", 4, 1, depth, 0, [row], (b"tRNS", b"\0\1")))
        assert photo.alpha.tolist() == hidden
        np.testing.assert_array_equal(photo.pixels[..., 0], index * scale)
        assert photo.grey
    photo = read_photo(png(tmp_path / "b.png", 4, 1, 1, 0, [b"\x50"], (b"tRNS", b"\0\1")))
    assert photo.alpha.tolist() == hidden
    grey = (index * np.uint16(4000)).astype(">u2")
    key = (b"tRNS", struct.pack(">H", 4000))
    photo = read_photo(png(tmp_path / "d.png", 4, 1, 16, 0, [grey.tobytes()], key))
    assert photo.alpha.tolist() == hidden
    np.testing.assert_allclose(photo.pixels[..., 0], grey / 65535, atol=1e-7)
    assert losses(photo, "png") == ["png with transparency is written with 8 bits"]
    assert rewritten(tmp_path, photo, "png").alpha.tolist() == hidden

    rgb = np.array([[9, 9, 9], [10, 20, 30], [10, 20, 31], [10, 20, 30]], np.uint8)
    key = (b"tRNS", struct.pack(">3H", 10, 20, 30))
    photo = read_photo(png(tmp_path / "c.png", 4, 1, 8, 2, [rgb.tobytes()], key))
    assert photo.alpha.tolist() == hidden
    np.testing.assert_array_equal(photo.pixels[0], rgb)
    table = (b"PLTE", rgb.tobytes()), (b"tRNS", b"\xff\x00\x80")
    photo = read_photo(png(tmp_path / "p.png", 4, 1, 8, 3, [index.tobytes()], *table))
    assert photo.alpha.tolist() == [[255, 0, 128, 0]]
    np.testing.assert_array_equal(photo.pixels[0], rgb[index[0]])


def test_a_restored_photo_keeps_all_but_its_pixels():
    alpha = np.tile(np.array([0, 0, 255, 255], np.uint8), (4, 1))
    photo = Photo(colours(4, 4), True, alpha, b"Exif\0\0", b"profile", ("said",))
    larger = photo.restored(colours(16, 16))
    np.testing.assert_array_equal(larger.pixels, colours(16, 16))
    assert (larger.grey, larger.exif, larger.icc_profile) == (True, b"Exif\0\0", b"profile")
    assert larger.notices == ("said",)
    assert larger.alpha.shape == (16, 16)
    assert larger.alpha.dtype == np.uint8
    middle = larger.alpha[8].astype(int)
    assert middle[0] == 0
    assert middle[-1] == 255
    assert (np.diff(middle[6:10]) > 0).all()  # neither nearest nor stretched
    assert len(set(middle[6:10])) == 4
    np.testing.assert_array_equal(photo.restored(colours(4, 4, 1)).alpha, alpha)
    assert Photo(colours()).restored(colours()).alpha is None


def test_of_several_images_the_first_is_read_and_said_so(tmp_path):
    first, second = (Image.fromarray(colours(seed=i)) for i in range(2))
    for kind in ("png", "webp", "tif"):
        path = tmp_path / f"a.{kind}"
        first.save(path, save_all=True, append_images=[second], **LOSSLESS[kind])
        photo = read_photo(path)
        np.testing.assert_array_equal(photo.pixels, colours())
        assert photo.notices == ("several images in one file, the first is read",)


def test_a_mask_is_full_where_the_image_is_white_whatever_its_alpha(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    mask[3, 5] = 200
    kinds = {
        "grey": mask,
        "colour": np.stack([mask] * 3, -1),
        "deep": mask * np.uint16(257),
        "alpha": np.dstack([mask, mask, mask, 255 - mask]),
    }
    for name, image in kinds.items():
        found = read_mask(save(tmp_path / f"{name}.png", image))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", mask > 0)), (mask > 0) * 255)
