"""A discriminator beside a training: what it costs the images made, and how it learns itself.

As in VQGAN (arXiv 2012.09841): -mean D(x') is added to the loss, with a weight, and D learns by the
hinge loss to tell the decoded predictions x' from the images x.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from resshift_jax.nn.layers import apply
from resshift_jax.nn.patch_gan import PatchGan, PatchGanConfig
from resshift_jax.platform import Compute
from resshift_jax.settings import require
from resshift_jax.training.mesh import AXES
from resshift_jax.training.optimizer import OPTIMIZERS, AdamWConfig, LearningRateConfig

Images = Float[Array, "b H W 3"]

MOST = 1e4
"""Greatest adaptive weight."""


@dataclass(frozen=True)
class DiscriminatorConfig(PatchGanConfig):
    """The discriminator of patches, and what it is good for; by default there is none.

    Attributes:
        weight: of its term; 0: there is no discriminator.
        adaptive: the weight is multiplied by the norm of the other terms' gradient over that of its
            term's, of the kernel of the backbone's last layer. It takes a second way back.
        start: the step after which it takes part, and begins to learn.
        optimizer: its own; the steps of warm-up and decay count from its start.
    """

    weight: float = 0.0
    adaptive: bool = False
    start: int = 0
    optimizer: Annotated[LearningRateConfig, OPTIMIZERS] = AdamWConfig(
        learning_rate=1e-4, warmup=0, b1=0.5, b2=0.9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "start"):
            value = getattr(self, name)
            require(
                0 <= value < math.inf,
                f"discriminator.{name}: {value} given, 0 or more needed",
            )


class DiscriminatorState(NamedTuple):
    """What a step changes of a discriminator.

    Attributes:
        params: of `PatchGan`, float32.
        optimizer: its state.
    """

    params: Any
    optimizer: Any


def init_discriminator(config: DiscriminatorConfig, key: Array) -> DiscriminatorState | None:
    """The state before the first step, random; None where there is no discriminator."""
    if not config.weight:
        return None
    side = config.least_side
    params = PatchGan(config).init(key, jnp.zeros((1, side, side, 3)))["params"]
    return DiscriminatorState(params, OPTIMIZERS[config.optimizer.kind].init(params))


def logits(config: PatchGanConfig, params: Any, images: Images, *, compute: Compute) -> Array:
    """D(images), (B, h, w, 1), of this device's share of a batch."""
    return apply(PatchGan(config, AXES, compute), params, images)


def adversarial_error(logits_fake: Array) -> Float[Array, "b"]:
    """-mean D(x') of each image."""
    return -logits_fake.mean((1, 2, 3))


def hinge_loss(logits_real: Array, logits_fake: Array) -> Float[Array, ""]:
    """0.5 (mean relu(1 - D(x)) + mean relu(1 + D(x')))."""
    return 0.5 * (jax.nn.relu(1 - logits_real).mean() + jax.nn.relu(1 + logits_fake).mean())


def adaptive_weight(of_others: Any, of_adversarial: Any) -> Float[Array, ""]:
    """Norm of the other terms' gradient over that of the adversarial one's, both of one kernel."""
    ratio = optax.tree.norm(of_others) / (optax.tree.norm(of_adversarial) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0, MOST))
