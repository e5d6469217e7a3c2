"""Settings of degradations: dictionaries and back, and what is refused and how it is named."""

import json

import pytest

from resshift_jax.config import ConfigError, from_dict, to_dict
from resshift_jax.data.config import (
    TEST_SET,
    BicubicConfig,
    BlurConfig,
    DegradationConfig,
    FaceDegradationConfig,
    MaskConfig,
    NoiseConfig,
    ResizeConfig,
    SincConfig,
)


@pytest.mark.parametrize(
    "config",
    [DegradationConfig(), TEST_SET, FaceDegradationConfig(), BicubicConfig(), MaskConfig()],
    ids=lambda config: type(config).__name__,
)
def test_settings_survive_json(config):
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "key", "given"),
    [
        ({"first_jpeg": 50.0}, "first_jpeg", "50.0"),
        ({"first_jpeg": [30.0]}, "first_jpeg", r"\[30.0\] given, 2 numbers"),
        ({"first_jpeg": [30.0, "95"]}, "first_jpeg", "'95'"),
        ({"jpeg": [30.0, True]}, "jpeg", "True"),
        ({"first": {"blur": {"sizes": [3.0, 19]}}}, "first.blur.sizes", "2 whole numbers"),
        ({"second": {"noise": {"grey": 0.4}}}, "second.noise.grey", "unknown key"),
    ],
)
def test_values_of_the_wrong_kind_are_named_with_their_place(values, key, given):
    with pytest.raises(ConfigError, match=f"^{key}: .*{given}"):
        from_dict(DegradationConfig, values)


def test_whole_numbers_are_fine_where_any_will_do():
    config = from_dict(DegradationConfig, {"jpeg": [80, 100]})
    assert config.jpeg == (80.0, 100.0)
    assert isinstance(config.jpeg[0], float)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (BlurConfig, {"prob": 1.5}, "blur.prob: 1.5 given, a probability"),
        (BlurConfig, {"sizes": (4, 19)}, "blur.sizes: 4 to 19 given, two odd numbers"),
        (BlurConfig, {"sizes": (9, 7)}, "blur.sizes: 9 to 7 given"),
        (BlurConfig, {"isotropic": 0.5}, "blur: isotropic, .* sum to 1.05, 1 needed"),
        (BlurConfig, {"sigma": (3.0, 0.2)}, "blur.sigma: 3.0 to 0.2 given"),
        (BlurConfig, {"sigma": (0.2, float("inf"))}, "blur.sigma: 0.2 to inf given"),
        (BlurConfig, {"sigma": (float("nan"), 1.0)}, "blur.sigma"),
        (BlurConfig, {"generalized_shape": (2.0, 4.0)}, "blur.generalized_shape: .* contain 1"),
        (SincConfig, {"cutoff": (0.0, 1.0)}, r"sinc.cutoff: \(0.0, 1.0\) given, must be positive"),
        (ResizeConfig, {"up_prob": 0.8}, "resize: up_prob, down_prob sum to 1.5, at most 1"),
        (ResizeConfig, {"up": (0.5, 2.0)}, "resize.up: .* at least 1"),
        (ResizeConfig, {"down": (0.5, 2.0)}, "resize.down: .* at most 1"),
        (NoiseConfig, {"gaussian_prob": -0.1}, "noise.gaussian_prob: -0.1 given"),
        (NoiseConfig, {"poisson_scale": (0.0, 3.0)}, "noise.poisson_scale"),
        (DegradationConfig, {"scale": 0}, "degradation.scale: 0 given"),
        (DegradationConfig, {"jpeg": (30.0, 101.0)}, "degradation.jpeg: 30.0 to 101.0 given"),
        (DegradationConfig, {"second_prob": 2}, "degradation.second_prob"),
        (FaceDegradationConfig, {"kernel_size": 40}, "face_degradation.kernel_size: 40 given"),
        (FaceDegradationConfig, {"noise_sigma": (5.0, 1.0)}, "face_degradation.noise_sigma"),
        (FaceDegradationConfig, {"jpeg": (0.5, 90.0)}, "face_degradation.jpeg"),
        (BicubicConfig, {"scale": 0}, "bicubic.scale: 0 given"),
        (MaskConfig, {"strokes": 0.5}, "mask: strokes, boxes, outpainting sum to"),
        (MaskConfig, {"box_side": (150, 30)}, "mask.box_side: 150 to 30 given"),
        (MaskConfig, {"box_margin": -1}, "mask.box_margin: -1 given"),
        (MaskConfig, {"outpainting_share": (0.1, 0.6)}, "mask.outpainting_share"),
    ],
)
def test_values_out_of_range_are_named(kind, values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        kind(**values)
