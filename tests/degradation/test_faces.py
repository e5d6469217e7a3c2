"""Degradation of faces: its steps by other means, how often each is drawn, one result."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES, assert_close
from data_checks import assert_even, assert_share, drawn_shapes
from PIL import Image

from resshift_jax.degradation import faces
from resshift_jax.degradation.faces import FacesConfig
from resshift_jax.degradation.ops import blur
from resshift_jax.degradation.ops.canvas import Canvas, to_image
from resshift_jax.degradation.ops.jpeg import compress_as_libjpeg
from resshift_jax.degradation.ops.noise import add_gaussian
from resshift_jax.degradation.ops.resize import BILINEAR, resize_to

CONFIG = FacesConfig()
SIDE = 64


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return np.asarray(Image.open(FIXTURES / "astronaut_300x200.jpg"))[:SIDE, 90 : 90 + SIDE]


@pytest.fixture(scope="module")
def apply():
    return jax.jit(partial(faces.degrade_face, config=CONFIG))


def draws(**changes) -> faces.FaceDraws:
    """Draws that leave a face nearly as it is, but for the changes."""
    drawn = faces.draw_face(jax.random.key(0), CONFIG)
    mild = drawn._replace(
        blur=drawn.blur._replace(kind=jnp.int32(blur.ISOTROPIC), sigma=jnp.full(2, 0.1)),
        reduction=jnp.float32(1),
        noise_sigma=jnp.float32(0),
        jpeg=jnp.float32(100),
        grey=jnp.bool_(False),
    )
    return mild._replace(**changes)


def test_without_blur_noise_and_compression_only_chroma_is_lost(apply, face):
    lq, hq = apply(draws(), face / np.float32(255))
    np.testing.assert_array_equal(hq, face / np.float32(255))
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(255 * np.asarray(lq) @ luma - face @ luma).mean() < 1
    assert_close(255 * lq, np.round(255 * lq), 1e-4)


def test_a_reduction_is_a_bilinear_one_and_back(apply, face):
    grey = face.mean(-1, keepdims=True).repeat(3, -1).astype(np.float32) / 255  # no chroma to lose
    lq, _ = apply(draws(reduction=jnp.float32(4)), grey)
    # Four times smaller without antialiasing: the mean of the two pixels around each centre.
    small = grey.reshape(16, 4, 16, 4, 3)[:, 1:3, :, 1:3].mean((1, 3))
    position = np.clip((np.arange(SIDE) + 0.5) / 4 - 0.5, 0, 15)
    weights = np.maximum(1 - np.abs(position[:, None] - np.arange(16)), 0)
    expected = np.einsum("ia,abc,jb->ijc", weights, small, weights)
    # The best quality still rounds pixels, coefficients and pixels again; then come 8 bits.
    assert_close(lq, expected, 2.5 / 255)
    assert np.abs(lq - expected).mean() < 0.5 / 255


def test_noise_and_blur_and_compression_do_what_they_are_named_for(apply, face):
    image = face / np.float32(255)
    mild = draws()
    lq = partial(apply, image=image)
    luma = np.array([0.299, 0.587, 0.114])  # which is compressed in full resolution
    added = 255 * np.asarray(lq(mild._replace(noise_sigma=jnp.float32(15)))[0] - lq(mild)[0]) @ luma
    assert added.std() == pytest.approx(15 * np.square(luma).sum() ** 0.5, rel=0.05)
    steps = lambda x: float(np.abs(np.diff(x, axis=1)).mean())  # noqa: E731
    wide = mild.blur._replace(sigma=jnp.full(2, 3.0))
    assert steps(lq(mild._replace(blur=wide))[0]) < 0.5 * steps(lq(mild)[0])
    compressed = lq(mild._replace(jpeg=jnp.float32(30)))[0]
    assert np.abs(compressed - image).mean() > 1.5 * np.abs(lq(mild)[0] - image).mean()


def test_grey_pairs_are_grey_in_both_images(apply, face):
    lq, hq = apply(draws(grey=jnp.bool_(True)), face / np.float32(255))
    expected = (face @ np.array([0.299, 0.587, 0.114]))[..., None].repeat(3, -1) / 255
    assert_close(hq, expected, 1e-6)
    np.testing.assert_array_equal(lq[..., 0], lq[..., 1])
    np.testing.assert_array_equal(lq[..., 0], lq[..., 2])


def test_the_whole_is_its_steps_one_by_one(apply, face):
    side = 80  # of a canvas for all: 64 / 0.8
    image = face / np.float32(255)
    planes = np.pad(image.transpose(2, 0, 1), ((0, 0), (0, side - SIDE), (0, side - SIDE)))
    whole = Canvas(jnp.asarray(planes), jnp.int32(SIDE), jnp.int32(SIDE))
    blurred = jax.jit(blur.blur, static_argnums=2)
    resized = jax.jit(lambda x, n: resize_to(x, (n, n), BILINEAR, (side, side)))
    with_noise, compressed = jax.jit(add_gaussian), jax.jit(compress_as_libjpeg)
    for key in jax.random.split(jax.random.key(6), 6):
        drawn = faces.draw_face(key, CONFIG)
        x = blurred(whole, drawn.blur, 41)
        x = resized(x, jnp.int32(SIDE / np.float32(drawn.reduction)))
        x = with_noise(x, drawn.noise_key, drawn.noise_sigma)
        x = compressed(x, drawn.jpeg)
        x = resized(x, jnp.int32(SIDE))
        difference = 255 * (apply(drawn, image)[0] - to_image(x)[:SIDE, :SIDE])
        assert np.abs(difference).max() <= 0.51  # the whole is rounded to 8 bits


def test_one_result_alone_and_in_a_batch(apply, face):
    keys = jax.random.split(jax.random.key(3), 6)
    images = np.stack([face, face[::-1], face[:, ::-1]] * 2)
    degrade = jax.jit(partial(faces.degrade_faces, config=CONFIG))
    lq, hq = degrade(keys, images)
    assert lq.shape == hq.shape == images.shape
    drawn = [faces.draw_face(key, CONFIG) for key in keys]
    for i, image in enumerate(images):
        expected, _ = apply(drawn[i], image / np.float32(255))  # on the greatest canvas
        difference = 255 * np.abs(lq[i] - expected)
        assert (difference > 0.5).mean() <= 0.005
    reversed_, _ = degrade(keys[::-1], images[::-1])
    np.testing.assert_array_equal(reversed_[::-1], lq)


def test_statistics():
    keys = jax.random.split(jax.random.key(4), 2000)
    drawn = jax.jit(jax.vmap(partial(faces.draw_face, config=CONFIG)))(keys)
    anisotropic = np.asarray(drawn.blur.kind) == blur.ANISOTROPIC
    assert_share(anisotropic, 0.5)
    assert_share(~anisotropic & (np.asarray(drawn.blur.kind) == blur.ISOTROPIC), 0.5)
    assert (np.asarray(drawn.blur.size) == 41).all()
    assert_even(drawn.blur.sigma[:, 0], (0.1, 15))
    assert_even(np.asarray(drawn.blur.sigma)[anisotropic, 1], (0.1, 15))
    assert_even(np.asarray(drawn.blur.rotation)[anisotropic], (-np.pi, np.pi))
    assert_even(drawn.reduction, (0.8, 32))
    assert_even(drawn.noise_sigma, (0, 20))
    assert_share(drawn.grey, 0.01)
    qualities = np.asarray(drawn.jpeg)
    assert (qualities == np.round(qualities)).all()
    assert_share(qualities < 65, 0.5)
    assert qualities.min() == 30
    assert qualities.max() == 99


def test_as_many_numbers_are_drawn_as_were_counted_by_hand(monkeypatch):
    draw = partial(faces.draw_face, jax.random.key(0), CONFIG)
    assert drawn_shapes(monkeypatch, draw) == [(8,)]
