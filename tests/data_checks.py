"""Checks of what is drawn at random, and of images on canvases."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from resshift_jax.degradation.ops.canvas import Canvas


def assert_share(happened, probability: float) -> None:
    """How often something happened is within four standard errors of its probability."""
    happened = np.asarray(happened)
    allowed = 4 * (probability * (1 - probability) / len(happened)) ** 0.5
    print(f"{happened.mean():.3f} of {probability:.3f}, up to {allowed:.3f} off")
    assert abs(happened.mean() - probability) <= allowed + 1e-9


def assert_even(values, span: tuple[float, float]) -> None:
    """Values lie in a span and are evenly distributed (Kolmogorov and Smirnov, at 0.1 %)."""
    low, high = span
    values = np.sort(np.asarray(values, np.float64))
    n = len(values)
    assert n >= 20
    slack = 1e-6 * max(abs(low), abs(high))
    assert low - slack <= values[0] <= values[-1] <= high + slack
    share = (values - low) / (high - low)
    rank = np.arange(n)
    distance = max((share - rank / n).max(), ((rank + 1) / n - share).max())
    assert distance * n**0.5 < 1.95


def on_larger_canvas(canvas: Canvas, rows: int = 16, columns: int = 48) -> Canvas:
    """The same image with something else beside it."""
    padding = ((0, 0), (0, rows), (0, columns))
    planes = jnp.pad(canvas.planes, padding, constant_values=0.7)
    return canvas._replace(planes=planes)


def drawn_shapes(monkeypatch, draw: Callable[[], object]) -> list[tuple[int, ...]]:
    """The shapes that `draw` asks jax.random.uniform for: values depend on how many there are."""
    shapes, uniform = [], jax.random.uniform

    def recorded(key, shape=(), *args, **kwargs):
        shapes.append(tuple(shape))
        return uniform(key, shape, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "uniform", recorded)
        draw()
    return shapes
