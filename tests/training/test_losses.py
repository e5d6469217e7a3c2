"""The loss against the published networks, and its terms against what they are said to be."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    MINI_UNET,
    MINI_VQ,
    TINY,
    TINY_INPAINTING,
    assert_close,
    golden,
    jit,
    manifest_state,
    stored,
    variables_of,
)

from resshift_jax.chain import make_chain
from resshift_jax.config import ChainConfig, ModelConfig, PixelConfig, UNetConfig
from resshift_jax.data.config import CropConfig, DataConfig
from resshift_jax.degradation.pairs import Pair
from resshift_jax.latent_model import LatentModel, flatten
from resshift_jax.nn.autoencoder import SpaceToDepthConfig
from resshift_jax.platform import Compute
from resshift_jax.schedule import make_schedule
from resshift_jax.settings import ConfigError
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.image_terms import (
    ImageContext,
    amplitudes,
    colour_error,
    cut,
    phase_error,
    spectrum_error,
)
from resshift_jax.training.losses import (
    LossConfig,
    compare_images,
    sample_losses,
    squared_error,
    step_weight,
)
from resshift_jax.training.optimizer import AdamWConfig
from resshift_jax.training.state import init_state
from resshift_jax.training.step import update
from resshift_jax.weights import zoo
from resshift_jax.weights.lpips import load_lpips
from resshift_jax.weights.mapping import to_torch, unet_rules

MINI = ModelConfig("mini", 4, zoo.FIFTEEN_STEPS, MINI_UNET, MINI_VQ)


@pytest.mark.slow
def test_three_published_steps():
    """Losses, gradient and parameters as the published networks had them under AdamW."""
    expected = golden("mini_training")
    config = TrainingConfig(
        model=MINI, data=DataConfig(crop=CropConfig(size=64)), batch_size=2,
        optimizer=AdamWConfig(learning_rate=5e-5, warmup=0),
    )  # fmt: skip
    params = variables_of(stored(manifest_state("unet")), MINI_UNET)["params"]
    frozen = {"first_stage": variables_of(stored(manifest_state("autoencoder")), MINI_VQ)["params"]}
    pair = Pair(jnp.asarray(expected["gt"]), jnp.asarray(expected["lq"]))

    def mean_loss(params, t, noise):
        loss, terms, _ = sample_losses(
            LatentModel(MINI), params, frozen, pair, t, noise, loss=config.loss
        )
        return loss.mean(), (loss, terms)

    @jit
    def step(state, t, noise):
        grads, (loss, terms) = jax.grad(mean_loss, has_aux=True)(state.params, t, noise)
        return *update(config, state, grads, loss.mean()), grads, loss, terms

    def released(tree) -> dict[str, np.ndarray]:
        flat = {name: np.asarray(value) for name, value in flatten(tree).items()}
        return to_torch(flat, unet_rules(MINI_UNET))

    state = init_state(config, params)
    for i in range(3):
        t, noise = jnp.asarray(expected["t"][i], jnp.int32), jnp.asarray(expected["noise"][i])
        state, norm, rate, grads, loss, terms = step(state, t, noise)
        np.testing.assert_allclose(loss, expected["mse"][i], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(loss, terms["mse"])
        assert rate == np.float32(5e-5)
        if i == 0:
            assert abs(norm / expected["grad_global_norm"] - 1) <= 1e-4
            ours = released(grads)
            for name in (key for key in expected if key.startswith("grad:")):
                greatest = np.abs(expected[name]).max()
                difference = np.abs(ours[name.removeprefix("grad:")] - expected[name]).max()
                assert difference <= 1e-4 * greatest, name
    ours = released(state.params)
    differences = np.concatenate([
        np.abs(ours[name.removeprefix("after3:")] - expected[name]).ravel()
        for name in expected if name.startswith("after3:")
    ])  # fmt: skip
    print(
        f"parameters: {differences.max():.2g} at most, {(differences <= 1e-6).mean():.5%} to 1e-6"
    )
    assert (differences <= 1e-6).mean() >= 0.999
    assert differences.max() <= 1e-4


@pytest.mark.parametrize("target", ["x0", "residual", "epsilon", "epsilon_scale"])
def test_weights_of_the_bound(target):
    """Whatever is predicted, the weighted error is that of x_0, (alpha / eta)^2 / (2 variance)."""
    config = ChainConfig(num_timesteps=4, min_noise_level=0.2, target=target)
    chain, s = make_chain(config, in_pixels=False), make_schedule(config)
    t = jnp.arange(4)
    shape = (4, 2, 2, 3)
    x_0, y, noise, error = jax.random.normal(jax.random.key(0), (4, *shape))
    x_t = chain.q_sample(x_0, y, t, noise)
    truth = chain.target_of(x_0, y, t, noise)
    output = truth + error
    weighted = squared_error(chain, truth, output, t) * step_weight(
        chain, LossConfig(mse_weighting="bound"), t
    )
    of_x_0 = np.square(chain.predict_x0(output, x_t, y, t) - x_0).mean((1, 2, 3))
    expected = 0.5 / s.posterior_variance_clipped * (s.alphas / s.etas) ** 2 * of_x_0
    np.testing.assert_allclose(weighted, expected, rtol=2e-3)
    np.testing.assert_array_equal(step_weight(chain, LossConfig(), t), np.ones(4))


@cache
def tiny_batch(model: ModelConfig):
    """Random parameters, frozen ones, two pairs, their steps and their noise."""
    side, lq = model.unet.image_size, model.unet.cond_size
    keys = jax.random.split(jax.random.key(1), 6)
    pair = Pair(
        hq=jax.random.uniform(keys[0], (2, lq * model.scale, lq * model.scale, 3)) * 2 - 1,
        lq=jax.random.uniform(keys[1], (2, lq, lq, 3)) * 2 - 1,
        mask=jnp.zeros((2, lq, lq, 1)).at[:, :5].set(1) if model.unet.cond_mask else None,
    )
    stage = LatentModel(model).first_stage
    frozen = {"first_stage": stage.init(keys[2], pair.hq)["params"]}
    noise = jax.random.normal(keys[3], (2, side, side, model.unet.latent_channels))
    return LatentModel(model).init(keys[4]), frozen, pair, jnp.array([0, 3]), noise


@pytest.mark.slow
def test_terms_add_up_and_reach_the_network_through_the_frozen_decoder():
    model = LatentModel(TINY)
    params, frozen, pair, t, noise = tiny_batch(TINY)
    loss = LossConfig({"mse": 2.0, "l1": 0.5, "edge": 3.0})

    def of_images(params):
        total, terms, _ = sample_losses(model, params, frozen, pair, t, noise, loss=loss)
        return (total - 2 * terms["mse"]).mean(), (total, terms)

    grads, (total, terms) = jit(jax.grad(of_images, has_aux=True))(params)
    assert terms.keys() == {"mse", "l1", "edge"}
    expected = 2 * terms["mse"] + 0.5 * terms["l1"] + 3 * terms["edge"]
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["conv_out"]))

    at_once = partial(sample_losses, model, loss=replace(loss, remat=False))
    for name, values in jit(at_once)(params, frozen, pair, t, noise)[1].items():
        np.testing.assert_allclose(terms[name], values, rtol=1e-5)


def test_what_is_to_be_filled_is_hidden():
    params, frozen, pair, t, noise = tiny_batch(TINY_INPAINTING)
    call = jit(partial(sample_losses, LatentModel(TINY_INPAINTING), loss=LossConfig()))
    before = call(params, frozen, pair, t, noise)[0]
    under = pair._replace(lq=pair.lq + 0.3 * pair.mask)
    np.testing.assert_array_equal(call(params, frozen, under, t, noise)[0], before)
    beside = pair._replace(lq=pair.lq + 0.3 * (1 - pair.mask))
    assert (call(params, frozen, beside, t, noise)[0] != before).all()


def test_image_terms():
    """Against plain numpy, on a first stage that changes nothing."""
    model = ModelConfig(
        "pixels", 1, unet=UNetConfig(image_size=64, cond_size=64), first_stage=PixelConfig()
    )
    x, y = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 2, 64, 64, 3)).astype(np.float32)
    frozen = {"first_stage": {}, "alex": load_lpips("alex")}
    loss = LossConfig({"l1": 1.0, "edge": 1.0, "lpips_alex": 1.0})
    offset = jnp.zeros((2, 2))
    compare = partial(compare_images, LatentModel(model), frozen, loss=loss)
    terms, image = compare(jnp.asarray(x), jnp.asarray(y), offset)
    np.testing.assert_array_equal(image, x)
    np.testing.assert_allclose(terms["l1"], np.abs(x - y).mean((1, 2, 3)), rtol=1e-5)
    d = x - y
    down = np.abs(d[:, 1:] - d[:, :-1]).mean((1, 2, 3))
    across = np.abs(d[:, :, 1:] - d[:, :, :-1]).mean((1, 2, 3))
    np.testing.assert_allclose(terms["edge"], (down + across) / 2, rtol=1e-5)
    clipped, _ = compare(jnp.clip(x, -1, 1), jnp.asarray(y), offset)
    np.testing.assert_array_equal(terms["lpips_alex"], clipped["lpips_alex"])
    assert (terms["lpips_alex"] > 0.05).all()


def test_a_cast_is_seen_where_it_is():
    rng = np.random.default_rng(0)
    y = rng.uniform(-1, 1, (2, 72, 64, 3)).astype(np.float32)
    x = y.copy()
    x[:, :32, 32:, 0] += 0.3  # of one square of four; eight rows are over
    x[:, 64:] = 1
    context = ImageContext({}, jnp.zeros((2, 2)), None, Compute())
    np.testing.assert_allclose(colour_error(x, y, context), 0.3 / 12, rtol=1e-4)
    shuffled = y[:, rng.permutation(32)]
    np.testing.assert_allclose(colour_error(shuffled, y[:, :32], context), 0, atol=1e-6)
    np.testing.assert_allclose(colour_error(y[:, :8] + 0.1, y[:, :8], context), 0.1, rtol=1e-4)


def test_images_too_small_for_a_spectrum_are_refused():
    unet = UNetConfig(image_size=4, cond_size=4, latent_channels=48, channel_mult=(1,))
    model = ModelConfig("pixels", 4, unet=unet, first_stage=SpaceToDepthConfig(4))
    weights = {"l1": 1.0, "spectrum": 1.0}
    with pytest.raises(ConfigError, match=r"data.crop.size: 16 given, loss.weights.spectrum"):
        TrainingConfig(model, DataConfig(crop=CropConfig(size=16)), loss=LossConfig(weights))


def test_detail_that_is_weaker_at_some_phases_is_seen():
    rng = np.random.default_rng(0)
    y = np.repeat(rng.uniform(-1, 1, (2, 32, 32, 1)), 3, -1).astype(np.float32)
    x = y.copy()
    x[:, :, 2::4] = x[:, :, 1::4]  # no step between these columns
    context = ImageContext({}, jnp.zeros((2, 2)), None, Compute(), scale=4)
    found = phase_error(jnp.asarray(x), jnp.asarray(y), context)
    strengths = [
        np.stack([np.abs(np.diff(a[..., 0], axis=axis)).take(range(i, 31, 4), axis).mean((1, 2))
                  for axis in (2, 1) for i in range(4)])
        for a in (x, y)
    ]  # fmt: skip
    np.testing.assert_allclose(strengths[0][1], 0)
    np.testing.assert_allclose(found, np.abs(np.subtract(*strengths)).mean(0), rtol=1e-5)
    # Where detail lies does not count, nor where it begins.
    flipped = jnp.asarray(y[:, ::-1].copy())
    assert (phase_error(flipped, jnp.asarray(y), context) < 0.2 * found).all()


def test_windows():
    images = np.random.default_rng(0).uniform(-1, 1, (3, 40, 50, 3)).astype(np.float32)
    found = cut(jnp.asarray(images), jnp.array([[0, 0], [0.9999, 0.9999], [0.5, 0.25]]), 16)
    np.testing.assert_array_equal(found[0], images[0, :16, :16])
    np.testing.assert_array_equal(found[1], images[1, -16:, -16:])
    np.testing.assert_array_equal(found[2], images[2, 12:28, 8:24])


def test_lpips_compares_windows():
    model = replace(TINY, unet=replace(TINY.unet, image_size=24, cond_size=24))
    params, frozen, pair, t, noise = tiny_batch(model)
    frozen |= {name: load_lpips(name) for name in ("vgg", "alex")}
    weights = {"mse": 0.0, "lpips_vgg": 1.0, "lpips_alex": 1.0}
    loss = LossConfig(weights, lpips_window=32, remat=False)

    def terms(loss):
        call = jit(partial(sample_losses, LatentModel(model), loss=loss))
        return lambda *offset: call(params, frozen, pair, t, noise, *offset)[1]

    whole, of_window = terms(replace(loss, lpips_window=None))(), terms(loss)
    first, last = of_window(jnp.zeros((2, 2))), of_window(jnp.full((2, 2), 0.99))
    one_by_one = terms(replace(loss, remat=True))(jnp.full((2, 2), 0.99))
    for name in ("lpips_vgg", "lpips_alex"):
        np.testing.assert_allclose(one_by_one[name], last[name], rtol=1e-5)
        for one, other in ((first, last), (first, whole)):
            assert (np.abs(one[name] - other[name]) > 1e-3).all()


def test_amplitudes_against_numpy():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 35, 50, 3)).astype(np.float32)
    found = amplitudes(jnp.asarray(image))
    assert found.shape == (2, 2, 3, 3, 16 * 9)
    r, g, b = np.moveaxis(image.astype(np.float64)[1, 16:32, 32:48], -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    window = np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    for channel, plane in enumerate((luma, r - luma, b - luma)):
        spectrum = np.fft.rfft2(plane * np.outer(window, window)) / np.square(window).sum()
        expected = np.sqrt(np.abs(spectrum).ravel() ** 2 + 1e-6)
        assert_close(found[1, 1, 2, channel], expected, 1e-5)


def test_the_spectrum_counts_strength_and_not_position():
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 0.1, (1, 64, 64, 3)).astype(np.float32)
    other = rng.normal(0, 0.1, (1, 64, 64, 3)).astype(np.float32)
    context = ImageContext({}, jnp.zeros((1, 2)), None, Compute())
    compare = jit(partial(spectrum_error, context=context))
    assert compare(texture, texture) == 0
    assert compare(texture, -texture) < 1e-7
    missing = float(compare(texture, 0 * texture)[0])
    assert 0.7 * missing > compare(texture, other)[0] > 0.5 * missing
    assert compare(texture, 0.7 * texture)[0] == pytest.approx(0.3 * missing, rel=0.02)
    flat = jnp.zeros((1, 32, 32, 3))
    gradient = jit(jax.grad(lambda x: spectrum_error(x, flat, context).sum()))
    assert np.isfinite(gradient(flat)).all()
