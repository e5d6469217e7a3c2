"""Random values, each from the next of the numbers that a key gives.

One call draws all numbers that an image needs: a call for each would take longer to compile than
what is done with them. How many that are is counted by running what draws them once before.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

T = TypeVar("T")


class Numbers:
    """Float32 scalars, or arrays of one shape, evenly from [0, 1), handed out one after another."""

    def __init__(self, values: Iterable[Array]):
        self._values = iter(values)
        self.used = 0

    def next(self) -> Array:
        """The next number. AssertionError: there is none left."""
        value = next(self._values, None)
        assert value is not None, "more numbers are asked for than were counted"
        self.used += 1
        return value


def with_numbers(
    key: Key[Array, ""], draw: Callable[[Numbers], T], shape: tuple[int, ...] = ()
) -> T:
    """draw(numbers), with as many numbers of a key as it asks for.

    `draw` is called twice, first to count them; it must ask for as many each time.

    shape: of each number, such as (N,) for N values that are drawn alike.
    """
    counter = Numbers(repeat(jnp.zeros(shape, jnp.float32)))
    jax.eval_shape(lambda: draw(counter))
    numbers = Numbers(jax.random.uniform(key, (counter.used, *shape), jnp.float32))
    values = draw(numbers)
    assert numbers.used == counter.used, "fewer numbers are asked for than were counted"
    return values


def uniform(u: Numbers, span: tuple[float, float]) -> Array:
    """Evenly from low to high, float32."""
    low, high = span
    return low + (high - low) * u.next()


def integer(u: Numbers, span: tuple[int, int]) -> Array:
    """A whole number from low to high, both included, int32."""
    low, high = span
    return low + jnp.floor((high + 1 - low) * u.next()).astype(jnp.int32)


def odd(u: Numbers, span: tuple[int, int]) -> Array:
    """An odd number from low to high, both odd and included, int32."""
    return 2 * integer(u, (span[0] // 2, span[1] // 2)) + 1


def happens(u: Numbers, probability: float) -> Array:
    """True with a probability, bool."""
    return u.next() < probability


def choice(u: Numbers, probabilities: Sequence[float]) -> Array:
    """An index, each with its probability, int32."""
    bounds = np.cumsum(probabilities)[:-1].astype(np.float32)
    return jnp.sum(u.next() >= bounds, dtype=jnp.int32)


def around_one(u: Numbers, span: tuple[float, float]) -> Array:
    """In half of the cases evenly from low to 1, in the others from 1 to high, float32."""
    low, high = span
    side = 2 * u.next() - 1
    return 1 + jnp.where(side < 0, 1 - low, high - 1) * side
