"""Distillation into one step: a frozen teacher's samples are what a student is to predict.

As in SinSR (arXiv 2311.14760): from one draw x_T of the prior, the teacher's deterministic chain
leads to F. The student f_s(x, t) predicts z_0, and x_T where t is the first time-step; its input is
scaled as x_T is, whatever it may be. The terms of the student's loss are the three functions below.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from resshift_jax.chain import Chain
from resshift_jax.config import ModelConfig
from resshift_jax.latent_model import Cond, LatentModel
from resshift_jax.settings import leaves, require, to_dict

Latents = Float[Array, "b h w c"]
PerSample = Float[Array, "b"]

FIRST = 0
"""The time-step that stands for "predict x_T"; the last one stands for "predict z_0"."""


class Distillation(NamedTuple):
    """What the terms of distillation compare.

    Attributes:
        student: (x, t) -> f_s(x, t), latents (B, h, w, c) and one time-step for all.
        last: the last time-step.
        x_T: the draw from the prior, of which both begin.
        z_0: the latent of the image.
        prediction: f_s(x_T, last).
        taught: F, what the teacher's chain made of x_T; no gradient.
    """

    student: Callable[[Latents, int], Latents]
    last: int
    x_T: Latents
    z_0: Latents
    prediction: Latents
    taught: Latents


def distill_error(d: Distillation) -> PerSample:
    """|f_s(x_T, last) - F|^2: the teacher's whole chain in one step."""
    return _squared(d.prediction, d.taught)


def inverse_error(d: Distillation) -> PerSample:
    """|f_s(F, first) - x_T|^2: the way back."""
    return _squared(d.student(d.taught, FIRST), d.x_T)


def ground_truth_error(d: Distillation) -> PerSample:
    """|f_s(x, last) - z_0|^2 for x = f_s(z_0, first), without gradient: what leads to the image."""
    x = jax.lax.stop_gradient(d.student(d.z_0, FIRST))
    return _squared(d.student(x, d.last), d.z_0)


def _squared(x: Array, y: Array) -> Array:
    return jnp.square(x - y).mean((1, 2, 3))


def student_of(
    model: LatentModel, params: Mapping[str, Any], chain: Chain, z_y: Array, cond: Cond
) -> Callable[[Latents, int], Latents]:
    """f_s of a model of one step; its latents are not clipped, for x_T lies beyond the pixels'."""
    last = chain.schedule.num_steps - 1

    def student(x: Array, t: int) -> Array:
        timestep = jnp.full(x.shape[:1], t)
        output = model.predict(params, chain.scale_input(x, last), timestep, cond)
        return chain.x0_of(output, x, z_y, last)

    return student


def teach(
    teacher: LatentModel, params: Mapping[str, Any], noise: Array, z_y: Array, cond: Cond
) -> Latents:
    """F: where the teacher's deterministic chain leads from the x_T of this noise (B, h, w, c)."""
    one_step = teacher.config.chain.is_one_step
    chain = teacher.chain(sampler=None if one_step else "deterministic")
    taught = chain.sample(teacher.denoiser(params, cond), z_y, noise=lambda _: noise)
    return jax.lax.stop_gradient(taught)


def require_same_start(teacher: ModelConfig, student: ModelConfig) -> None:
    """Raises ConfigError unless one draw of the prior serves both, in one latent.

    Their networks, their numbers of steps and what these predict may differ.
    """

    def shared(config: ModelConfig) -> dict[str, Any]:
        chain, unet = config.chain, config.unet
        return leaves({
            "scale": config.scale,
            "chain": {"kappa": chain.kappa, "max_noise_level": chain.max_noise_level},
            "unet": {"image_size": unet.image_size, "cond_size": unet.cond_size,
                     "cond_mask": unet.cond_mask, "latent_channels": unet.latent_channels},
            "first_stage": to_dict(config.first_stage),
        })  # fmt: skip

    found, wanted = shared(teacher), shared(student)
    for key in wanted.keys() | found.keys():
        require(
            found.get(key) == wanted.get(key),
            f"loss.teacher: its model has {key}={found.get(key)}, the student's model.{key} is "
            f"{wanted.get(key)}; both must have the same",
        )
