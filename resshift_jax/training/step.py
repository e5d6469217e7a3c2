"""One training step, compiled: a state and a batch of pairs in, the next state and metrics out.

Each device computes the gradient of its share of the batch alone; the mean over devices, the update
and the moving average follow on the state as it is sharded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.config import BACKBONES
from resshift_jax.degradation.colours import change_colours
from resshift_jax.degradation.pairs import Pair, make_pairs
from resshift_jax.flops import count_flops
from resshift_jax.latent_model import LatentModel, flatten
from resshift_jax.platform import COMPUTE_DTYPES, compiler_options, compute_on
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.discriminator import DiscriminatorState, adaptive_weight
from resshift_jax.training.gradients import Gradients, gradient_of_share
from resshift_jax.training.losses import Terms
from resshift_jax.training.mesh import BATCH
from resshift_jax.training.optimizer import OPTIMIZERS, clipped, learning_rate
from resshift_jax.training.state import TrainingState, abstract_state

TIME_GROUPS = 4
"""Losses are reported by so many groups of time-steps, from the last of sampling to the first."""


class StepMetrics(NamedTuple):
    """What is measured of a step, float32 but for the counts of skipped steps.

    Attributes:
        loss: mean over the batch, ().
        terms: name -> mean over the batch, ().
        group_loss: mean loss of the samples in each group of time-steps, (TIME_GROUPS,); 0 if none.
        group_count: how many samples that were, (TIME_GROUPS,).
        grad_norm: of the whole gradient before clipping, ().
        learning_rate: of this step, ().
        skipped: steps skipped so far, (), and in a row until now, ().
    """

    loss: Array
    terms: Terms
    group_loss: Array
    group_count: Array
    grad_norm: Array
    learning_rate: Array
    skipped: Array
    skipped_in_a_row: Array


def latent_model(config: TrainingConfig, mesh: Mesh) -> LatentModel:
    """The model of a configuration, as it computes on these devices."""
    dtype = None if config.dtype == "auto" else COMPUTE_DTYPES[config.dtype]
    return LatentModel(config.model, compute_on(mesh.devices.flat[0].platform, dtype))


def step_flops(
    config: TrainingConfig, model: LatentModel, mesh: Mesh, state: Any, frozen: Any
) -> int:
    """Operations of a step, on all devices, without those that `loss.remat` does a second time."""
    once = replace(config, loss=replace(config.loss, remat=False))
    return count_flops(step_function(once, model, mesh), state, frozen, abstract_pairs(config))


def sample_keys(seed: int, step: Array, batch_size: int) -> Array:
    """(B,) keys: functions of the seed, the step and the index in the batch."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch_size, dtype=jnp.uint32))


def abstract_pairs(config: TrainingConfig) -> Any:
    """The shapes of a batch, as a Pair of jax.ShapeDtypeStruct."""
    hq, lq = config.data.crop.size, config.model.unet.cond_size
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    shapes: dict[str, Any] = {
        "hq": array((config.batch_size, hq, hq, 3)),
        "lq": array((config.batch_size, lq, lq, 3)),
    }
    if config.model.unet.cond_mask:
        shapes["mask"] = array((config.batch_size, lq, lq, 1))
    return Pair(**shapes)


def make_prepare(config: TrainingConfig, mesh: Mesh | AbstractMesh) -> jax.stages.Wrapped:
    """The compiled (step, images) -> pairs; images as in `make_pairs`, both on all devices."""
    batch = NamedSharding(mesh, BATCH)

    def share(keys: Array, images: Mapping[str, Array]) -> Pair:
        if config.colours.prob:
            # Degradations draw with what 0 to 3 give, folded in.
            colour_keys = jax.vmap(lambda key: jax.random.fold_in(key, 4))(keys)
            images = {**images, "hq": change_colours(colour_keys, images, config.colours)}
        return make_pairs(keys, images, config.degradation)

    local = jax.shard_map(
        share, mesh=mesh, in_specs=(BATCH, BATCH), out_specs=BATCH, check_vma=False
    )

    def prepare(step: Array, images: Mapping[str, Array]) -> Pair:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(
            sample_keys(config.seed, step, config.batch_size)
        )
        return local(jax.lax.with_sharding_constraint(keys, batch), images)

    return jax.jit(prepare, out_shardings=batch, compiler_options=_options(mesh))


def make_step(
    config: TrainingConfig, model: LatentModel, mesh: Mesh | AbstractMesh
) -> jax.stages.Wrapped:
    """`step_function`, compiled; the state that it is given is consumed."""
    state = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    return jax.jit(
        step_function(config, model, mesh),
        donate_argnums=0,
        out_shardings=(state, NamedSharding(mesh, P())),  # as it came, or it would compile again
        compiler_options=_options(mesh),
    )


def step_function(
    config: TrainingConfig, model: LatentModel, mesh: Mesh | AbstractMesh
) -> Callable[[TrainingState, Any, Pair], tuple[TrainingState, StepMetrics]]:
    """(state, frozen, pairs) -> (state, metrics).

    frozen: see `sample_losses`; a copy on each device. The state stays divided as it is given.
    """
    gradient = jax.shard_map(
        partial(gradient_of_share, config, model), mesh=mesh,
        in_specs=(P(), P(), P(), P(), BATCH, BATCH), out_specs=(P(), BATCH), check_vma=False,
    )  # fmt: skip

    def step(state: TrainingState, frozen: Any, pairs: Pair) -> tuple[TrainingState, StepMetrics]:
        keys = sample_keys(config.seed, state.step, config.batch_size)
        keys = jax.lax.with_sharding_constraint(keys, NamedSharding(mesh, BATCH))
        judge = None if state.discriminator is None else state.discriminator.params
        weight = config.discriminator.weight * (state.step >= config.discriminator.start)
        grads, (loss, terms, t) = gradient(state.params, judge, weight, frozen, pairs, keys)
        if grads.adversarial is not None:
            grads, weight = with_adversarial(config, grads, weight)
        if judge is not None:
            loss += weight * terms["adversarial"]
        next_state, grad_norm, rate = update(
            config, state, grads.params, loss.mean(), grads.discriminator
        )
        group_loss, group_count = by_group(loss, t, config.model.chain.num_timesteps)
        metrics = StepMetrics(
            loss=loss.mean(),
            terms={name: values.mean() for name, values in terms.items()},
            group_loss=group_loss,
            group_count=group_count,
            grad_norm=grad_norm,
            learning_rate=rate,
            skipped=next_state.skipped,
            skipped_in_a_row=next_state.skipped_in_a_row,
        )
        return next_state, metrics

    return step


def settled(sound: Array, old: Any, new: Any) -> Any:
    """A tree that changes in a sound step alone."""
    chosen = jax.tree.map(lambda o, n: jnp.where(sound, n, o), old, new)
    # Or XLA computes what follows from the gradient anew each time: twice the memory traffic.
    return jax.lax.optimization_barrier(chosen)


def with_adversarial(
    config: TrainingConfig, grads: Gradients, weight: Array
) -> tuple[Gradients, Array]:
    """The gradients with that of the discriminator's term in them, by its adaptive weight; that."""
    last = BACKBONES[config.model.unet.kind].last_layer
    assert last is not None  # or the configuration had been refused
    path = f"{last(config.model.unet)}/kernel"
    weight *= adaptive_weight(flatten(grads.params)[path], flatten(grads.adversarial)[path])
    params = jax.tree.map(lambda g, a: g + weight * a, grads.params, grads.adversarial)
    return grads._replace(params=params, adversarial=None), weight


def update(
    config: TrainingConfig,
    state: TrainingState,
    grads: Any,
    loss: Array,
    discriminator_grads: Any = None,
) -> tuple[TrainingState, Array, Array]:
    """The state after a step, the gradient's norm and the learning rate.

    Where the loss or a gradient is not finite, all but the counters stays as it was.
    """
    grad_norm = optax.tree.norm(grads)
    rate = learning_rate(config.optimizer, state.step, config.train_steps)
    sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if discriminator_grads is not None:
        sound &= jnp.isfinite(optax.tree.norm(discriminator_grads))

    discriminator = state.discriminator
    if discriminator is not None:
        discriminator = learned(config, discriminator, discriminator_grads, state.step, sound)
    params, optimizer = OPTIMIZERS[config.optimizer.kind].update(
        config.optimizer, clipped(config.optimizer, grads, grad_norm), rate,
        state.optimizer, state.params, partial(settled, sound),
    )  # fmt: skip
    ema = jax.tree.map(lambda e, p: config.ema * e + (1 - config.ema) * p, state.ema, params)
    next_state = TrainingState(
        step=state.step + 1,
        params=params,
        ema=settled(sound, state.ema, ema),
        optimizer=optimizer,
        skipped=state.skipped + (1 - sound),
        skipped_in_a_row=jnp.where(sound, 0, state.skipped_in_a_row + 1),
        discriminator=discriminator,
    )
    return next_state, grad_norm, rate


def learned(
    config: TrainingConfig, state: DiscriminatorState, grads: Any, step: Array, sound: Array
) -> DiscriminatorState:
    """The discriminator after a step; before its start, or in a step that is skipped, as it was."""
    settings, start = config.discriminator.optimizer, config.discriminator.start
    sound &= step >= start
    rate = learning_rate(settings, jnp.maximum(step - start, 0), config.train_steps - start)
    params, optimizer = OPTIMIZERS[settings.kind].update(
        settings, clipped(settings, grads, optax.tree.norm(grads)), rate,
        state.optimizer, state.params, partial(settled, sound),
    )  # fmt: skip
    return DiscriminatorState(params, optimizer)


def by_group(loss: Array, t: Array, num_timesteps: int) -> tuple[Array, Array]:
    """Mean loss and number of the samples in each of TIME_GROUPS groups of time-steps."""
    member = jax.nn.one_hot(t * TIME_GROUPS // num_timesteps, TIME_GROUPS)
    count = member.sum(0)
    return (member * loss[:, None]).sum(0) / jnp.maximum(count, 1), count


def _options(mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    if isinstance(mesh, AbstractMesh):  # lowered for another machine
        return {}
    return compiler_options(mesh.devices.flat[0].platform)
