"""The three ranges of pixels, uint8 of 0..255, [0, 1] and [-1, 1], for NumPy and JAX alike.

"unit" is [0, 1] and "signed" [-1, 1], float32. Each conversion is written once: two formulas that
are equal on paper differ in the last bit.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


def unit_from_uint8(image: Pixels) -> Pixels:
    return image.astype(np.float32) / 255


def unit_from_signed(image: Pixels) -> Pixels:
    return (image + 1) / 2


def signed_from_unit(image: Pixels) -> Pixels:
    return 2 * image - 1


def signed_from_uint8(image: Pixels) -> Pixels:
    """With one rounding less than by way of [0, 1]: for what is measured."""
    return image.astype(np.float32) / 127.5 - 1


def uint8_from_unit(image: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
    """Clipped and rounded. overwrite: the memory of `image` may be used on the way."""
    out = image if overwrite else None
    clipped = np.clip(image, 0, 1, out=out)
    scaled = np.multiply(clipped, 255, out=clipped)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def uint8_from_signed(image: Any) -> np.ndarray:
    """Clipped and rounded, also of an array on a device."""
    return np.asarray(np.round((np.clip(np.asarray(image), -1, 1) + 1) * 127.5), np.uint8)


def in_8_bits(image: jax.Array) -> jax.Array:
    """[0, 1] clipped and rounded to multiples of 1/255, as float32."""
    return jnp.clip(jnp.round(255 * image), 0, 255) / 255


def as_unit(image: Pixels) -> Pixels:
    """uint8 as float32 in [0, 1]; floating point as it is, in float32.

    Raises:
        ValueError: whole numbers other than uint8.
    """
    if image.dtype == np.uint8:
        return unit_from_uint8(image)
    if not jnp.issubdtype(image.dtype, np.floating):
        raise ValueError(f"images of {image.dtype} given, uint8 or floats in [0, 1] needed")
    return image.astype(np.float32)
