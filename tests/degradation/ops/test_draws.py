"""Numbers that are handed out one after another, as many as are asked for."""

import jax
import numpy as np
import pytest

from resshift_jax.degradation.ops.draws import happens, integer, uniform, with_numbers

KEY = jax.random.key(3)


def test_numbers_are_those_of_one_call():
    found = with_numbers(KEY, lambda u: (uniform(u, (0, 1)), happens(u, 0.5), uniform(u, (0, 2))))
    numbers = jax.random.uniform(KEY, (3,))
    np.testing.assert_array_equal(found[0], numbers[0])
    assert found[1] == (numbers[1] < 0.5)
    np.testing.assert_array_equal(found[2], 2 * numbers[2])


def test_arrays_are_those_of_one_call():
    found = with_numbers(KEY, lambda u: [integer(u, (1, 6)), uniform(u, (0, 1))], shape=(5,))
    numbers = jax.random.uniform(KEY, (2, 5))
    np.testing.assert_array_equal(found[0], 1 + np.floor(6 * numbers[0]))
    np.testing.assert_array_equal(found[1], numbers[1])


def test_another_number_of_them_is_an_error():
    calls = []

    def more_each_time(u):
        calls.append(None)
        return [u.next() for _ in calls]

    with pytest.raises(AssertionError, match="more numbers are asked for than were counted"):
        with_numbers(KEY, more_each_time)

    def fewer_each_time(u):
        calls.append(None)
        return [u.next() for _ in range(9 - len(calls))]

    with pytest.raises(AssertionError, match="fewer numbers"):
        with_numbers(KEY, fewer_each_time)
