"""Optimizers: gradients, their state and parameters in, the next ones out; the learning rate.

OPTIMIZERS has a row for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from resshift_jax.settings import require, require_positive

Settle = Callable[[Any, Any], Any]
"""(tree as it was, tree computed from it) -> the tree as it is to be."""


@dataclass(frozen=True)
class LearningRateConfig:
    """What the settings of all optimizers say.

    Attributes:
        kind: the name of the optimizer's row in OPTIMIZERS.
        learning_rate: after the warm-up.
        warmup: steps over which it rises linearly; step n of them is taken at n / warmup of it.
        decay: "cosine" falls to final_learning_rate at the last step.
        clip_norm: greatest norm of the gradient, None for any.
    """

    kind: str = ""
    learning_rate: float = 5e-5
    warmup: int = 5000
    decay: Literal["constant", "cosine"] = "constant"
    final_learning_rate: float = 2e-5
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        require_positive("optimizer", self, "learning_rate")
        for name in ("warmup", "final_learning_rate"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name}: {value} given, 0 or more needed")
        if self.clip_norm is not None:
            require_positive("optimizer", self, "clip_norm")


def learning_rate(config: LearningRateConfig, step: ArrayLike, train_steps: int) -> Array:
    """Of the update that follows `step` others, of `train_steps` in all; float32.

    It rises linearly over the warm-up, and then is constant or falls along half a cosine.
    """
    n = jnp.asarray(step, jnp.float32) + 1
    peak, last = config.learning_rate, config.final_learning_rate
    rate = jnp.full_like(n, peak)
    if config.decay == "cosine":
        progress = (n - 1 - config.warmup) / max(train_steps - 1 - config.warmup, 1)
        rate = last + (peak - last) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    if config.warmup:
        rate = jnp.minimum(n / config.warmup, 1) * rate
    return rate


def clipped(config: LearningRateConfig, grads: Any, norm: Array) -> Any:
    """The gradient, of this norm, with a norm of clip_norm at most."""
    if config.clip_norm is None:
        return grads
    scale = jnp.minimum(1, config.clip_norm / norm)
    return jax.tree.map(lambda g: scale * g, grads)


@dataclass(frozen=True)
class AdamWConfig(LearningRateConfig):
    """AdamW: `LearningRateConfig`, and decoupled weight decay (arXiv 1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer", self, "eps")
        require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay: {self.weight_decay} given, 0 or more needed",
        )
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}: {value} given, 0 to below 1 needed")


class Moments(NamedTuple):
    """The state of AdamW: moving averages of gradients.

    Attributes:
        updates: so far, () int32.
        mean, square: of the gradient and of its square, trees like the parameters'.
    """

    updates: Array
    mean: Any
    square: Any


def first_moments(params: Any) -> Moments:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Moments(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))


def adamw(
    config: AdamWConfig, grads: Any, rate: Array, state: Moments, params: Any, settle: Settle
) -> tuple[Any, Moments]:
    """One update; eps stands beside the root of the second moment, as in PyTorch.

    Optax's own AdamW gives the same bits, but its state has other names than that of earlier
    checkpoints, and it takes 1.1 times as long on a CPU: settled in between, the moments are read
    once for what follows from them.
    """
    moments = Moments(
        state.updates + 1,
        optax.tree.update_moment(grads, state.mean, config.b1, 1),
        optax.tree.update_moment(grads, state.square, config.b2, 2),
    )
    moments = settle(state, moments)
    mean = optax.tree.bias_correction(moments.mean, config.b1, moments.updates)
    square = optax.tree.bias_correction(moments.square, config.b2, moments.updates)
    new = jax.tree.map(
        lambda p, m, v: p - rate * (m / (jnp.sqrt(v) + config.eps) + config.weight_decay * p),
        params, mean, square,
    )  # fmt: skip
    return settle(params, new), moments


class Optimizer(NamedTuple):
    """A row of OPTIMIZERS.

    Attributes:
        settings: a `LearningRateConfig` whose `kind` is the row's name.
        init: params -> state before the first update, a tree of arrays.
        update: (settings, clipped gradient, learning rate, state, params, settle) -> (params,
            state). Both must have gone through `settle`, which keeps them where the gradient is
            not finite; to settle in between is a matter of speed.
    """

    settings: type[LearningRateConfig]
    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Array, Any, Any, Settle], tuple[Any, Any]]


OPTIMIZERS: dict[str, Optimizer] = {"adamw": Optimizer(AdamWConfig, first_moments, adamw)}
