"""Each seam: a toy of one's own is one row of a table, and no other module is touched."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, assert_close, jit, save_model
from runs import SMALLEST
from runs import TINY as TINY_YAML

import resshift_jax
from resshift_jax.chain import SAMPLERS, Sampler, make_chain
from resshift_jax.config import (
    BACKBONES,
    FIRST_STAGES,
    ModelConfig,
    Network,
    PixelConfig,
    model_config,
)
from resshift_jax.degradation.pairs import DEGRADATIONS, Pair
from resshift_jax.evaluation.metrics import METRICS, Metric, each
from resshift_jax.latent_model import LatentModel
from resshift_jax.settings import ConfigError, from_dict, to_dict
from resshift_jax.training.config_file import read_config, write_config
from resshift_jax.training.losses import LOSSES, LossConfig, LossTerm, sample_losses
from resshift_jax.training.mesh import make_mesh
from resshift_jax.training.optimizer import OPTIMIZERS, LearningRateConfig, Optimizer
from resshift_jax.training.run import is_best
from resshift_jax.training.state import sharded_init
from resshift_jax.training.step import make_prepare, make_step
from resshift_jax.weights.mapping import BACKBONE_RULES, ConversionError, backbone_rules


@pytest.mark.parametrize(
    "table", [BACKBONES, FIRST_STAGES, DEGRADATIONS, OPTIMIZERS],
    ids=["backbones", "first stages", "degradations", "optimizers"],
)  # fmt: skip
def test_every_kind_of_settings_has_its_row(table):
    for name, row in table.items():
        assert row.settings().kind == name


def test_a_kind_without_a_row_is_an_error():
    for group, values in (("unet", {"kind": "dit"}), ("first_stage", {"kind": "vae"})):
        with pytest.raises(ConfigError, match=rf"^{group}\.kind: '\w+' given, one of "):
            model_config({group: values})
    for setting in ("degradation={kind: rain}", "optimizer={kind: lion}", "loss.weights.gan=1",
                    "validation.best_by=fid", "model.chain.sampler=heun"):  # fmt: skip
        with pytest.raises(ConfigError, match=setting.split("=")[0].removeprefix("model.")):
            read_config(TINY_YAML, [setting])
    with pytest.raises(ValueError, match="sampler=heun: unknown, one of ancestral"):
        make_chain(TINY.chain, in_pixels=False, sampler="heun")


def one_step(config):
    """The state and the metrics after one training step on noise."""
    mesh, model = make_mesh(jax.devices()[:1]), LatentModel(config.model)
    side = config.data.crop.size
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    pairs = make_prepare(config, mesh)(np.int32(0), {"hq": images})
    state = sharded_init(config, mesh)
    return make_step(config, model, mesh)(state, {"first_stage": {}}, pairs)


def test_a_loss(monkeypatch):
    darkness = LossTerm(lambda x, y, context: (1 - x).mean((1, 2, 3)))
    monkeypatch.setitem(LOSSES, "darkness", darkness)
    config = read_config(TINY_YAML, [*SMALLEST, "loss.weights.darkness=0.5"])
    metrics = one_step(config)[1]
    assert set(metrics.terms) == {"mse", "darkness"}
    expected = metrics.terms["mse"] + 0.5 * metrics.terms["darkness"]
    assert float(metrics.loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_loss_of_the_latent(monkeypatch):
    bias = LossTerm(lambda chain, target, output, t: (target - output).mean((1, 2, 3)), of="latent")
    monkeypatch.setitem(LOSSES, "bias", bias)
    loss = LossConfig({"bias": 2.0})
    x = jnp.zeros((2, 16, 16, 3))
    model = LatentModel(ModelConfig("own", 1, TINY.chain, TINY.unet, PixelConfig()))
    params, noise = model.init(jax.random.key(0)), jnp.ones((2, 8, 8, 3))
    pair, t = Pair(x[:, :8, :8], x[:, :8, :8]), jnp.zeros(2, jnp.int32)
    call = jit(partial(sample_losses, model, loss=loss))
    total, terms, _ = call(params, {"first_stage": {}}, pair, t, noise)
    assert set(terms) == {"bias"}
    assert_close(total, 2 * terms["bias"], 1e-7)


def test_a_metric(monkeypatch, tmp_path):
    brightness = Metric(lambda weights: each(lambda a, b: float(a.mean())), higher_is_better=False)
    monkeypatch.setitem(METRICS, "brightness", brightness)
    config = read_config(
        TINY_YAML, ["validation.metrics=[psnr_y, brightness]", "validation.best_by=brightness"]
    )
    measure = METRICS[config.validation.best_by].make(None)
    images = [np.full((4, 4, 3), value, np.uint8) for value in (3, 5)]
    assert measure(images, images).tolist() == [3, 5]
    table = tmp_path / "validation.csv"
    table.write_text("step,brightness\n1,4.0\n")
    assert is_best(table, "brightness", {"brightness": 3.0})
    assert not is_best(table, "brightness", {"brightness": 5.0})


@dataclass(frozen=True)
class Negative:
    """Settings of a toy degradation."""

    kind: Literal["negative"] = "negative"
    scale: int = 4


def test_a_degradation(monkeypatch):
    row = type(DEGRADATIONS["bicubic"])

    def negative(keys, images, config):
        hq = images["hq"]
        return DEGRADATIONS["bicubic"].make(
            keys, {"hq": 255 - hq}, DEGRADATIONS["bicubic"].settings(scale=config.scale)
        )

    monkeypatch.setitem(DEGRADATIONS, "negative", row(Negative, negative))
    config = read_config(TINY_YAML, [*SMALLEST, "degradation={kind: negative}"])
    assert config.degradation == Negative()
    assert np.isfinite(one_step(config)[1].loss)


def test_a_sampler(monkeypatch, tmp_path):
    """Halfway to the prediction, from Python and in a file."""
    half = Sampler(lambda chain, x_0, x_t, y, t, noise: (x_0 + x_t) / 2)
    monkeypatch.setitem(SAMPLERS, "half", half)
    config = replace(TINY, chain=replace(TINY.chain, sampler="half", sampling_steps=2))
    stored = resshift_jax.load(save_model(tmp_path / "half.safetensors", config))
    assert stored.config.chain.sampler == "half"
    plain = resshift_jax.load(save_model(tmp_path / "plain.safetensors", TINY))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    ours = plain(image, sampler="half", sampling_steps=2)
    np.testing.assert_array_equal(stored(image), ours)
    assert (ours != plain(image, sampling_steps=2)).any()
    chain = make_chain(config.chain, in_pixels=False)
    y = jnp.ones((1, 2, 2, 3))
    path = chain.trajectory(lambda x, t: x * 0, y, noise=lambda k: jnp.zeros_like(y))
    assert_close(path.samples[-1], y / 4, 1e-7)


@dataclass(frozen=True)
class PlainConfig:
    """Settings of a toy backbone."""

    kind: Literal["plain"] = "plain"
    image_size: int = 8
    latent_channels: int = 48
    cond_size: int = 8
    cond_mask: bool = False
    width: int = 8
    needs_pixels = False
    num_halvings = 0
    granularity = 4


class Plain(nn.Module):
    """A toy backbone: two convolutions that do not know the time."""

    width: int
    channels: int

    @nn.compact
    def __call__(self, x_t: Any, t: Any, lq: Any, mask: Any = None) -> Any:
        h = nn.Conv(self.width, (3, 3))(jnp.concatenate([x_t, lq], -1))
        return nn.Conv(self.channels, (3, 3))(nn.silu(h))


def test_a_backbone(monkeypatch, tmp_path):
    """Configured in YAML, trained, exported, loaded and restored with."""
    row = Network(PlainConfig, lambda config, compute: Plain(config.width, config.latent_channels))
    monkeypatch.setitem(BACKBONES, "plain", row)
    others = [setting for setting in SMALLEST if not setting.startswith("model.unet.")]
    config = read_config(TINY_YAML, ["model.unet={kind: plain, width: 16}", *others])
    assert config.model.unet == PlainConfig(width=16)
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config
    state, metrics = one_step(config)
    assert np.isfinite(metrics.loss)
    path = tmp_path / "plain.safetensors"
    resshift_jax.write_model(path, config.model, {"unet": state.ema, "first_stage": {}})
    model = resshift_jax.load(path)
    assert model.config == config.model
    assert model(np.zeros((5, 9, 3), np.uint8)).shape == (20, 36, 3)
    assert "plain" not in BACKBONE_RULES
    with pytest.raises(ConversionError, match=r"unet\.kind: plain given, .* no counterpart"):
        backbone_rules(config.model.unet)


@dataclass(frozen=True)
class SignConfig(LearningRateConfig):
    """Settings of a toy optimizer."""

    kind: Literal["sign"] = "sign"


def test_an_optimizer(monkeypatch):
    def update(config, grads, rate, state, params, settle):
        new = jax.tree.map(lambda p, g: p - rate * jnp.sign(g), params, grads)
        return settle(params, new), settle(state, state + 1)

    monkeypatch.setitem(OPTIMIZERS, "sign", Optimizer(SignConfig, lambda p: jnp.zeros(()), update))
    settings = "optimizer={kind: sign, learning_rate: 0.25, warmup: 0}"
    config = read_config(TINY_YAML, [*SMALLEST, settings])
    state, metrics = one_step(config)
    assert float(metrics.learning_rate) == 0.25
    assert float(state.optimizer) == 1
    before = LatentModel(config.model).init(jax.random.key(config.seed))
    moved = np.abs(state.params["conv_out"]["bias"] - before["conv_out"]["bias"])
    assert_close(moved, np.full_like(moved, 0.25), 1e-6)


@dataclass(frozen=True)
class HalfConfig:
    """Settings of a toy first stage."""

    kind: Literal["half"] = "half"
    name = ""
    has_params = False
    in_pixels = True
    factor = 1
    latent_channels = 3


class Half(nn.Module):
    """A toy first stage: the image at half its contrast."""

    def __call__(self, image: Any) -> Any:
        return image

    def encode(self, image: Any) -> Any:
        return image / 2

    def decode(self, z: Any) -> Any:
        return 2 * z


def test_a_first_stage(monkeypatch):
    monkeypatch.setitem(FIRST_STAGES, "half", Network(HalfConfig, lambda config, compute: Half()))
    values = {**to_dict(replace(TINY, scale=1, first_stage=PixelConfig())),
              "first_stage": {"kind": "half"}}  # fmt: skip
    model = LatentModel(from_dict(ModelConfig, values))
    image = jnp.full((1, 8, 8, 3), 0.6)
    z = model.encode({"first_stage": {}}, image)
    assert_close(z, image / 2, 0)
    assert_close(model.decode({"first_stage": {}}, z), image, 0)
