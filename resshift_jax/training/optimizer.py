"""AdamW: gradients, moments and parameters in, the next ones out; the learning rate by the step.

Decoupled weight decay (arXiv 1711.05101); eps beside the root of the second moment, as in PyTorch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from resshift_jax.training.config import OptimizerConfig


class Moments(NamedTuple):
    """Moving averages of gradients.

    Attributes:
        updates: so far, () int32.
        mean, square: of the gradient and of its square, trees like the parameters'.
    """

    updates: Array
    mean: Any
    square: Any


def learning_rate(config: OptimizerConfig, step: ArrayLike, steps: int) -> Array:
    """Of the update that follows `step` others, of `steps` in all; float32.

    It rises linearly over the warm-up, and then is constant or falls along half a cosine.
    """
    n = jnp.asarray(step, jnp.float32) + 1
    peak, last = config.learning_rate, config.final_learning_rate
    rate = jnp.full_like(n, peak)
    if config.decay == "cosine":
        progress = (n - 1 - config.warmup) / max(steps - 1 - config.warmup, 1)
        rate = last + (peak - last) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    if config.warmup:
        rate = jnp.minimum(n / config.warmup, 1) * rate
    return rate


def first_moments(params: Any) -> Moments:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Moments(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))


def next_moments(config: OptimizerConfig, grads: Any, norm: Array, moments: Moments) -> Moments:
    """The moments with a gradient of this norm, which is clipped first."""
    if config.clip_norm is not None:
        scale = jnp.minimum(1, config.clip_norm / norm)
        grads = jax.tree.map(lambda g: scale * g, grads)
    return Moments(
        moments.updates + 1,
        optax.tree.update_moment(grads, moments.mean, config.b1, 1),
        optax.tree.update_moment(grads, moments.square, config.b2, 2),
    )


def next_params(config: OptimizerConfig, rate: Array, moments: Moments, params: Any) -> Any:
    """The parameters after an update with these moments."""
    mean = optax.tree.bias_correction(moments.mean, config.b1, moments.updates)
    square = optax.tree.bias_correction(moments.square, config.b2, moments.updates)
    return jax.tree.map(
        lambda p, m, v: p - rate * (m / (jnp.sqrt(v) + config.eps) + config.weight_decay * p),
        params, mean, square,
    )  # fmt: skip
