"""The Swin-UNet against the published network, small and full-size, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BFLOAT16,
    MINI_UNET,
    MINI_UNET_MASK,
    TINY_UNET,
    assert_close,
    golden,
    jit,
    manifest_state,
    stored,
    variables_of,
)

from resshift_jax.config import UNetConfig
from resshift_jax.latent_model import flatten
from resshift_jax.nn.layers import depth_to_space, space_to_depth
from resshift_jax.nn.unet import PixelHead, SwinUNet
from resshift_jax.settings import ConfigError

TOLERANCE = 1e-5
BLOCK_TOLERANCE = 5e-6  # of the largest value, about 10 inside the network


def released_blocks(config: UNetConfig) -> dict[str, str]:
    """Released block -> our submodule whose output is that block's."""
    blocks = {"time_embed": "time_out", "input_blocks.0": "conv_in", "middle_block": "mid_block_1"}
    last = config.num_levels - 1
    for level in range(config.num_levels):
        down, up = 1 + 3 * level, 3 * (last - level)
        blocks[f"input_blocks.{down}"] = f"down_{level}_swin"
        blocks[f"input_blocks.{down + 1}"] = f"down_{level}_block_1"
        if level < last:
            blocks[f"input_blocks.{down + 2}"] = f"down_{level}_downsample"
        blocks[f"output_blocks.{up}"] = f"up_{level}_swin"
        blocks[f"output_blocks.{up + 1}"] = f"up_{level}_block_1"
        blocks[f"output_blocks.{up + 2}"] = f"up_{level}_upsample" if level else "up_0_block_2"
    return blocks


def apply_with_blocks(config: UNetConfig, variables, *args):
    """The output, and the output of each released block by its name."""
    blocks = released_blocks(config)

    @jit
    def run(variables, *args):
        y, state = SwinUNet(config).apply(
            variables,
            *args,
            capture_intermediates=lambda module, _: module.name in blocks.values(),
            mutable=["intermediates"],
        )
        return y, {
            name: state["intermediates"][ours]["__call__"][0] for name, ours in blocks.items()
        }

    return run(variables, *args)


def test_the_small_network_block_by_block(networks):
    published = golden("mini_unet")
    y, blocks = apply_with_blocks(
        MINI_UNET, networks["unet"][1], published["x"], published["t"], published["lq"]
    )
    assert {f"act:{name}" for name in blocks} == {name for name in published if name[:4] == "act:"}
    for name, found in blocks.items():
        expected = published[f"act:{name}"]
        assert_close(found, expected, BLOCK_TOLERANCE * np.abs(expected).max())
    assert_close(y, published["y"], TOLERANCE)


def test_the_small_network_at_two_by_three_times_its_training_size(apply_unet):
    published = golden("mini_unet")
    y = apply_unet("unet", published["x_rect"], published["t_rect"], published["lq_rect"])
    assert_close(y, published["y_rect"], TOLERANCE)


def test_the_small_network_with_extractor_and_mask(apply_unet):
    published = golden("mini_unet_mask")
    y = apply_unet("unet_mask", *(published[name] for name in ("x", "t", "lq", "mask")))
    assert_close(y, published["y"], TOLERANCE)


@pytest.fixture(scope="module")
def tiny():
    """(configuration with shifted windows, random variables, inputs) of a network of one level."""
    config, rng = replace(TINY_UNET, swin_depth=2), np.random.default_rng(0)
    x, lq = rng.standard_normal((2, 1, 8, 8, 3)).astype(np.float32)
    inputs = x, jnp.zeros(1, jnp.int32), lq
    shapes = jax.eval_shape(SwinUNet(config).init, jax.random.key(0), *inputs)
    variables = jax.tree.map(
        lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32) + (len(s.shape) == 1), shapes
    )
    return config, variables, inputs


def test_the_window_mask_of_the_configuration_is_used(tiny):
    config, variables, inputs = tiny
    released, swin = (
        SwinUNet(replace(config, window_mask=kind)).apply(variables, *inputs)
        for kind in ("released", "swin")
    )
    assert np.abs(released - swin).max() > 1e-3


def test_bfloat16_stays_close_and_leaves_the_parameters_alone(tiny):
    config, variables, inputs = tiny
    expected = SwinUNet(config).apply(variables, *inputs)
    module = SwinUNet(config, BFLOAT16)
    y = module.apply(variables, *inputs)
    assert y.dtype == jnp.float32
    error = np.linalg.norm(y.astype(jnp.float32) - expected) / np.linalg.norm(expected)
    print(f"relative error {error:.3g}")
    assert error < 0.02
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_a_fresh_network_starts_as_published():
    x = jnp.zeros((1, 8, 8, 3))
    params = SwinUNet(TINY_UNET).init(jax.random.key(0), x, jnp.zeros(1, jnp.int32), x)
    for path, value in flatten(params["params"]).items():
        layer, leaf = path.split("/")[-2:]
        if layer == "conv2":
            assert not value.any(), path
        elif leaf == "scale":
            assert (value == 1).all(), path
        elif layer.startswith("norm"):
            assert not value.any(), path
        elif leaf == "bias_table":
            assert jnp.std(value) == pytest.approx(0.02, rel=0.3), path
        else:
            assert jnp.std(value) > 0, path


@pytest.mark.parametrize(
    ("x", "lq", "mask", "message"),
    [
        ((1, 24, 16, 4), (1, 96, 64, 3), (1, 96, 64, 1), "x_t: sides 24x16 given"),
        ((1, 16, 8, 4), (1, 64, 32, 3), (1, 64, 32, 1), "x_t: sides 16x8 given"),
        ((1, 16, 16, 3), (1, 64, 64, 3), (1, 64, 64, 1), "x_t: 3 channels given, 4 needed"),
        ((1, 16, 16, 4), (1, 16, 16, 3), (1, 16, 16, 1), r"lq: \(16, 16, 3\) given"),
        ((1, 16, 16, 4), (1, 64, 64, 4), (1, 64, 64, 1), r"lq: \(64, 64, 4\) given"),
        ((1, 16, 16, 4), (1, 64, 64, 3), (1, 64, 64, 3), r"mask: \(64, 64, 3\) given"),
        ((1, 16, 16, 4), (1, 64, 64, 3), None, "mask: none given, one is needed"),
    ],
)
def test_shapes_that_do_not_fit_are_named(x, lq, mask, message):
    arrays = [None if shape is None else jnp.zeros(shape) for shape in (x, lq, mask)]
    with pytest.raises(ValueError, match=message):
        SwinUNet(MINI_UNET_MASK).init(
            jax.random.key(0), arrays[0], jnp.zeros(1, jnp.int32), *arrays[1:]
        )


def test_a_mask_that_is_not_wanted_is_named():
    x, t = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="mask: one given, none is needed"):
        SwinUNet(MINI_UNET).init(jax.random.key(0), x, t, x, x[..., :1])


PIXELS = replace(TINY_UNET, latent_channels=48, pixel_channels=8)


def test_a_network_with_a_pixel_head_begins_with_the_enlarged_image():
    rng = np.random.default_rng(3)
    x_t, lq = (jnp.asarray(rng.normal(size=(1, 8, 8, c)), jnp.float32) for c in (48, 3))
    inputs = x_t, jnp.zeros(1, jnp.int32), lq
    params = jit(SwinUNet(PIXELS).init)(jax.random.key(0), *inputs)["params"]
    head = params["pixels"]
    assert {name: head[name]["kernel"].shape for name in head} == {
        "expand": (32, 8 * 16),
        "conv_0": (3, 3, 8 + 3 + 3, 8),
        "conv_1": (3, 3, 8, 8),
        "conv_2": (3, 3, 8, 8),
        "conv_out": (3, 3, 8, 3),
    }
    assert "conv_out" not in params
    apply = jit(SwinUNet(PIXELS).apply)
    np.testing.assert_array_equal(apply({"params": params}, *inputs), np.zeros((1, 8, 8, 48)))
    head["conv_out"]["kernel"] += 0.1
    # What it adds depends on both images.
    output = apply({"params": params}, *inputs)
    for changed in ((x_t + 1, *inputs[1:]), (*inputs[:2], lq + 1)):
        assert np.abs(apply({"params": params}, *changed) - output).max() > 1e-4


def test_a_pixel_head_treats_all_pixels_of_a_block_alike():
    """What it makes of x_t moves with it, by any number of pixels."""
    head = PixelHead(8)
    x_t = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    features, lq = np.zeros((1, 8, 8, 4), np.float32), np.zeros((1, 8, 8, 3), np.float32)
    params = head.init(jax.random.key(0), features, space_to_depth(x_t, 4), lq)["params"]
    params["conv_out"]["kernel"] += 0.1  # which begins at zero
    params["expand"] = jax.tree.map(jnp.zeros_like, params["expand"])

    def output(x_t):
        z = head.apply({"params": params}, features, space_to_depth(x_t, 4), lq)
        return np.asarray(depth_to_space(z, 4))

    inside = slice(8, 24)
    expected = output(x_t)[:, inside, inside]
    assert expected.std() > 1e-3
    for down, across in ((1, 0), (0, 1), (2, 3)):
        moved = output(np.roll(x_t, (down, across), (1, 2)))
        moved = np.roll(moved, (-down, -across), (1, 2))[:, inside, inside]
        assert_close(moved, expected, 1e-6)


def test_what_is_flat_stays_flat_to_its_edges_where_they_are_repeated():
    shapes = ((1, 8, 8, 4), (1, 8, 8, 48), (1, 8, 8, 3))
    features, x_t, lq = (np.full(shape, 0.3, np.float32) for shape in shapes)
    params = PixelHead(8, 1).init(jax.random.key(0), features, x_t, lq)["params"]
    params["expand"] = jax.tree.map(jnp.zeros_like, params["expand"])  # alike for all of a block
    params["conv_out"]["kernel"] += 0.1
    params["block_0_conv_1"]["kernel"] += 0.1

    def output(edges):
        return PixelHead(8, 1, edges).apply({"params": params}, features, x_t, lq)

    repeated, zeros = output("repeated"), output("zeros")
    assert np.ptp(repeated) < 1e-5
    assert np.ptp(zeros) > 0.1
    middle = slice(2, 6)  # six pixels from the edges and more
    assert_close(repeated[:, middle, middle], zeros[:, middle, middle], 1e-5)


def test_blocks_of_a_pixel_head_begin_as_nothing():
    rng = np.random.default_rng(0)
    features, x_t, lq = (rng.normal(size=(1, 8, 8, c)).astype(np.float32) for c in (4, 48, 3))
    params = PixelHead(8, 2).init(jax.random.key(0), features, x_t, lq)["params"]
    params["conv_out"]["kernel"] += 0.1
    plain = {name: value for name, value in params.items() if not name.startswith("block")}
    assert len(params) == len(plain) + 4
    output = PixelHead(8, 2).apply({"params": params}, features, x_t, lq)
    np.testing.assert_array_equal(PixelHead(8).apply({"params": plain}, features, x_t, lq), output)
    params["block_1_conv_1"]["kernel"] += 0.1
    assert (PixelHead(8, 2).apply({"params": params}, features, x_t, lq) != output).any()
    with pytest.raises(ConfigError, match=r"unet.pixel_blocks: 1 given with pixel_channels=0"):
        replace(TINY_UNET, pixel_blocks=1)


@pytest.mark.slow
def test_the_released_network():
    published, config = golden("realsr_unet"), UNetConfig()
    variables = variables_of(stored(manifest_state("resshift_realsrx4_s15")), config)
    inputs = (published[name] for name in ("x", "t", "lq"))
    y, blocks = apply_with_blocks(config, variables, *inputs)
    assert_close(y, published["y"], 2e-5)
    for name, found in blocks.items():
        found = np.asarray(found, np.float64)
        summary = [found.mean(), found.std(), *found.ravel()[:6]]
        assert_close(summary, published[f"act:{name}"], 2e-5)
