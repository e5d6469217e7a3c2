"""The discriminator of patches, against the published one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, golden, jit

from resshift_jax.nn.layers import apply
from resshift_jax.nn.patch_gan import PatchGan, PatchGanConfig
from resshift_jax.settings import ConfigError
from resshift_jax.weights import stand_in

MINI = PatchGanConfig(base_channels=16)

# Layer -> its number among the published ones.
PUBLISHED = {"conv_0": 0, "conv_1": 2, "norm_1": 3, "conv_2": 5, "norm_2": 6, "conv_3": 8,
             "norm_3": 9, "conv_out": 11}  # fmt: skip


def published_params() -> dict:
    """The parameters by the recipe of the goldens, which names them as PyTorch does."""
    side = MINI.least_side
    params = PatchGan(MINI).init(jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    assert params.keys() == PUBLISHED.keys()

    def value(layer: str, kind: str, like: jax.Array) -> np.ndarray:
        name = f"discriminator.main.{PUBLISHED[layer]}.{'bias' if kind == 'bias' else 'weight'}"
        if kind != "kernel":
            return stand_in.tensor(name, like.shape)
        height, width, channels, features = like.shape
        released = stand_in.tensor(name, (features, channels, height, width))
        return released.transpose(2, 3, 1, 0)

    return {
        layer: {kind: value(layer, kind, like) for kind, like in values.items()}
        for layer, values in params.items()
    }


def test_the_published_logits():
    expected = golden("mini_vqgan_training")
    call = jit(lambda params, images: apply(PatchGan(MINI), params, images))
    params = published_params()
    assert_close(call(params, expected["image"]), expected["step1:logits_real"], 1e-5)
    fake = call(params, expected["step1:reconstruction"])
    assert abs(-fake.mean() - expected["step1:g_loss"]) <= 1e-6


@pytest.mark.parametrize(("strided", "widths"), [(2, [64, 128, 256]), (3, [64, 128, 256, 512])])
def test_widths_and_the_least_image(strided, widths):
    config = PatchGanConfig(strided=strided)
    side = config.least_side

    def shapes(side):
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return jax.eval_shape(PatchGan(config).init_with_output, jax.random.key(0), images)

    logits, variables = shapes(side)
    assert logits.shape == (1, 1, 1, 1)
    assert shapes(256)[0].shape == ((1, 62, 62, 1) if strided == 2 else (1, 30, 30, 1))
    params = variables["params"]
    assert [params[f"conv_{i}"]["kernel"].shape[-1] for i in range(strided + 1)] == widths


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="0 given, must be positive"):
        PatchGanConfig(strided=0)
