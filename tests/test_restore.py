"""Whole restorations with tiny networks: sizes, types, batches, seeds, masks, kinds of stages."""

import zlib
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, TINY_INPAINTING, assert_close, jit, save_model

import resshift_jax
from resshift_jax.config import ModelConfig, PixelConfig, SpaceToDepthConfig
from resshift_jax.restore import restore

PIXELS = ModelConfig("own", 1, TINY.chain, TINY.unet, PixelConfig())
BLOCKS = ModelConfig(
    "own", 4, TINY.chain, replace(TINY.unet, latent_channels=48), SpaceToDepthConfig(block=4)
)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A model of stand-in weights for a configuration, from a file."""
    folder = tmp_path_factory.mktemp("models")

    def load(config, **options):
        path = save_model(folder / f"{config.task}_{config.first_stage.kind}.safetensors", config)
        return resshift_jax.load(path, **options)

    return load


@pytest.fixture(scope="module")
def model(load):
    return load(TINY)


@pytest.fixture(scope="module")
def inpainting(load):
    return load(TINY_INPAINTING)


def run(model, lq, keys, mask=None):
    """The pure function on whole arrays, compiled."""
    return jit(partial(restore, model.latent_model))(model.params, lq, keys, mask)


def photo(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(8, 12), (5, 9), (7, 12), (1, 1), (1, 7)])
def test_any_size_gives_its_multiple(model, size):
    out = model(photo(*size))
    assert out.shape == (2 * size[0], 2 * size[1], 3)
    assert out.dtype == np.uint8
    assert out.std() > 1


def test_an_image_is_reflected_to_full_windows_and_cropped(model):
    image = photo(5, 9)
    rows, columns = [0, 1, 2, 3, 4, 3, 2, 1], [*range(9), 7, 6, 5]
    lq = 2 * (image[rows][:, columns][None] / np.float32(255)) - 1
    key = jax.random.fold_in(jax.random.key(7), zlib.crc32(image.tobytes()))
    whole = run(model, lq, key[None])
    assert_close(model(image, seed=7), np.rint(127.5 * (whole[0, :10, :18] + 1)), 1)


def test_types(model):
    image = photo(5, 9)
    for kind in (np.float32, np.float64, np.float16):
        out = model(image.astype(kind) / kind(255))
        assert out.shape == (10, 18, 3)
        assert out.dtype == np.float32
        assert out.min() >= 0
        assert out.max() <= 1
        assert out.std() > 0.01


def test_the_type_of_the_pixels_does_not_change_the_result(model):
    image = photo(5, 9)
    for kind in (np.float32, np.float64, np.float16):
        as_float = model((image / 255).astype(kind))
        assert_close(np.rint(255 * as_float), model(image), 1)


def test_an_image_is_the_same_alone_and_in_any_batch(model):
    images = np.stack([photo(5, 9, seed=seed) for seed in range(3)]) / np.float32(255)
    together = model(images)
    assert together.shape == (3, 10, 18, 3)
    assert_close(model(images[::-1])[::-1], together, 1e-5)
    for image, restored in zip(images, together, strict=True):
        assert_close(model(image), restored, 1e-5)


def test_a_view_is_its_pixels(model):
    image = photo(9, 5)
    np.testing.assert_array_equal(
        model(image.transpose(1, 0, 2)), model(image.transpose(1, 0, 2).copy())
    )


def test_another_seed_is_another_sample_and_the_same_seed_the_same(model):
    image = photo(5, 9)
    first, again, other = (model(image, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 1


def test_fewer_steps_are_another_chain(model):
    image = photo(5, 9)
    assert np.abs(model(image, sampling_steps=2).astype(int) - model(image)).mean() > 1
    with pytest.raises(ValueError, match=r"^sampling_steps=0: at least 1"):
        model(image, sampling_steps=0)


def test_another_sampler_is_another_chain(model):
    image = photo(5, 9)
    outs = [model(image, sampler=name).astype(int) for name in resshift_jax.SAMPLERS]
    for i, one in enumerate(outs):
        for other in outs[i + 1 :]:
            assert np.abs(one - other).mean() > 0.5
    np.testing.assert_array_equal(model(image, sampler="ancestral"), model(image))


def test_options_are_fields_or_a_whole(model):
    image = photo(5, 9)
    options = resshift_jax.RestoreOptions(seed=3, sampling_steps=2)
    np.testing.assert_array_equal(
        model(image, options=options), model(image, seed=3, sampling_steps=2)
    )
    np.testing.assert_array_equal(
        model(image, None, options, seed=4), model(image, seed=4, sampling_steps=2)
    )
    with pytest.raises(TypeError, match=r"^steps: not an option, those are seed, sampling_steps, "):
        model(image, steps=2)


def test_a_shape_is_compiled_once(model):
    programs = model.programs()
    model(photo(5, 9))
    compiled = programs.count
    model(photo(8, 11, seed=1), seed=5)
    assert programs.count == compiled


def test_known_pixels_stay_as_they_are(inpainting):
    image = photo(20, 13)
    mask = np.zeros((20, 13), np.uint8)
    mask[4:11, 3:9] = 255
    out = inpainting(image, mask)
    assert out.shape == image.shape
    np.testing.assert_array_equal(out[mask == 0], image[mask == 0])
    assert np.abs(out.astype(int) - image)[mask == 255].mean() > 1
    batch = inpainting(image[None], mask[None])
    assert_close(batch[0], out, 1)


def test_pixels_to_fill_are_not_seen(inpainting):
    lq = jnp.asarray(2 * photo(24, 16)[None] / np.float32(255) - 1)
    mask = jnp.zeros((1, 24, 16, 1)).at[:, 4:11, 3:9].set(1)
    keys = jax.random.split(jax.random.key(0), 1)
    first = run(inpainting, lq, keys, mask)
    second = run(inpainting, jnp.where(mask == 1, 0.3, lq), keys, mask)
    np.testing.assert_array_equal(first, second)
    # A mask of one half lets half of the image through: at most half of the range may change.
    half = run(inpainting, lq, keys, mask / 2)
    np.testing.assert_array_equal(half[:, :4], lq[:, :4])
    assert jnp.abs(first - lq).max() > 1
    assert jnp.abs(half - lq).max() <= 1


@pytest.mark.parametrize("config", [PIXELS, BLOCKS], ids=["pixels", "blocks"])
def test_stages_without_parameters(load, config):
    exact = load(config)
    assert exact.params["first_stage"] == {}
    out = exact(photo(5, 9))
    assert out.shape == (5 * config.scale, 9 * config.scale, 3)
    assert out.std() > 1

    half = load(config, dtype="bfloat16")
    assert half.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    assert np.abs(half(photo(5, 9)).astype(int) - out).mean() < 4


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (photo(8), "lq: shape (8, 3) given"),
        (np.zeros((8, 8), np.uint8), "lq: shape (8, 8) given"),
        (np.zeros((8, 8, 4), np.uint8), "lq: shape (8, 8, 4) given"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), "lq: shape (1, 1, 8, 8, 3) given"),
        (np.zeros((0, 8, 3), np.uint8), "lq: shape (0, 8, 3) given"),
        (np.zeros((0, 8, 8, 3), np.uint8), "lq: shape (0, 8, 8, 3) given"),
        (np.zeros((8, 8, 3), np.int32), "lq: int32 given, uint8 or float"),
        (np.zeros((8, 8, 3), np.complex64), "lq: complex64 given"),
        (np.full((8, 8, 3), 255.0), "lq: values from 255.0 to 255.0 given"),
        (np.full((8, 8, 3), -0.1), "lq: values from -0.1"),
        (np.full((8, 8, 3), np.nan), "lq: values from nan"),
    ],
)
def test_arrays_that_are_no_images_are_refused(model, image, message):
    with pytest.raises(ValueError, match="lq") as caught:
        model(image)
    assert message in str(caught.value)


def test_masks_that_do_not_fit_are_refused(model, inpainting):
    image, mask = photo(8, 8), np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="realsrx2 takes no mask"):
        model(image, mask)
    with pytest.raises(ValueError, match="inpaint_imagenet needs a mask"):
        inpainting(image)
    for odd in (mask[:7], mask[None].repeat(2, 0), mask[..., None], np.zeros((0, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"mask: shape .* given"):
            inpainting(image, odd)
    for odd in (mask.astype(np.int64), np.full((8, 8), 2.0), np.full((8, 8), np.nan)):
        with pytest.raises(ValueError, match="mask: "):
            inpainting(image, odd)


def test_a_one_step_model(load):
    config = replace(TINY, chain=replace(TINY.chain, sampler="one_step"))
    one_step = load(replace(config, task="one_step"))
    assert one_step(photo(5, 9)).shape == (10, 18, 3)
    with pytest.raises(ValueError, match="sampling_steps=2: this model samples in one step"):
        one_step(photo(5, 9), sampling_steps=2)
