"""A network's configuration from the names and shapes of its file."""

from typing import NamedTuple

import pytest
from conftest import (
    MANIFEST_STAGES,
    MANIFEST_UNETS,
    OTHER_STAGES,
    OTHER_UNETS,
    manifest,
    rules_and_shapes,
)

from resshift_jax.weights.mapping import ConversionError, torch_shapes, unet_buffers
from resshift_jax.weights.recognize import is_first_stage, recognize_first_stage, recognize_unet


class Shaped(NamedTuple):
    shape: tuple[int, ...]


def state(name, *without):
    """The shapes of a manifest, but those with any of `without` in their names."""
    return {
        key: Shaped(shape)
        for key, (shape, _) in manifest(name).items()
        if not any(part in key for part in without)
    }


@pytest.mark.parametrize("name", MANIFEST_UNETS)
@pytest.mark.parametrize("without", [(), ("attn_mask",)], ids=["with masks", "without masks"])
def test_every_unet(name, without):
    assert recognize_unet(state(name, *without)) == MANIFEST_UNETS[name]


@pytest.mark.parametrize("name", MANIFEST_STAGES)
def test_every_autoencoder(name):
    expected = MANIFEST_STAGES[name]
    assert recognize_first_stage(state(name), expected.name) == expected


@pytest.mark.parametrize("config", OTHER_UNETS)
def test_unets_that_nobody_released(config):
    shapes = torch_shapes(*rules_and_shapes(config))
    shapes |= {name: buffer.shape for name, buffer in unet_buffers(config).items()}
    assert recognize_unet({name: Shaped(shape) for name, shape in shapes.items()}) == config


@pytest.mark.parametrize("config", OTHER_STAGES)
def test_autoencoders_that_nobody_released(config):
    shapes = torch_shapes(*rules_and_shapes(config))
    state = {name: Shaped(shape) for name, shape in shapes.items()}
    assert recognize_first_stage(state, "other") == config


def test_which_of_both():
    assert all(is_first_stage(state(name)) for name in MANIFEST_STAGES)
    assert not any(is_first_stage(state(name)) for name in MANIFEST_UNETS)


@pytest.mark.parametrize("without", ["input_blocks.0.0.weight", "out.2.weight", "middle_block"])
def test_what_a_unet_lacks_is_named(without):
    with pytest.raises(ConversionError, match=f"not a Swin-UNet.*{without}.* is missing"):
        recognize_unet(state("unet", "attn_mask", without))


def test_another_kind_of_network_is_refused():
    with pytest.raises(ConversionError, match="not a Swin-UNet"):
        recognize_unet(state("autoencoder"))
    with pytest.raises(ConversionError, match="not a VQ autoencoder"):
        recognize_first_stage(state("unet"), "unet")
    with pytest.raises(ConversionError, match="not a Swin-UNet"):
        recognize_unet({name: Shaped(()) for name in state("unet")})
    with pytest.raises(ConversionError, match="not a VQ autoencoder"):
        recognize_first_stage({name: Shaped((0, 0)) for name in state("autoencoder")}, "a")
