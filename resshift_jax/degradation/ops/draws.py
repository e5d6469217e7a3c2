"""Random values, each from the next of the numbers that a key gives.

One call draws all numbers that an image needs: a call for each would take longer to compile than
what is done with them.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Numbers = Iterator[Array]


def numbers(key: Array, count: int, shape: tuple[int, ...] = ()) -> Numbers:
    """One after another, `count` float32 scalars, or arrays, drawn evenly from [0, 1)."""
    return iter(jax.random.uniform(key, (count, *shape), jnp.float32))


def uniform(u: Numbers, span: tuple[float, float]) -> Array:
    """Evenly from low to high, float32."""
    low, high = span
    return low + (high - low) * next(u)


def integer(u: Numbers, span: tuple[int, int]) -> Array:
    """A whole number from low to high, both included, int32."""
    low, high = span
    return low + jnp.floor((high + 1 - low) * next(u)).astype(jnp.int32)


def odd(u: Numbers, span: tuple[int, int]) -> Array:
    """An odd number from low to high, both odd and included, int32."""
    return 2 * integer(u, (span[0] // 2, span[1] // 2)) + 1


def happens(u: Numbers, probability: float) -> Array:
    """True with a probability, bool."""
    return next(u) < probability


def choice(u: Numbers, probabilities: Sequence[float]) -> Array:
    """An index, each with its probability, int32."""
    bounds = np.cumsum(probabilities)[:-1].astype(np.float32)
    return jnp.sum(next(u) >= bounds, dtype=jnp.int32)


def around_one(u: Numbers, span: tuple[float, float]) -> Array:
    """In half of the cases evenly from low to 1, in the others from 1 to high, float32."""
    low, high = span
    place = 2 * next(u) - 1
    return 1 + jnp.where(place < 0, 1 - low, high - 1) * place
