"""What belongs to an image: the way up, EXIF and colour profiles, through files and back."""

import random
import struct

import numpy as np
import pytest
from image_samples import (
    GREY,
    LOSSLESS,
    SRGB,
    camera,
    cmyk_profile,
    colours,
    exif_of,
    rewritten,
    save,
)
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from resshift_jax.image_io import photo as images
from resshift_jax.image_io.photo import losses, read_mask, read_photo

# pytest sets the filters anew for each test; that the package's own hold is tested by the fuzz.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

DAMAGED_EXIF = "a damaged EXIF block left out"
UNFIT_PROFILE = "a colour profile that does not fit the image left out"


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["png", "webp", "tif", "lzw.tif", "jpg"])
def test_photographs_are_turned_upright(tmp_path, kind, orientation):
    blocks = np.kron(colours(3, 2), np.ones((16, 16, 1), np.uint8))  # which JPEG keeps
    options = {
        "jpg": {"quality": 100, "subsampling": 0},
        "lzw.tif": {"compression": "tiff_lzw"} if 1 <= orientation <= 8 else {},
    }.get(kind) or LOSSLESS.get(kind, {})
    exif = Image.Exif()
    exif[274] = orientation
    exif[271] = "Maker"
    path = save(tmp_path / f"a.{kind}", blocks, exif=exif, **options)
    photo = read_photo(path)
    turned = {
        2: blocks[:, ::-1], 3: blocks[::-1, ::-1], 4: blocks[::-1], 5: blocks.swapaxes(0, 1),
        6: np.rot90(blocks, -1), 7: np.rot90(blocks, 2).swapaxes(0, 1), 8: np.rot90(blocks),
    }.get(orientation, blocks)  # fmt: skip
    assert photo.pixels.shape == turned.shape
    tolerance = 4 if kind == "jpg" else 0
    assert np.abs(photo.pixels.astype(int) - turned).max() <= tolerance
    assert dict(exif_of(photo)) == {271: "Maker"}
    for format in images.FORMATS:
        back = rewritten(tmp_path, photo, format)
        assert back.pixels.shape == turned.shape
        assert dict(exif_of(back)) == {271: "Maker"}


def test_alpha_deep_grey_and_masks_are_turned_too(tmp_path):
    array = np.dstack([colours(), colours(seed=1)[..., 0]])
    photo = read_photo(save(tmp_path / "a.png", array, exif=camera(6)))
    np.testing.assert_array_equal(photo.alpha, np.rot90(array[..., 3], -1))
    grey = colours()[..., 0]
    deep = read_photo(save(tmp_path / "b.png", grey * np.uint16(257), exif=camera(6)))
    np.testing.assert_allclose(deep.pixels[..., 0], np.rot90(grey, -1) / 255, atol=1e-7)
    mask = read_mask(save(tmp_path / "c.png", grey, exif=camera(6)))
    np.testing.assert_array_equal(mask, np.rot90(grey, -1))


def test_the_orientation_in_xmp_counts_as_for_pillow(tmp_path):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><r tiff:Orientation="6"/></x:xmpmeta>')
    path = save(tmp_path / "a.png", colours(), pnginfo=info)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, np.rot90(colours(), -1))
    assert photo.exif == b""
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), photo.pixels)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("format", images.FORMATS)
def test_exif_is_kept_in_all_its_parts(tmp_path, kind, format):
    photo = read_photo(save(tmp_path / f"a.{kind}", colours(), exif=camera(1).tobytes()))
    assert photo.notices == ()
    back = rewritten(tmp_path, photo, format)
    assert back.exif == photo.exif
    exif = exif_of(back)
    assert exif[271] == "Maker"
    assert exif[33432] == ("? Zo?" if kind == "tif" else "© Zoë")  # as it came into the file
    # Without the size, which is another after the restoration.
    assert exif.get_ifd(0x8769) == {36867: "2020:01:02 03:04:05", 37500: b"own"}
    assert exif.get_ifd(0x8825) == {1: "N", 2: (1.0, 2.0, 3.0)}
    assert set(exif) == {271, 33432, 0x8769, 0x8825}


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_damaged_exif_block_does_not_lose_the_photo(tmp_path, kind):
    whole = camera(6).tobytes()
    for damaged in (whole[:6] + b"no tiff at all", whole[:6] + b"II*\0" + b"\xff" * 20, whole[:9]):
        path = save(tmp_path / f"a.{kind}", colours(), exif=damaged)
        photo = read_photo(path)
        assert photo.pixels.shape == (7, 5, 3)
        assert photo.notices == (DAMAGED_EXIF,)
        assert photo.exif == b""
    where = whole.index(struct.pack(">HHI", 0x8825, 4, 1)) + 8
    adrift = whole[:where] + struct.pack(">I", 2**31) + whole[where + 4 :]
    photo = read_photo(save(tmp_path / f"a.{kind}", colours(), exif=adrift))
    assert photo.pixels.shape == (5, 7, 3)
    assert photo.notices == ("a part of the EXIF block without content left out",)
    assert exif_of(photo)[271] == "Maker"


def test_no_exif_that_can_be_read_keeps_a_photo_from_being_written(tmp_path):
    rng = random.Random(0)
    whole = camera(3).tobytes()
    kept = 0
    for _ in range(60):
        exif = bytearray(whole)
        for _ in range(rng.choice([1, 4, 20])):
            exif[rng.randrange(6, len(exif))] = rng.randrange(256)
        photo = read_photo(save(tmp_path / "a.webp", colours(2, 2), exif=bytes(exif)))
        kept += bool(photo.exif)
        for format in images.FORMATS:
            assert rewritten(tmp_path, photo, format).exif == photo.exif
    assert 10 < kept < 60


def test_exif_that_jpg_has_no_room_for_is_left_out_there(tmp_path):
    exif = Image.Exif()
    exif[0x8769] = {37500: bytes(66_000)}
    photo = read_photo(save(tmp_path / "a.png", colours(), exif=exif))
    assert len(photo.exif) > 66_000
    assert losses(photo, "jpg") == ["jpg holds no EXIF block above 64 KiB"]
    assert rewritten(tmp_path, photo, "jpg").exif == b""
    for format in ("png", "webp"):
        assert losses(photo, format) == []
        assert rewritten(tmp_path, photo, format).exif == photo.exif


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_a_profile_of_colours_is_kept_where_there_are_colours(tmp_path, kind):
    photo = read_photo(save(tmp_path / f"a.{kind}", colours(), icc_profile=SRGB))
    assert photo.icc_profile == SRGB
    for format in images.FORMATS:
        assert losses(photo, format) == []
        assert rewritten(tmp_path, photo, format).icc_profile == SRGB
    unsigned = SRGB.replace(b"acsp", b"ACSP")
    for wrong in (GREY, cmyk_profile(), b"garbage" * 40, SRGB[:-1], unsigned):
        photo = read_photo(save(tmp_path / f"a.{kind}", colours(), icc_profile=wrong))
        assert photo.icc_profile == b""
        assert photo.notices == (UNFIT_PROFILE,)


def test_a_profile_of_grey_is_kept_where_there_is_grey(tmp_path):
    grey = colours()[..., 0]
    photo = read_photo(save(tmp_path / "a.png", grey, icc_profile=GREY))
    for format in ("png", "jpg"):
        assert losses(photo, format) == []
        assert rewritten(tmp_path, photo, format).icc_profile == GREY
    assert losses(photo, "webp") == ["webp does not hold this colour profile"]
    assert rewritten(tmp_path, photo, "webp").icc_profile == b""
    photo = read_photo(save(tmp_path / "a.png", grey, icc_profile=SRGB))
    assert (photo.icc_profile, photo.notices) == (b"", (UNFIT_PROFILE,))


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk_becomes_srgb_by_its_profile_which_is_not_kept(tmp_path, kind):
    inks = Image.fromarray(np.kron(colours(2, 3), np.ones((16, 16, 1), np.uint8))).convert("CMYK")
    plain = read_photo(save(tmp_path / f"a.{kind}", inks))
    assert np.abs(plain.pixels - np.asarray(inks.convert("RGB")).astype(int)).mean() < 3
    assert plain.notices == ()
    photo = read_photo(save(tmp_path / f"a.{kind}", inks, icc_profile=cmyk_profile()))
    assert (photo.icc_profile, photo.notices, photo.grey) == (b"", (), False)
    assert np.ptp(photo.pixels) <= 4
    assert abs(int(photo.pixels[0, 0, 0]) - 119) <= 4  # L* 50 in sRGB
    useless = cmyk_profile()[:144] + b"garbage" * 500
    photo = read_photo(save(tmp_path / f"a.{kind}", inks, icc_profile=useless))
    np.testing.assert_array_equal(photo.pixels, plain.pixels)
    assert (photo.icc_profile, len(photo.notices)) == (b"", 1)
