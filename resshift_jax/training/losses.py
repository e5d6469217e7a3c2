"""The loss: parameters, training pairs, steps and noise in; each sample's loss and its terms out.

x_t ~ q(x_t | z_0, z_y);  the network predicts the chain's target from it, and z_0 follows;
loss = |target - prediction|^2, and terms that compare decode(z_0) with the image.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from resshift_jax.chain import Chain, make_chain
from resshift_jax.config import ModelConfig
from resshift_jax.degradation.pairs import Pair
from resshift_jax.nn.autoencoder import first_stage
from resshift_jax.nn.layers import space_to_depth
from resshift_jax.nn.lpips import LPIPS
from resshift_jax.nn.unet import SwinUNet
from resshift_jax.platform import matmul_precision
from resshift_jax.resize import upsample_bicubic
from resshift_jax.restore import known_part
from resshift_jax.training.config import LossConfig

Terms = dict[str, Array]
"""Name -> values (B,), one a sample."""


def sample_losses(
    params: Mapping[str, Any],
    frozen: Mapping[str, Any],
    pair: Pair,
    t: Array,
    noise: Array,
    place: Array | None = None,
    *,
    model: ModelConfig,
    loss: LossConfig,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Array, Terms]:
    """The loss of each sample, and the terms it is the weighted sum of.

    Args:
        params: of the network.
        frozen: {"first_stage": parameters, and those of LPIPS as "vgg", "alex" where needed}.
        pair: sides of the crops as in training; see `Pair`.
        t: (B,) int, steps of the chain.
        noise: (B, h', w', c) float32, standard normal, of the latent's shape.
        place: (B, 2) float32 in [0, 1), where loss.lpips_window lies, from top left to bottom
            right; None: in the middle.
        dtype: of the networks' computation.

    Returns:
        (B,) float32, and name -> (B,) float32: "mse", and what of "l1", "gradient", "spectrum",
        "lpips_vgg" and "lpips_alex" has a weight.
    """
    unet, stage = SwinUNet(model.unet, dtype), first_stage(model.first_stage, dtype)
    chain = make_chain(model.chain, in_pixels=model.first_stage.in_pixels)
    weights = {"params": frozen["first_stage"]}
    encode = partial(stage.apply, weights, method="encode")
    known, fill = known_part(pair.low, pair.mask)

    with jax.default_matmul_precision(matmul_precision(dtype)):
        z_0 = encode(pair.high)
        z_y = encode(upsample_bicubic(known, model.scale))
        x_t = chain.q_sample(z_0, z_y, t, noise)
        output = unet.apply({"params": params}, chain.scale_input(x_t, t), t, known, fill)
        target = chain.target_of(z_0, z_y, t, noise)
        terms = {"mse": squared_error(chain, target, output, t)}
        total = loss.mse * step_weight(chain, loss, t) * terms["mse"]

        wanted = {name: weight for name, weight in loss.image_terms.items() if weight}
        if wanted:
            whole = partial(
                image_terms, frozen,
                model=model, names=tuple(wanted), dtype=dtype, window=loss.lpips_window,
            )  # fmt: skip
            compare = one_by_one(whole) if loss.remat else whole
            place = jnp.full((len(t), 2), 0.5) if place is None else place
            terms |= compare(chain.predict_x0(output, x_t, z_y, t), pair.high, place)
    total += sum(weight * terms[name] for name, weight in wanted.items())
    return total, terms


def squared_error(chain: Chain, target: Array, output: Array, t: Array) -> Array:
    """(B,): the mean of (target - output)^2, in units of the noise for "epsilon_scale"."""
    error = jnp.square(target - output).mean((1, 2, 3))
    if chain.target == "epsilon_scale":
        error /= jnp.asarray(chain.schedule.kappa**2 * chain.schedule.etas, error.dtype)[t]
    return error


def step_weight(chain: Chain, loss: LossConfig, t: Array) -> Array:
    """(B,): the weight of each sample's squared error, by its step."""
    if loss.mse_weighting == "none":
        return jnp.ones(t.shape, jnp.float32)
    of_image = chain.target in ("x0", "residual")
    schedule = chain.schedule
    weights = schedule.loss_weight_x0 if of_image else schedule.loss_weight_epsilon
    return jnp.asarray(weights, jnp.float32)[t]


def image_terms(
    frozen: Mapping[str, Any],
    z_0: Array,
    image: Array,
    place: Array,
    *,
    model: ModelConfig,
    names: tuple[str, ...],
    dtype: DTypeLike,
    window: int | None = None,
) -> Terms:
    """What sets the decoded prediction (B, h', w', c) apart from the image (B, H, W, 3).

    LPIPS compares windows of side `window` at `place`, (B, 2) in [0, 1); None: everything.
    """
    stage = first_stage(model.first_stage, dtype)
    decoded = stage.apply({"params": frozen["first_stage"]}, z_0, method="decode")
    terms = {}
    for name in names:
        if name == "l1":
            terms[name] = jnp.abs(decoded - image).mean((1, 2, 3))
        elif name == "gradient":
            terms[name] = gradient_error(decoded - image)
        elif name == "spectrum":
            terms[name] = spectrum_error(decoded, image)
        else:
            network = name.removeprefix("lpips_")
            distance = partial(LPIPS(network, dtype).apply, {"params": frozen[network]})
            images = jnp.clip(decoded, -1, 1), image
            if window is not None:
                images = cut(images[0], place, window), cut(images[1], place, window)
            terms[name] = distance(*images)
    return terms


def cut(images: Array, place: Array, window: int) -> Array:
    """(B, H, W, C) -> (B, window, window, C), each at its place (B, 2) in [0, 1)."""
    room = jnp.array(images.shape[1:3]) - window + 1
    corners = jnp.floor(place * room).astype(jnp.int32)

    def one(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (window, window, image.shape[-1]))

    return jax.vmap(one)(images, corners)


def one_by_one(compare: Callable[..., Terms]) -> Callable[..., Terms]:
    """`compare` in the memory of one image: each is computed again for the gradient."""

    @jax.checkpoint
    def one(arrays: tuple[Array, ...]) -> Terms:
        terms = compare(*(array[None] for array in arrays))
        return {name: values[0] for name, values in terms.items()}

    return lambda *arrays: jax.lax.map(one, arrays)


# Rows: luma, and red and blue beside it.
_OPPONENT = np.array([[0.299, 0.587, 0.114], [0.701, -0.587, -0.114], [-0.299, -0.587, 0.886]])
_TILE = 16


def spectrum_error(x: Array, y: Array) -> Array:
    """Two images (B, H, W, 3) -> (B,): mean absolute difference of the amplitudes of their waves.

    Of all waves in tiles of 16x16 under a Hann window, which overlap by half, in luma and two
    differences of colour. Phases do not count: detail is to be as strong, not at the same place.
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


def gradient_error(difference: Array) -> Array:
    """(B, H, W, 3) -> (B,): mean absolute step between neighbours, of rows and of columns."""
    down, across = (jnp.diff(difference, axis=axis) for axis in (1, 2))
    return (jnp.abs(down).mean((1, 2, 3)) + jnp.abs(across).mean((1, 2, 3))) / 2
