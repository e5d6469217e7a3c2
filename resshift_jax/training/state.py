"""The state of training: all that a step changes, and all that a resumed run needs."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh

from resshift_jax.latent_model import LatentModel
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.discriminator import DiscriminatorState, init_discriminator
from resshift_jax.training.mesh import with_shardings
from resshift_jax.training.optimizer import OPTIMIZERS


class TrainingState(NamedTuple):
    """What a step changes.

    Attributes:
        step: steps done, () int32.
        params: of the network, float32.
        ema: their exponential moving average.
        optimizer: its state, such as moments.
        skipped: steps that changed nothing, as their gradient was not finite; () int32.
        skipped_in_a_row: of those, the last ones.
        discriminator: a `DiscriminatorState`; None where there is none.
    """

    step: Array
    params: Any
    ema: Any
    optimizer: Any
    skipped: Array
    skipped_in_a_row: Array
    discriminator: DiscriminatorState | None = None


def init_state(config: TrainingConfig, params: Any = None) -> TrainingState:
    """The state before the first step; `params` as they are, or random ones of the seed."""
    if params is None:
        params = LatentModel(config.model).init(jax.random.key(config.seed))
    zero = jnp.zeros((), jnp.int32)
    return TrainingState(
        step=zero,
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=OPTIMIZERS[config.optimizer.kind].init(params),
        skipped=zero,
        skipped_in_a_row=zero,
        discriminator=init_discriminator(
            config.discriminator, jax.random.fold_in(jax.random.key(config.seed), 1)
        ),
    )


def abstract_state(config: TrainingConfig, mesh: Mesh | AbstractMesh) -> TrainingState:
    """The state's shapes, each with its sharding on the mesh."""
    return with_shardings(mesh, jax.eval_shape(partial(init_state, config)))


def sharded_init(config: TrainingConfig, mesh: Mesh, params: Any = None) -> TrainingState:
    """`init_state`, each array made where it belongs on the mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    initialize = jax.jit(partial(init_state, config), out_shardings=shardings)
    return initialize() if params is None else initialize(params)
