"""The rule table: each released file is covered tensor by tensor, and comes back as it was."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import (
    MANIFEST_STAGES,
    MANIFEST_UNETS,
    MINI_UNET,
    MINI_VQ,
    OTHER_STAGES,
    OTHER_UNETS,
    Stored,
    manifest,
    manifest_state,
    rules_and_shapes,
    stored,
)

from resshift_jax.config import ModelConfig, PixelConfig, UNetConfig
from resshift_jax.latent_model import backbone_shapes, first_stage_shapes, flatten, unflatten
from resshift_jax.weights.mapping import (
    ConversionError,
    released_state_dict,
    to_ours,
    to_torch,
    torch_shapes,
    unet_buffers,
)
from resshift_jax.weights.zoo import VQ_F4

NETWORKS = {**MANIFEST_UNETS, **MANIFEST_STAGES}
SMALL = ("unet", "unet_mask", "autoencoder", "autoencoder_f8")
FULL = tuple(name for name in NETWORKS if name not in SMALL)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_manifest_is_covered_tensor_by_tensor(name):
    config = NETWORKS[name]
    found = {
        key: (shape, "float32") for key, shape in torch_shapes(*rules_and_shapes(config)).items()
    }
    if isinstance(config, UNetConfig):
        for key, buffer in unet_buffers(config).items():
            assert key not in found
            found[key] = buffer.shape, str(buffer.dtype)
    assert found == manifest(name)


@pytest.mark.parametrize("config", [*NETWORKS.values(), *OTHER_UNETS, *OTHER_STAGES])
def test_rules_are_one_to_one(config):
    rules, shapes = rules_and_shapes(config)
    assert len({rule.theirs for rule in rules}) == len({rule.ours for rule in rules}) == len(rules)
    assert {rule.ours for rule in rules} == set(shapes)


@pytest.mark.parametrize(
    ("function", "config"),
    [
        (backbone_shapes, MINI_UNET),
        (first_stage_shapes, MINI_VQ),
        (first_stage_shapes, PixelConfig()),
    ],
)
def test_shapes_are_traced_once_and_cannot_be_changed(function, config):
    assert function(replace(config)) is function(config)
    with pytest.raises(TypeError):
        function(config)["more"] = (1,)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in FULL)])
def test_values_come_back(name):
    rules, shapes = rules_and_shapes(NETWORKS[name])
    state = manifest_state(name)
    ours = to_ours(stored(state), rules, shapes)
    assert {key: value.shape for key, value in ours.items()} == shapes
    back = to_torch(ours, rules)
    assert set(back) == set(state)
    for key, value in back.items():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, state[key])


def test_layouts():
    """One tensor of each kind, element by element."""
    state = manifest_state("unet")
    ours = to_ours(stored(state), *rules_and_shapes(MINI_UNET))
    o, i, y, x = 5, 3, 2, 0
    assert ours["conv_in/kernel"][y, x, i, o] == state["input_blocks.0.0.weight"][o, i, y, x]
    assert ours["time_in/kernel"][i, o] == state["time_embed.0.weight"][o, i]
    swin = "input_blocks.1.1.patch_embed.proj.weight"
    assert ours["down_0_swin/proj_in/kernel"][i, o] == state[swin][o, i, 0, 0]
    table = "input_blocks.1.1.blocks.1.attn.relative_position_bias_table"
    np.testing.assert_array_equal(ours["down_0_swin/block_1/attention/bias_table"], state[table])


def test_buffers_of_the_small_network():
    buffers = unet_buffers(MINI_UNET)
    window = 4
    # Rows 12..15 are rolled together; there the halves of a window are apart, column by column.
    mask = buffers["input_blocks.1.1.blocks.1.attn_mask"]
    half = np.arange(16) % window // 2
    apart = np.where(half[:, None] == half, 0, -100)
    np.testing.assert_array_equal(mask, np.stack([np.zeros((16, 16))] * 12 + [apart] * 4))
    index = buffers["input_blocks.1.1.blocks.0.attn.relative_position_index"]
    for query, key in np.ndindex(16, 16):
        dy, dx = query // window - key // window, query % window - key % window
        assert index[query, key] == (dy + 3) * 7 + dx + 3


def test_buffers_do_not_reach_our_parameters():
    config = ModelConfig(unet=MINI_UNET, first_stage=MINI_VQ)
    rules, shapes = rules_and_shapes(MINI_UNET)
    ours = to_ours(stored(manifest_state("unet")), rules, shapes)
    released = released_state_dict(config, {"unet": ours, "first_stage": {}})
    assert set(released["unet"]) == set(manifest("unet"))
    assert released["first_stage"] == {}
    again = to_ours(stored(released["unet"]), rules, shapes)
    for name, value in again.items():
        np.testing.assert_array_equal(value, ours[name])


def test_every_misfit_is_listed_at_once():
    state = stored(manifest_state("autoencoder"))
    del state["encoder.conv_in.bias"]
    del state["decoder.mid.attn_1.q.weight"]
    state["loss.logvar"] = Stored(np.zeros(1))
    state["quantize.embedding.weight"] = Stored(np.zeros((256, 4), np.float32))
    with pytest.raises(ConversionError) as caught:
        to_ours(state, *rules_and_shapes(MINI_VQ))
    first, *problems = str(caught.value).splitlines()
    assert first == "4 tensors do not fit:"
    assert sorted(problems) == [
        "  missing: decoder.mid.attn_1.q.weight (128, 128, 1, 1)",
        "  missing: encoder.conv_in.bias (32,)",
        "  shape: quantize.embedding.weight is (256, 4), (256, 3) expected",
        "  unknown: loss.logvar (1,)",
    ]


def test_another_networks_file_is_refused_before_anything_is_read():
    class Unread:
        shape = (1,)

        def load(self):
            raise AssertionError("read")

    state = {name: Unread() for name in manifest_state("autoencoder")}
    with pytest.raises(ConversionError, match=f"^{len(state)} tensors do not fit"):
        to_ours(state, *rules_and_shapes(MINI_VQ))
    with pytest.raises(ConversionError, match=r"missing: encoder\.down\.1\.block\.0\.norm1\.w"):
        to_ours({}, *rules_and_shapes(VQ_F4))


def test_unflatten_undoes_flatten():
    tree = {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b/c": 1, "a/b/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
