"""Compression against the published operator and against a real encoder."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden
from data_checks import on_larger_canvas
from PIL import Image

from resshift_jax.degradation.ops import jpeg
from resshift_jax.degradation.ops.canvas import from_image, to_image

published, libjpeg = jax.jit(jpeg.compress), jax.jit(jpeg.compress_as_libjpeg)


def compressed(image: np.ndarray, quality: float, larger=False, by=published) -> np.ndarray:
    canvas = from_image(jnp.asarray(image, jnp.float32))
    canvas = on_larger_canvas(canvas) if larger else canvas
    height, width, _ = image.shape
    return np.asarray(to_image(by(canvas, jnp.float32(quality))))[:height, :width]


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


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("size", [(96, 128), (90, 101), (81, 113)])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95, 100])
def test_a_real_encoder(quality, size, larger):
    image = golden("degradation_ops")["image"][: size[0], : size[1]]
    image = np.round(255 * image).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    real = np.asarray(Image.open(file), np.float64)
    found = 255 * compressed(image / 255, quality, larger, by=libjpeg)
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)
    difference, change = np.abs(found - real).mean(), np.abs(real - image).mean()
    print(f"{difference:.2f} grey levels from the encoder, which is {change:.2f} from the image")
    # libjpeg computes with whole numbers throughout: a coefficient between two steps takes either.
    assert difference <= 1.5
    assert difference <= max(0.45 * change, 0.8)


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
