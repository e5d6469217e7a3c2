"""PSNR, SSIM and LPIPS: the fixture's values, plain computations, batches, images to refuse."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import assert_close, golden

from resshift_jax.evaluation.lpips import Lpips
from resshift_jax.evaluation.psnr_ssim import psnr, psnr_y, rgb_to_y, ssim, ssim_y

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (23, 37, 3), np.uint8)
B = np.clip(A + RNG.normal(0, 20, A.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fixture():
    return golden("resize_metrics")


@pytest.mark.parametrize(
    ("metric", "border", "key"),
    [
        (psnr, 0, "psnr_rgb"),
        (ssim, 0, "ssim_rgb"),
        (psnr_y, 0, "psnr_y"),
        (ssim_y, 0, "ssim_y"),
        (psnr_y, 4, "psnr_y_border4"),
        (ssim_y, 4, "ssim_y_border4"),
    ],
)
def test_the_fixtures_values(fixture, metric, border, key):
    found = metric(fixture["image"], fixture["upscaled"], border)
    assert isinstance(found, float)
    assert_close(found, fixture[key], 1e-6)


# Luma.


def test_the_fixtures_luma(fixture):
    np.testing.assert_array_equal(rgb_to_y(fixture["image"]), fixture["y_channel"], strict=True)


def test_luma_is_the_standards_rounded_exactly():
    extremes = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    colours = np.concatenate([extremes, RNG.integers(0, 256, (5000, 3))])
    weights = [Fraction(w, 255_000) for w in (65481, 128553, 24966)]
    exact = [16 + sum(w * int(c) for w, c in zip(weights, rgb, strict=True)) for rgb in colours]
    expected = [int(y + Fraction(1, 2)) for y in exact]
    assert expected[:2] == [16, 235]
    np.testing.assert_array_equal(rgb_to_y(colours.astype(np.uint8)[None])[0], expected)


# PSNR and SSIM.


def plain_ssim(a, b):
    """One channel, window by window from the definition, with variances about the means."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    a, b = a.astype(np.float64), b.astype(np.float64)
    values = []
    for i, j in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
        p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
        mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
        variances = (weights * ((p - mean_p) ** 2 + (q - mean_q) ** 2)).sum()
        covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
        luminance = (2 * mean_p * mean_q + 2.55**2) / (mean_p**2 + mean_q**2 + 2.55**2)
        values.append(luminance * (2 * covariance + 7.65**2) / (variances + 7.65**2))
    return np.mean(values)


@pytest.mark.parametrize("size", [(11, 11), (11, 37), (23, 11), (23, 37), (22, 26)])
def test_ssim_is_its_definition(size):
    a, b = (image[: size[0], : size[1]] for image in (A, B))
    channels = [plain_ssim(a[..., c], b[..., c]) for c in range(3)]
    assert_close(ssim(a[..., 1], b[..., 1]), channels[1], 1e-12)
    assert_close(ssim(a, b), np.mean(channels), 1e-12)


def test_psnr_is_its_definition():
    grey = np.full((5, 7), 100, np.uint8)
    assert_close(psnr(grey, grey + np.uint8(1)), 48.1308036086791, 1e-12)
    assert_close(psnr(grey, grey - np.uint8(100)), 8.1308036086791, 1e-12)
    one = grey.copy()
    one[2, 3] += 7  # 49 / 35 is the mean of the squares
    assert_close(psnr(one, grey), 10 * np.log10(255**2 * 35 / 49), 1e-12)


def test_equal_images():
    assert psnr(A, A) == psnr_y(A, A) == np.inf
    assert_close(ssim(A, A), 1.0, 1e-15)
    black = np.zeros_like(A)
    assert_close(ssim(black, black), 1.0, 1e-15)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_floats_are_in_the_range_of_bytes(metric):
    for dtype in (np.float32, np.float64):
        assert metric(A.astype(dtype), B.astype(dtype)) == metric(A, B)


@pytest.mark.parametrize("metric", [psnr, ssim, psnr_y, ssim_y])
def test_a_border_is_left_out_on_each_side(metric):
    assert metric(A, B, border=3) == metric(A[3:-3, 3:-3], B[3:-3, 3:-3])
    assert metric(A, B, border=3) != metric(A, B)


@pytest.mark.parametrize(
    ("metric", "a", "b", "border", "found"),
    [
        (psnr, A, B[:-1], 0, r"\(23, 37, 3\) of uint8 and \(22, 37, 3\) of uint8"),
        (psnr, A, B.astype(np.float32), 0, "of uint8 and .* of float32"),
        (psnr, A, B[..., 0], 0, r"\(23, 37\) of uint8"),
        (ssim, A.astype(np.int64), B.astype(np.int64), 0, "int64 found"),
        (ssim, A[..., :2], B[..., :2], 0, r"\(23, 37, 2\) found"),
        (ssim, A[None], B[None], 0, r"\(1, 23, 37, 3\) found"),
        (ssim, A[:10], B[:10], 0, "11x11 pixels .* 37x10 with a border of 0"),
        (ssim, A, B, 7, "11x11 pixels .* 37x23 with a border of 7"),
        (ssim_y, A[:, :10], B[:, :10], 0, "11x11 pixels .* 10x23 "),
        (psnr, A, B, 12, "1x1 pixels .* 37x23 with a border of 12"),
        (psnr, A, B, -1, "border of -1"),
        (psnr_y, A / 255, B / 255, 0, "of float64 found"),
        (psnr_y, A[..., 0], B[..., 0], 0, r"\(23, 37\) of uint8 found"),
    ],
)
def test_images_that_do_not_fit_are_told(metric, a, b, border, found):
    with pytest.raises(ValueError, match=found):
        metric(a, b, border)


# LPIPS of many pairs.


@pytest.fixture(scope="module")
def lpips():
    return Lpips("alex", batch_size=2)


@pytest.fixture(scope="module")
def pairs():
    a = RNG.integers(0, 256, (5, 32, 41, 3), np.uint8)
    return a, np.clip(a + RNG.normal(0, 60, a.shape), 0, 255).astype(np.uint8)


def test_lpips_of_the_fixture(fixture):
    a, b = [fixture["image"], fixture["image"][:, ::-1]], [fixture["upscaled"]] * 2
    expected = [fixture["lpips_alexnet"], fixture["lpips_alexnet_mirrored"]]
    assert_close(Lpips()(a, b), expected, 1e-5)


def test_any_number_of_pairs_gives_what_each_gives_alone_from_one_program(lpips, pairs):
    a, b = pairs
    alone = np.concatenate([lpips(a[i : i + 1], b[i : i + 1]) for i in range(5)])
    assert len(set(alone)) == 5
    for count in range(6):
        found = lpips(list(a[:count]), b[:count])
        assert found.dtype == np.float32
        assert_close(np.append(found, 0), np.append(alone[:count], 0), 1e-7)
    assert lpips._program._cache_size() == 1


def test_parameters_may_be_given(lpips, pairs):
    doubled = {**lpips._params, **{f"head{i}": 2 * lpips._params[f"head{i}"] for i in range(1, 6)}}
    a, b = (images[:2] for images in pairs)
    assert_close(Lpips(params=doubled, batch_size=2)(a, b), 2 * lpips(a, b), 1e-6)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda a, b: (a, b[:4]), "5 and 4 images"),
        (lambda a, b: (a, b[:, 1:]), r"\(31, 41, 3\) of uint8, \(32, 41, 3\) of uint8 found"),
        (lambda a, b: ([a[0], a[1, 1:]], b[:2]), r"\(31, 41, 3\) of uint8, "),
        (lambda a, b: (a / 255, b / 255), r"\(32, 41, 3\) of float64 found"),
        (lambda a, b: (a[:, 2:], b[:, 2:]), "41x30 pixels are too small for alex"),
        (lambda a, b: (a[..., :1], b[..., :1]), r"\(B, H, W, 3\) of one shape"),
    ],
)
def test_pairs_that_do_not_fit_are_told(lpips, pairs, change, found):
    with pytest.raises(ValueError, match=found):
        lpips(*change(*pairs))
