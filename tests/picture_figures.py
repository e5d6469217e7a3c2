"""Figures of pictures that the tests compare: an image in, numbers out."""

import numpy as np
from PIL import Image

BLOCK = 4
BANDS = (0.0625, 0.125, 0.1875, 0.25, 0.375)  # edges, in cycles a pixel


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float64 in 16..235, not rounded."""
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def step_ratios(image: np.ndarray) -> np.ndarray:
    """(2, BLOCK): for each axis, the mean step at each phase over the mean of all."""
    y = luma(image)
    steps = [np.abs(np.diff(plane, axis=1)) for plane in (y, y.T)]
    means = np.array([[s[:, phase::BLOCK].mean() for phase in range(BLOCK)] for s in steps])
    return means / means.mean(1, keepdims=True)


def band_powers(image: np.ndarray) -> np.ndarray:
    """(4,): power of luma in each of the bands, of an image under a Hann window."""
    y = luma(image)
    height, width = y.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.square(np.abs(np.fft.fft2((y - y.mean()) * window)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return np.histogram(frequency, BANDS, weights=power)[0]


def bicubic(lq: np.ndarray, like: np.ndarray) -> np.ndarray:
    """An image enlarged to the size of another."""
    size = like.shape[1], like.shape[0]
    return np.asarray(Image.fromarray(lq).resize(size, Image.Resampling.BICUBIC))
