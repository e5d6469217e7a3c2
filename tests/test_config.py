"""Configurations: what is refused and how it is named, dictionaries, sizes, parameter counts."""

import json
import math

import pytest

from resshift_jax.config import (
    ChainConfig,
    ModelConfig,
    PixelConfig,
    SpaceToDepthConfig,
    UNetConfig,
    VQConfig,
)
from resshift_jax.latent_model import backbone_shapes, first_stage_shapes
from resshift_jax.settings import ConfigError, from_dict, to_dict
from resshift_jax.weights.zoo import RELEASED, VQ_F4, VQ_F4_FACE, VQ_F8_FACE, released_config

PARAMETERLESS = (
    ModelConfig("own", 1, first_stage=PixelConfig()),
    ModelConfig(
        "own",
        4,
        unet=UNetConfig(latent_channels=48, pixel_channels=24),
        first_stage=SpaceToDepthConfig(block=4),
    ),
)


@pytest.mark.parametrize(
    "config", [model.config for model in RELEASED] + list(PARAMETERLESS), ids=lambda c: c.task
)
def test_a_configuration_survives_json(config):
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"chian": {}}, "chian"),
        ({"chain": {"step": 15}}, "chain.step"),
        ({"unet": {"window_sizes": 8}}, "unet.window_sizes"),
        ({"first_stage": {"kind": "vq", "channels": 3}}, "first_stage.channels"),
        ({"first_stage": {"kind": "pixel", "base_channels": 3}}, "first_stage.base_channels"),
    ],
)
def test_an_unknown_key_is_named_with_its_place(values, key):
    with pytest.raises(ConfigError, match=f"^{key}: unknown key"):
        from_dict(ModelConfig, values)


@pytest.mark.parametrize(
    ("values", "key", "given"),
    [
        ({"scale": "4"}, "scale", "'4'"),
        ({"scale": True}, "scale", "True"),
        ({"task": 4}, "task", "4"),
        ({"chain": {"num_timesteps": 15.0}}, "chain.num_timesteps", "15.0"),
        ({"chain": {"kappa": "2"}}, "chain.kappa", "'2'"),
        ({"chain": {"sampler": 1}}, "chain.sampler", "1"),
        ({"chain": {"sampler": "best"}}, "chain.sampler", "'best'"),
        ({"chain": {"target": "v"}}, "chain.target", "'v'"),
        ({"chain": 15}, "chain", "15"),
        ({"unet": {"channel_mult": 2}}, "unet.channel_mult", "2"),
        ({"unet": {"channel_mult": [1, 2.0]}}, "unet.channel_mult", r"\[1, 2.0\]"),
        ({"unet": {"window_mask": "none"}}, "unet.window_mask", "'none'"),
        ({"first_stage": {"kind": "vae"}}, "first_stage.kind", "'vae'"),
        ({"first_stage": {"kind": None}}, "first_stage.kind", "None"),
        ({"first_stage": None}, "first_stage.kind", "None"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_place(values, key, given):
    with pytest.raises(ConfigError, match=f"^{key}: {given} given"):
        from_dict(ModelConfig, values)


def test_a_whole_number_may_stand_for_a_float():
    assert from_dict(ChainConfig, {"kappa": 2}).kappa == 2.0


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (ChainConfig, {"num_timesteps": 1}, "chain.num_timesteps"),
        (ChainConfig, {"kappa": 0.0}, "chain.kappa"),
        (ChainConfig, {"kappa": math.nan}, "chain.kappa"),
        (ChainConfig, {"power": -1.0}, "chain.power"),
        (ChainConfig, {"min_noise_level": 0.0}, "min_noise_level"),
        (ChainConfig, {"min_noise_level": 2.5}, "max_noise_level"),
        (ChainConfig, {"max_noise_level": 1.0}, "max_noise_level"),
        (UNetConfig, {"cond_size": 96}, "unet.cond_size"),
        (UNetConfig, {"cond_size": 32}, "unet.cond_size"),
        (UNetConfig, {"swin_channels": 200}, "unet.swin_channels"),
        (UNetConfig, {"num_res_blocks": 0}, "unet.num_res_blocks"),
        (UNetConfig, {"channel_mult": ()}, "unet.channel_mult"),
        (UNetConfig, {"image_size": 68, "cond_size": 68}, "unet.image_size"),
        (UNetConfig, {"base_channels": 100}, "unet.base_channels"),
        (UNetConfig, {"swin_channels": 48, "head_channels": 16}, "unet.swin_channels"),
        (UNetConfig, {"pixel_edges": "repeated"}, "unet.pixel_edges: repeated given with"),
        (UNetConfig, {"pixel_channels": -1, "latent_channels": 48}, "unet.pixel_channels: -1"),
        (UNetConfig, {"pixel_channels": 24, "latent_channels": 8}, "unet.pixel_channels: 24"),
        (UNetConfig, {"pixel_channels": 24, "latent_channels": 24}, "unet.pixel_channels: 24"),
        (SpaceToDepthConfig, {"block": 0}, "first_stage.block"),
        (VQConfig, {"num_res_blocks": (2, 2)}, "first_stage.num_res_blocks"),
        (ModelConfig, {"unet": UNetConfig(pixel_channels=24)}, "unet.pixel_channels: .* kind vq"),
        (ModelConfig, {"scale": 0}, "scale"),
        (ModelConfig, {"scale": 2}, "scale"),
        (ModelConfig, {"first_stage": VQ_F8_FACE}, "unet.latent_channels"),
    ],
)
def test_a_value_that_makes_no_model_is_named(kind, values, key):
    with pytest.raises(ConfigError, match=key):
        kind(**values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (UNetConfig, {"head_channels": 0}),
        (UNetConfig, {"image_size": 0}),
        (UNetConfig, {"window_size": 0}),
        (UNetConfig, {"swin_depth": 0}),
        (UNetConfig, {"mlp_ratio": 0}),
        (UNetConfig, {"base_channels": 0}),
        (UNetConfig, {"channel_mult": (0, 1, 2, 4)}),
        (UNetConfig, {"latent_channels": 0}),
        (VQConfig, {"base_channels": 48}),
        (VQConfig, {"codebook_size": 0}),
        (VQConfig, {"num_res_blocks": (2, 0, 2)}),
        (VQConfig, {"channel_mult": (), "num_res_blocks": ()}),
        (ChainConfig, {"power": math.inf}),
    ],
)
def test_an_impossible_width_is_named(kind, values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        kind(**values)


def test_a_kind_that_is_no_word_is_named():
    with pytest.raises(ConfigError, match=r"^first_stage\.kind: \['vq'\] given"):
        from_dict(ModelConfig, {"first_stage": {"kind": ["vq"]}})


def test_a_training_size_that_windows_do_not_fill_is_named():
    with pytest.raises(ConfigError, match=r"unet\.image_size"):
        UNetConfig(image_size=24, cond_size=24, channel_mult=(1, 1, 1), window_size=8)


@pytest.mark.parametrize(
    ("file", "lq_size"),
    [
        ("resshift_realsrx4_s15_v2", 64),
        ("resshift_realsrx2_s4", 128),
        ("resshift_inpainting_face_s4", 256),
        ("resshift_faceir_s4", 512),
    ],
)
def test_inputs_are_padded_to_the_released_lq_size(file, lq_size):
    config = released_config(file)
    assert config.pad_multiple == lq_size
    assert config.unet.granularity == 64


def test_every_level_but_the_deepest_shifts():
    config = UNetConfig()
    assert [config.window(level) for level in range(4)] == [8, 8, 8, 8]
    assert [config.shifts(level) for level in range(4)] == [True, True, True, False]
    small = UNetConfig(image_size=16, cond_size=16, window_size=4)
    assert [small.window(level) for level in range(4)] == [4, 4, 4, 2]
    assert [small.shifts(level) for level in range(4)] == [True, True, False, False]
    assert small.granularity == 16


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("resshift_realsrx4_s15_v2", 118_593_583),
        ("resshift_inpainting_imagenet_s4", 118_714_399),
        ("resshift_faceir_s4", 118_931_604),
        ("resshift_realsrx2_s4", 118_640_431),
    ],
)
def test_parameter_count_of_the_unet(file, count):
    shapes = backbone_shapes(released_config(file).unet)
    assert sum(math.prod(shape) for shape in shapes.values()) == count


@pytest.mark.parametrize(
    ("stage", "count"), [(VQ_F4, 55_322_782), (VQ_F4_FACE, 55_322_782), (VQ_F8_FACE, 77_009_115)]
)
def test_parameter_count_of_the_autoencoder(stage, count):
    shapes = first_stage_shapes(stage)
    assert sum(math.prod(shape) for shape in shapes.values()) == count
