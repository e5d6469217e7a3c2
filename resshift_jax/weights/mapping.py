"""The rule table between the released PyTorch names and layouts and ours, in both directions.

A `Rule` pairs one tensor of a released state dict with one parameter of our tree. The tables below
name the layers inside each kind of block; `unet_rules` and `vq_rules` place the blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from resshift_jax.config import BackboneConfig, FirstStageConfig, ModelConfig
from resshift_jax.nn.autoencoder import VQConfig
from resshift_jax.nn.swin import attention_mask, relative_position_index
from resshift_jax.nn.unet import UNetConfig

FlatParams = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


class ConversionError(ValueError):
    """A state dict that does not fit; the message lists every mismatch."""


class StoredTensor(Protocol):
    """A tensor that knows its shape before it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def load(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Layout:
    """How the axes of a tensor are arranged on both sides."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda w: w, lambda w: w)
CONV = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # OIHW, HWIO
LINEAR = Layout(lambda w: w.T, lambda w: w.T)  # (out, in), (in, out)
POINTWISE = Layout(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])  # OI11, (in, out)


@dataclass(frozen=True)
class Rule:
    """`theirs`, a name in the released state dict, is `ours`, a path in our tree."""

    theirs: str
    ours: str
    layout: Layout = SAME


def _weight_and_bias(theirs: str, ours: str, layout: Layout) -> Iterator[Rule]:
    yield Rule(f"{theirs}.weight", f"{ours}/kernel", layout)
    yield Rule(f"{theirs}.bias", f"{ours}/bias")


def _norm(theirs: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{theirs}.weight", f"{ours}/scale")
    yield Rule(f"{theirs}.bias", f"{ours}/bias")


# The layers of each kind of block: released name -> (our name, layout); None marks a norm.
Table = dict[str, tuple[str, Layout | None]]

_UNET_RES_BLOCK: Table = {
    "in_layers.0": ("norm1", None),
    "in_layers.2": ("conv1", CONV),
    "emb_layers.1": ("modulation", LINEAR),
    "out_layers.0": ("norm2", None),
    "out_layers.3": ("conv2", CONV),
}
_UNET_SHORTCUT: Table = {"skip_connection": ("shortcut", POINTWISE)}

_SWIN_LAYER: Table = {
    "patch_embed.proj": ("proj_in", POINTWISE),
    "patch_unembed.proj": ("proj_out", POINTWISE),
}
_SWIN_BLOCK: Table = {
    "norm1": ("norm1", None),
    "attn.qkv": ("attention/qkv", LINEAR),
    "attn.proj": ("attention/proj", LINEAR),
    "norm2": ("norm2", None),
    "mlp.fc1": ("mlp_in", POINTWISE),
    "mlp.fc2": ("mlp_out", POINTWISE),
}

_VQ_RES_BLOCK: Table = {
    "norm1": ("norm1", None),
    "conv1": ("conv1", CONV),
    "norm2": ("norm2", None),
    "conv2": ("conv2", CONV),
}
_VQ_SHORTCUT: Table = {"nin_shortcut": ("shortcut", POINTWISE)}
_VQ_ATTENTION: Table = {
    "norm": ("norm", None),
    "q": ("q", POINTWISE),
    "k": ("k", POINTWISE),
    "v": ("v", POINTWISE),
    "proj_out": ("proj_out", POINTWISE),
}


def _block(table: Table, theirs: str, ours: str) -> Iterator[Rule]:
    for their_layer, (our_layer, layout) in table.items():
        names = f"{theirs}.{their_layer}", f"{ours}/{our_layer}"
        yield from _norm(*names) if layout is None else _weight_and_bias(*names, layout)


def _encoder_blocks(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """The residual blocks of the encoder: (released name, our name)."""
    per_level = config.num_res_blocks + 1
    for level in range(config.num_levels):
        for i in range(config.num_res_blocks):
            yield f"input_blocks.{1 + level * per_level + i}", f"down_{level}_block_{i}"


def _decoder_blocks(config: UNetConfig) -> Iterator[tuple[str, str]]:
    per_level = config.num_res_blocks + 1
    for level in range(config.num_levels):
        first = (config.num_levels - 1 - level) * per_level
        for i in range(per_level):
            yield f"output_blocks.{first + i}", f"up_{level}_block_{i}"


def _swin_layers(config: UNetConfig) -> Iterator[tuple[str, str, int]]:
    """(released name, our name, level) of each Swin layer."""
    per_level = config.num_res_blocks + 1
    for level in range(config.num_levels):
        yield f"input_blocks.{1 + level * per_level}.1", f"down_{level}_swin", level
        first = (config.num_levels - 1 - level) * per_level
        yield f"output_blocks.{first}.1", f"up_{level}_swin", level
    yield "middle_block.1", "mid_swin", config.num_levels - 1


def unet_rules(config: UNetConfig) -> list[Rule]:
    """A rule for each parameter of the Swin-UNet.

    Raises:
        ConversionError: a network with layers that the released ones do not have.
    """
    if config.pixel_channels:
        raise ConversionError(
            f"unet.pixel_channels: {config.pixel_channels} given, layers for which the PyTorch "
            f"networks have no counterpart"
        )
    rules: list[Rule] = []
    rules += _weight_and_bias("time_embed.0", "time_in", LINEAR)
    rules += _weight_and_bias("time_embed.2", "time_out", LINEAR)
    for i in range(config.num_halvings):
        rules += _weight_and_bias(f"feature_extractor.{3 * i}", f"condition/conv_{i}", CONV)
        rules += _weight_and_bias(f"feature_extractor.{3 * i + 2}.op", f"condition/down_{i}", CONV)
    rules += _weight_and_bias("input_blocks.0.0", "conv_in", CONV)

    blocks = [*_encoder_blocks(config), *_decoder_blocks(config)]
    for theirs, ours in blocks:
        rules += _block(_UNET_RES_BLOCK, f"{theirs}.0", ours)
    for i in (0, 1):
        rules += _block(_UNET_RES_BLOCK, f"middle_block.{2 * i}", f"mid_block_{i}")
    for (theirs, ours), shortcut in zip(blocks, _has_shortcut(config), strict=True):
        if shortcut:
            rules += _block(_UNET_SHORTCUT, f"{theirs}.0", ours)

    for theirs, ours, _ in _swin_layers(config):
        rules += _block(_SWIN_LAYER, theirs, ours)
        for i in range(config.swin_depth):
            block = f"{theirs}.blocks.{i}", f"{ours}/block_{i}"
            rules += _block(_SWIN_BLOCK, *block)
            table = "attn.relative_position_bias_table", "attention/bias_table"
            rules += [Rule(f"{block[0]}.{table[0]}", f"{block[1]}/{table[1]}")]

    per_level = config.num_res_blocks + 1
    for level in range(config.num_levels - 1):
        theirs = f"input_blocks.{(level + 1) * per_level}.0.op"
        rules += _weight_and_bias(theirs, f"down_{level}_downsample", CONV)
    for level in range(1, config.num_levels):
        index = (config.num_levels - level) * per_level - 1
        rules += _weight_and_bias(f"output_blocks.{index}.1.conv", f"up_{level}_upsample", CONV)
    rules += _norm("out.0", "norm_out")
    rules += _weight_and_bias("out.2", "conv_out", CONV)
    return rules


def _has_shortcut(config: UNetConfig) -> Iterator[bool]:
    """For each block of the encoder, then of the decoder in order of level: do widths differ?"""
    before = 1
    for mult in config.channel_mult:
        for _ in range(config.num_res_blocks):
            yield mult != before
            before = mult
    for _ in config.channel_mult:  # the decoder's blocks take a skip beside their input
        yield from [True] * (config.num_res_blocks + 1)


def vq_rules(config: VQConfig) -> list[Rule]:
    """A rule for each parameter of the VQ autoencoder."""
    rules: list[Rule] = []

    def res_block(theirs: str, ours: str, shortcut: bool) -> None:
        rules.extend(_block(_VQ_RES_BLOCK, theirs, ours))
        if shortcut:
            rules.extend(_block(_VQ_SHORTCUT, theirs, ours))

    mult, blocks, last = config.channel_mult, config.num_res_blocks, len(config.channel_mult) - 1
    for side in ("encoder", "decoder"):
        rules += _weight_and_bias(f"{side}.conv_in", f"{side}/conv_in", CONV)
        for i in (0, 1):
            res_block(f"{side}.mid.block_{i + 1}", f"{side}/mid/block_{i}", shortcut=False)
        rules += _block(_VQ_ATTENTION, f"{side}.mid.attn_1", f"{side}/mid/attention")
        rules += _norm(f"{side}.norm_out", f"{side}/norm_out")
        rules += _weight_and_bias(f"{side}.conv_out", f"{side}/conv_out", CONV)
    for level in range(len(mult)):
        before = 1 if level == 0 else mult[level - 1]
        for i in range(blocks[level]):
            names = f"encoder.down.{level}.block.{i}", f"encoder/down_{level}_block_{i}"
            res_block(*names, shortcut=i == 0 and before != mult[level])
        if level < last:
            theirs = f"encoder.down.{level}.downsample.conv"
            rules += _weight_and_bias(theirs, f"encoder/down_{level}_downsample", CONV)
        above = mult[min(level + 1, last)]
        for i in range(blocks[level] + 1):
            names = f"decoder.up.{level}.block.{i}", f"decoder/up_{level}_block_{i}"
            res_block(*names, shortcut=i == 0 and above != mult[level])
        if level > 0:
            theirs = f"decoder.up.{level}.upsample.conv"
            rules += _weight_and_bias(theirs, f"decoder/up_{level}_upsample", CONV)
    rules += _weight_and_bias("quant_conv", "quant_conv", POINTWISE)
    rules += _weight_and_bias("post_quant_conv", "post_quant_conv", POINTWISE)
    rules += [Rule("quantize.embedding.weight", "codebook")]
    return rules


# The rules of each kind of network that the released ones have a counterpart of.
BACKBONE_RULES: dict[str, Callable[[Any], list[Rule]]] = {"swin_unet": unet_rules}
FIRST_STAGE_RULES: dict[str, Callable[[Any], list[Rule]]] = {"vq": vq_rules}


def backbone_rules(config: BackboneConfig) -> list[Rule]:
    """A rule for each parameter of a denoising network.

    Raises:
        ConversionError: a network that has no released counterpart.
    """
    return _rules(BACKBONE_RULES, "unet", config)


def first_stage_rules(config: FirstStageConfig) -> list[Rule]:
    """A rule for each parameter of a first stage.

    Raises:
        ConversionError: a first stage that has no released counterpart.
    """
    return _rules(FIRST_STAGE_RULES, "first_stage", config)


def _rules(
    table: Mapping[str, Callable[[Any], list[Rule]]],
    group: str,
    config: BackboneConfig | FirstStageConfig,
) -> list[Rule]:
    if config.kind not in table:
        raise ConversionError(
            f"{group}.kind: {config.kind} given, which has no counterpart in PyTorch; only "
            f"{', '.join(table)} has"
        )
    return table[config.kind](config)


def torch_shapes(rules: Iterable[Rule], shapes: Shapes) -> Shapes:
    """Released name -> shape in the released layout, for parameters of our shapes."""
    # Broadcasting one zero: shapes without memory.
    zero = np.zeros(())
    return {
        rule.theirs: rule.layout.to_torch(np.broadcast_to(zero, shapes[rule.ours])).shape
        for rule in rules
    }


def is_ignored(name: str) -> bool:
    """The buffers of a released file that are functions of the configuration."""
    return name.endswith((".relative_position_index", ".attn_mask"))


def to_ours(state: Mapping[str, StoredTensor], rules: list[Rule], shapes: Shapes) -> FlatParams:
    """Our parameters from a released state dict: each tensor used once, each parameter filled once.

    Args:
        state: released name -> tensor.
        rules: of the network in question.
        shapes: of our parameters.

    Raises:
        ConversionError: listing every missing, unknown and misshapen tensor.
    """
    assert {rule.ours for rule in rules} == set(shapes), "the rule table does not fit the network"
    expected = torch_shapes(rules, shapes)
    problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in state]
    for name, tensor in state.items():
        if name not in expected:
            if not is_ignored(name):
                problems.append(f"unknown: {name} {tuple(tensor.shape)}")
        elif tuple(tensor.shape) != expected[name]:
            problems.append(f"shape: {name} is {tuple(tensor.shape)}, {expected[name]} expected")
    if problems:
        raise ConversionError("\n  ".join([f"{len(problems)} tensors do not fit:", *problems]))
    return {
        rule.ours: np.ascontiguousarray(rule.layout.to_ours(state[rule.theirs].load()))
        for rule in rules
    }


def to_torch(params: FlatParams, rules: list[Rule]) -> dict[str, np.ndarray]:
    """A released-layout state dict, without buffers, from our parameters."""
    return {
        rule.theirs: np.ascontiguousarray(rule.layout.to_torch(params[rule.ours])) for rule in rules
    }


def unet_buffers(config: UNetConfig) -> dict[str, np.ndarray]:
    """The buffers of a released Swin-UNet: position indices, and masks at the training size."""
    buffers: dict[str, np.ndarray] = {}
    for name, _, level in _swin_layers(config):
        window, side = config.window(level), config.level_size(level)
        for i in range(config.swin_depth):
            block = f"{name}.blocks.{i}"
            index = relative_position_index(window).astype(np.int64)
            buffers[f"{block}.attn.relative_position_index"] = index
            if i % 2 and config.shifts(level):
                mask = np.asarray(attention_mask(side, side, window, config.window_mask))
                tokens = window * window
                buffers[f"{block}.attn_mask"] = mask.reshape(-1, tokens, tokens).astype(np.float32)
    return buffers


def released_state_dict(config: ModelConfig, params: Mapping[str, FlatParams]) -> dict[str, dict]:
    """{"unet": state dict with buffers, "first_stage": state dict or {}} of a model."""
    unet = to_torch(params["unet"], backbone_rules(config.unet))
    if isinstance(config.unet, UNetConfig):  # the only one with buffers
        unet.update(unet_buffers(config.unet))
    stage = {}
    if params.get("first_stage"):
        stage = to_torch(params["first_stage"], first_stage_rules(config.first_stage))
    return {"unet": unet, "first_stage": stage}
