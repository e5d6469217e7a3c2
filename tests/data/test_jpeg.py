"""Compression against the published operator and against a real encoder."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden
from data_checks import on_larger_canvas
from PIL import Image

from resshift_jax.data import jpeg
from resshift_jax.data.canvas import from_image, to_image

compress = jax.jit(jpeg.compress)


def compressed(
    image: np.ndarray, quality: float, larger: bool = False, steps=jpeg.published_steps
) -> np.ndarray:
    canvas = from_image(jnp.asarray(image, jnp.float32))
    canvas = on_larger_canvas(canvas) if larger else canvas
    height, width, _ = image.shape
    return np.asarray(to_image(compress(canvas, steps(jnp.float32(quality)))))[:height, :width]


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("name", ["30", "55", "80", "95", "40_90x101"])
def test_the_published_compression(name, larger):
    ops = golden("degradation_ops")
    (expected,) = ops[f"jpeg:{name}"]
    height, width, _ = expected.shape
    found = compressed(ops["image"][:height, :width], float(name.partition("_")[0]), larger)
    difference = np.abs(found - expected)
    print(f"more than 1/255 off: {(difference > 1 / 255).mean():.2%}, most {difference.max():.2g}")
    # Where a coefficient lies between two steps, rounding may take either.
    assert (difference > 1 / 255).mean() <= 1e-3
    assert (difference > 1e-5).mean() <= 1e-3


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95, 100])
def test_a_real_encoder(quality):
    image = np.round(255 * golden("degradation_ops")["image"]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    with Image.open(file) as read:
        real, tables = ycbcr(np.asarray(read)), read.quantization
    steps = jpeg.standard_steps(jnp.float32(quality))
    for i in range(2):
        np.testing.assert_array_equal(np.ravel(steps[i]), tables[i])

    found = ycbcr(255 * compressed(image / 255, quality, steps=jpeg.standard_steps))
    luma = np.abs(found[..., 0] - real[..., 0]).mean()
    # Decoders interpolate chroma, where the published operator repeats it: means of 2x2 compare.
    halves = (x[..., 1:].reshape(48, 2, 64, 2, 2).mean((1, 3)) for x in (found, real))
    chroma = np.abs(np.subtract(*halves)).mean()
    change = np.abs(real[..., 0] - ycbcr(image)[..., 0]).mean()
    print(f"luma {luma:.2f}, chroma {chroma:.2f} grey levels off; compression changes {change:.2f}")
    # What is left: encoders round colours and pixels to whole numbers, too.
    assert luma <= 0.8
    assert chroma <= 0.8
    if quality <= 95:
        assert luma < 0.75 * change


def ycbcr(image: np.ndarray) -> np.ndarray:
    weights = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    return image.astype(np.float64) @ np.transpose(weights)


def test_it_changes_next_to_nothing_at_the_best_quality_and_more_at_lower_ones():
    image = golden("degradation_ops")["image"]
    errors = [np.abs(compressed(image, q) - image).mean() for q in (100, 95, 70, 40, 10)]
    assert errors == sorted(errors)
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1)  # no chroma to lose
    assert np.abs(compressed(grey, 100) - grey).max() < 0.1 / 255


def test_a_quality_need_not_be_whole():
    image = golden("degradation_ops")["image"]
    between = compressed(image, 65.5)
    for whole in (65, 66):
        assert np.abs(between - compressed(image, whole)).mean() > 1e-4
    steps = [np.asarray(jpeg.published_steps(jnp.float32(q))) for q in (65, 65.5, 66)]
    np.testing.assert_allclose(steps[1], (steps[0] + steps[2]) / 2, rtol=1e-5)
