"""Settings of degradations: dictionaries and back, and what is refused and how it is named."""

import json
from math import pi

import pytest

from resshift_jax.degradation.bicubic import BicubicConfig
from resshift_jax.degradation.config import (
    TEST_SET,
    BlurConfig,
    MixtureConfig,
    NoiseConfig,
    RealEsrganConfig,
    ResizeConfig,
    SincConfig,
)
from resshift_jax.degradation.faces import FacesConfig
from resshift_jax.degradation.masks import MaskConfig
from resshift_jax.settings import ConfigError, from_dict, to_dict


@pytest.mark.parametrize(
    "config",
    [RealEsrganConfig(), TEST_SET, FacesConfig(), BicubicConfig(), MaskConfig()],
    ids=lambda config: type(config).__name__,
)
def test_settings_survive_json(config):
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


RESIZES = {"up_prob": 0.2, "down_prob": 0.7, "up": (1.0, 1.5)}
FIRST_BLUR = {
    "prob": 1.0, "sizes": (3, 19), "sinc": 0.1, "sinc_cutoff": (pi / 3, pi),
    "sinc_cutoff_wide": (pi / 5, pi), "wide": 13, "isotropic": 0.45, "anisotropic": 0.25,
    "generalized_isotropic": 0.12, "generalized_anisotropic": 0.03, "plateau_isotropic": 0.12,
    "plateau_anisotropic": 0.03, "sigma": (0.2, 3.0), "generalized_shape": (0.5, 4.0),
    "plateau_shape": (1.0, 2.0),
}  # fmt: skip
NOISE = {
    "gaussian_prob": 0.5, "gaussian_sigma": (1.0, 30.0), "poisson_scale": (0.05, 3.0),
    "grey_prob": 0.4,
}  # fmt: skip
SECOND = {
    "blur": FIRST_BLUR | {"prob": 0.8, "sizes": (3, 13), "sigma": (0.2, 1.5)},
    "resize": {"up_prob": 0.3, "down_prob": 0.4, "up": (1.0, 1.2), "down": (0.3, 1.0)},
    "noise": NOISE | {"gaussian_sigma": (1.0, 25.0), "poisson_scale": (0.05, 2.5)},
}
ONLY_GAUSSIAN = {
    "isotropic": 0.6, "anisotropic": 0.4, "generalized_isotropic": 0, "plateau_isotropic": 0,
    "generalized_anisotropic": 0, "plateau_anisotropic": 0,
}  # fmt: skip


def test_the_published_training_setting():
    assert to_dict(RealEsrganConfig()) == {
        "kind": "real_esrgan",
        "scale": 4,
        "first_round": {
            "blur": FIRST_BLUR, "resize": RESIZES | {"down": (0.15, 1.0)}, "noise": NOISE,
        },
        "first_jpeg": (30.0, 95.0),
        "second_round_prob": 0.5,
        "second_round": SECOND,
        "sinc": {"prob": 0.8, "sizes": (3, 13), "cutoff": (pi / 3, pi)},
        "jpeg": (30.0, 95.0),
        "jpeg_first_prob": 0.5,
    }  # fmt: skip


def test_the_published_test_setting():
    assert to_dict(TEST_SET) == {
        "kind": "real_esrgan",
        "scale": 4,
        "first_round": {
            "blur": FIRST_BLUR | ONLY_GAUSSIAN | {"sizes": (3, 11), "sigma": (0.2, 0.8)},
            "resize": RESIZES | {"down": (0.5, 1.0)},
            "noise": NOISE | {"gaussian_sigma": (1.0, 15.0), "poisson_scale": (0.05, 0.3)},
        },
        "first_jpeg": (70.0, 95.0),
        "second_round_prob": 0,
        "second_round": SECOND,  # which has no say
        "sinc": {"prob": 0.2, "sizes": (3, 5), "cutoff": (pi / 3, pi)},
        "jpeg": (80.0, 100.0),
        "jpeg_first_prob": 0.5,
    }


def test_the_published_faces_and_masks():
    assert to_dict(FacesConfig()) == {
        "kind": "faces",
        "kernel_size": 41, "anisotropic": 0.5, "sigma": (0.1, 15.0), "reduction": (0.8, 32.0),
        "noise_sigma": (0.0, 20.0), "jpeg": (30.0, 100.0), "grey_prob": 0.01,
    }  # fmt: skip
    assert to_dict(MaskConfig()) == {
        "kind": "masks",
        "strokes": 1 / 3, "boxes": 1 / 3, "outpainting": 1 / 3, "stroke_count": (1, 6),
        "stroke_segments": (1, 5), "segment_length": (10, 209), "segment_width": (5, 104),
        "box_count": (1, 4), "box_side": (30, 150), "box_margin": 10, "edge_prob": 0.5,
        "outpainting_share": (0.04, 0.25),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "key", "given"),
    [
        ({"first_jpeg": 50.0}, "first_jpeg", "50.0"),
        ({"first_jpeg": [30.0]}, "first_jpeg", r"\[30.0\] given, two numbers"),
        ({"first_jpeg": [30.0, "95"]}, "first_jpeg", "'95'"),
        ({"jpeg": [30.0, True]}, "jpeg", "True"),
        (
            {"first_round": {"blur": {"sizes": [3.0, 19]}}},
            "first_round.blur.sizes",
            "two whole numbers",
        ),
        ({"second_round": {"noise": {"grey": 0.4}}}, "second_round.noise.grey", "unknown key"),
    ],
)
def test_values_of_the_wrong_kind_are_named_with_their_key(values, key, given):
    with pytest.raises(ConfigError, match=f"^{key}: .*{given}"):
        from_dict(RealEsrganConfig, values)


def test_whole_numbers_are_fine_where_any_will_do():
    config = from_dict(RealEsrganConfig, {"jpeg": [80, 100]})
    assert config.jpeg == (80.0, 100.0)
    assert isinstance(config.jpeg[0], float)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MixtureConfig, {"parts": ()}, r"mixture.parts: scales \[\] given"),
        (
            MixtureConfig,
            {"parts": (RealEsrganConfig(), RealEsrganConfig(scale=2))},
            r"mixture.parts: scales \[2, 4\] given",
        ),
        (MixtureConfig, {"weights": (1.0,)}, "mixture.weights: 1 given, 2 needed"),
        (MixtureConfig, {"weights": (1.0, 0.0)}, "mixture.weights: .* must be positive"),
        (BlurConfig, {"prob": 1.5}, "blur.prob: 1.5 given, a probability"),
        (BlurConfig, {"sizes": (4, 19)}, r"blur.sizes: \(4, 19\) given, odd numbers"),
        (BlurConfig, {"sizes": (9, 7)}, r"blur.sizes: \(9, 7\) given"),
        (BlurConfig, {"sinc_cutoff": (1.0, 9.0)}, r"blur.sinc_cutoff: .*, at most 3.142"),
        (BlurConfig, {"isotropic": 0.5}, "blur: isotropic, .* sum to 1.05, 1 needed"),
        (BlurConfig, {"sigma": (3.0, 0.2)}, r"blur.sigma: \(3.0, 0.2\) given, two numbers"),
        (BlurConfig, {"sigma": (0.2, float("inf"))}, r"blur.sigma: \(0.2, inf\) given"),
        (BlurConfig, {"sigma": (float("nan"), 1.0)}, "blur.sigma"),
        (BlurConfig, {"generalized_shape": (2.0, 4.0)}, "blur.generalized_shape: .* contain 1"),
        (SincConfig, {"cutoff": (0.0, 1.0)}, r"sinc.cutoff: \(0.0, 1.0\) given, must be positive"),
        (ResizeConfig, {"up_prob": 0.8}, "resize: up_prob, down_prob sum to 1.5, at most 1"),
        (ResizeConfig, {"up": (0.5, 2.0)}, "resize.up: .* at least 1"),
        (ResizeConfig, {"down": (0.5, 2.0)}, "resize.down: .* at most 1"),
        (NoiseConfig, {"gaussian_prob": -0.1}, "noise.gaussian_prob: -0.1 given"),
        (NoiseConfig, {"poisson_scale": (-1.0, 3.0)}, "noise.poisson_scale"),
        (NoiseConfig, {"gaussian_sigma": (1.0,)}, r"noise.gaussian_sigma: \(1.0,\) given"),
        (RealEsrganConfig, {"scale": 0}, "degradation.scale: 0 given"),
        (RealEsrganConfig, {"jpeg": (30.0, 101.0)}, "degradation.jpeg: 30.0 to 101.0 given"),
        (RealEsrganConfig, {"second_round_prob": 2}, "degradation.second_round_prob"),
        (RealEsrganConfig, {"jpeg_first_prob": -1}, "degradation.jpeg_first_prob"),
        (FacesConfig, {"kernel_size": 40}, "degradation.kernel_size: 40 given"),
        (FacesConfig, {"kernel_size": -3}, "degradation.kernel_size: -3 given"),
        (FacesConfig, {"noise_sigma": (0, float("inf"))}, "degradation.noise_sigma"),
        (FacesConfig, {"noise_sigma": (5.0, 1.0)}, "degradation.noise_sigma"),
        (FacesConfig, {"jpeg": (0.5, 90.0)}, "degradation.jpeg"),
        (BicubicConfig, {"scale": 0}, "degradation.scale: 0 given"),
        (
            BicubicConfig,
            {"method": "nearest"},
            "degradation.method: 'nearest' given, matlab or opencv",
        ),
        (MaskConfig, {"strokes": 0.5}, "degradation: strokes, boxes, outpainting sum to"),
        (MaskConfig, {"box_side": (150, 30)}, r"degradation.box_side: \(150, 30\) given"),
        (MaskConfig, {"box_margin": -1}, "degradation.box_margin: -1 given"),
        (MaskConfig, {"outpainting_share": (0.1, 0.6)}, "degradation.outpainting_share"),
    ],
)
def test_values_out_of_range_are_named(kind, values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        kind(**values)
