"""The gradient of a batch: what is drawn for its samples, their losses, and the way back.

Each device takes its share of the batch, in parts one after the other; gradients are means over
all devices.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from resshift_jax.degradation.pairs import Pair
from resshift_jax.latent_model import LatentModel
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.discriminator import adversarial_error, hinge_loss, logits
from resshift_jax.training.losses import SampleLosses, Terms, sample_losses
from resshift_jax.training.mesh import AXES


class Gradients(NamedTuple):
    """Means over the batch; the last two are None where they are not needed.

    Attributes:
        params: of the loss, and of the discriminator's term where its weight is fixed.
        adversarial: of the discriminator's term alone, where its weight is adaptive.
        discriminator: of the discriminator's own loss.
    """

    params: Any
    adversarial: Any = None
    discriminator: Any = None


class Measured(NamedTuple):
    """What is measured of each sample, (B,).

    Attributes:
        loss: without the discriminator's term.
        terms: name -> values.
        t: its time-step.
    """

    loss: Array
    terms: Terms
    t: Array


def gradient_of_share(
    config: TrainingConfig,
    model: LatentModel,
    params: Any,
    discriminator: Any,
    weight: Array,
    frozen: Any,
    pairs: Pair,
    keys: Array,
) -> tuple[Gradients, Measured]:
    """The gradients, means over all devices, and what is measured of this share.

    Args:
        discriminator: its parameters, or None.
        weight: of its term, while that is fixed, ().
        keys: (B,) one a sample.
    """
    part = partial(gradient_of_part, config, model, params, discriminator, weight, frozen)
    count = config.micro_batches
    if count == 1:
        grads, measured = part(pairs, keys)
    else:
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), (pairs, keys))

        def accumulate(total: Gradients, one: tuple) -> tuple[Gradients, Measured]:
            grads, measured = part(*one)
            return jax.tree.map(lambda a, g: a + g / count, total, grads), measured

        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(part, *first)[0])
        grads, measured = jax.lax.scan(accumulate, zeros, parts)
        measured = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), measured)
    return jax.lax.pmean(grads, AXES), measured


def gradient_of_part(
    config: TrainingConfig,
    model: LatentModel,
    params: Any,
    discriminator: Any,
    weight: Array,
    frozen: Any,
    pairs: Pair,
    keys: Array,
) -> tuple[Gradients, Measured]:
    """As `gradient_of_share`, of samples that are computed together."""
    t, *drawn = jax.vmap(partial(draw, config))(keys)
    judge = partial(logits, config.discriminator, compute=model.compute)

    def losses(params: Any) -> tuple[tuple[Array, ...], tuple[SampleLosses, Terms]]:
        found = sample_losses(
            model, params, frozen, pairs, t, *drawn,
            loss=config.loss, with_image=discriminator is not None,
        )  # fmt: skip
        if found.image is None:
            return (found.total.mean(),), (found, found.terms)
        error = adversarial_error(judge(discriminator, found.image))
        return (found.total.mean(), error.mean()), (found, found.terms | {"adversarial": error})

    (loss, *_), back, (found, terms) = jax.vjp(losses, params, has_aux=True)
    one, image = jnp.ones_like(loss), found.image
    if image is None:
        return Gradients(*back((one,))), Measured(found.total, terms, t)

    adversarial = None
    if config.discriminator.adaptive:
        (grads,), (adversarial,) = back((one, 0 * one)), back((0 * one, one))
    else:
        (grads,) = back((one, weight))

    def learned(discriminator: Any) -> Array:
        return hinge_loss(judge(discriminator, pairs.hq), judge(discriminator, image))

    hinge, of_discriminator = jax.value_and_grad(learned)(discriminator)
    terms["discriminator"] = jnp.full(t.shape, hinge)
    return Gradients(grads, adversarial, of_discriminator), Measured(found.total, terms, t)


def draw(config: TrainingConfig, key: Array) -> tuple[Array, Array, Array]:
    """A time-step, the noise of a latent, and an offset in [0, 1)^2."""
    unet, num_timesteps = config.model.unet, config.model.chain.num_timesteps
    latent = unet.image_size, unet.image_size, unet.latent_channels
    t_key, noise_key = jax.random.split(jax.random.fold_in(key, 1))
    if config.timestep_probs is None:
        t = jax.random.randint(t_key, (), 0, num_timesteps, jnp.int32)
    else:
        probs = jnp.array(config.timestep_probs)
        t = jax.random.choice(t_key, num_timesteps, p=probs).astype(jnp.int32)
    offset = jax.random.uniform(jax.random.fold_in(key, 2), (2,))
    return t, jax.random.normal(noise_key, latent, jnp.float32), offset
