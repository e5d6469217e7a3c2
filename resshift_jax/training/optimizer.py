"""Gradients in, updates out: AdamW with the learning rate as a function of the step alone."""

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from resshift_jax.training.config import OptimizerConfig


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


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The updates before the learning rate, which are subtracted from the parameters."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay) if config.weight_decay else optax.identity(),
    )
