"""Which network a released state dict holds: names and shapes in, its configuration out."""

import math
import re
from collections.abc import Mapping

from resshift_jax.config import UNetConfig, VQConfig
from resshift_jax.settings import ConfigError
from resshift_jax.weights.mapping import ConversionError, StoredTensor

State = Mapping[str, StoredTensor]


def is_first_stage(state: State) -> bool:
    """Whether the tensors are named like those of a VQ autoencoder."""
    return any(name.startswith("decoder.up.") for name in state)


def recognize_unet(state: State) -> UNetConfig:
    """The configuration of a Swin-UNet.

    Its training size is read off the attention masks, or without them off the deepest window.

    Raises:
        ConversionError: the tensors are not those of a Swin-UNet of this family.
    """
    try:
        return _unet(state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError, ConfigError) as e:
        raise ConversionError(f"not a Swin-UNet of this family: {_describe(e)}") from e


def recognize_first_stage(state: State, name: str) -> VQConfig:
    """The configuration of a VQ autoencoder that is called `name`.

    Raises:
        ConversionError: the tensors are not those of a VQ autoencoder of this family.
    """
    try:
        return _first_stage(state, name)
    except (KeyError, ValueError, IndexError, ZeroDivisionError, ConfigError) as e:
        raise ConversionError(f"not a VQ autoencoder of this family: {_describe(e)}") from e


def _describe(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _unet(state: State) -> UNetConfig:
    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[name].shape)

    base, in_channels = shape("input_blocks.0.0.weight")[:2]
    latent = shape("out.2.weight")[0]

    # A level ends in a downsampler, so the first of them tells how many blocks a level has.
    downsamplers = _indices(state, r"input_blocks\.(\d+)\.0\.op\.weight")
    num_blocks = len(_indices(state, r"input_blocks\.(\d+)\.0\.in_layers\.0\.weight"))
    levels = len(downsamplers) + 1
    num_res_blocks = num_blocks // levels
    per_level = num_res_blocks + 1
    widths = [
        shape(f"input_blocks.{1 + level * per_level}.0.out_layers.3.weight")[0]
        for level in range(levels)
    ]

    halvings = len(_indices(state, r"feature_extractor\.(\d+)\.op\.weight"))
    condition = shape("feature_extractor.0.weight")[1] if halvings else in_channels - latent

    swin = "input_blocks.1.1"
    table_rows, heads = shape(f"{swin}.blocks.0.attn.relative_position_bias_table")
    swin_channels = shape(f"{swin}.patch_embed.proj.weight")[0]
    window = _window(table_rows)
    masks = state.get(f"{swin}.blocks.1.attn_mask")
    if masks is not None:
        image_size = math.isqrt(masks.shape[0]) * window
    else:
        deepest = shape("middle_block.1.blocks.0.attn.relative_position_bias_table")[0]
        image_size = _window(deepest) * 2 ** (levels - 1)
    return UNetConfig(
        image_size=image_size,
        latent_channels=latent,
        cond_size=image_size * 2**halvings,
        cond_mask=condition == 4,
        base_channels=base,
        channel_mult=tuple(width // base for width in widths),
        num_res_blocks=num_res_blocks,
        swin_channels=swin_channels,
        swin_depth=len(_indices(state, re.escape(swin) + r"\.blocks\.(\d+)\.norm1\.weight")),
        head_channels=swin_channels // heads,
        window_size=window,
        mlp_ratio=shape(f"{swin}.blocks.0.mlp.fc1.weight")[0] // swin_channels,
    )


def _first_stage(state: State, name: str) -> VQConfig:
    base = state["encoder.conv_in.weight"].shape[0]
    levels = len(_indices(state, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight"))
    size, channels = state["quantize.embedding.weight"].shape
    return VQConfig(
        base_channels=base,
        channel_mult=tuple(
            state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // base
            for level in range(levels)
        ),
        num_res_blocks=tuple(
            len(_indices(state, rf"encoder\.down\.{level}\.block\.(\d+)\.conv1\.weight"))
            for level in range(levels)
        ),
        latent_channels=channels,
        codebook_size=size,
        name=name,
    )


def _indices(state: State, pattern: str) -> set[int]:
    matches = (re.fullmatch(pattern, name) for name in state)
    return {int(match[1]) for match in matches if match}


def _window(table_rows: int) -> int:
    """The window w of a bias table of (2w - 1)^2 rows."""
    return (math.isqrt(table_rows) + 1) // 2
