"""Stand-in weights in the released form, for the benchmarks and the tests.

Every tensor is a function of its own name and shape, so the network has the released size and runs
the released way, but nothing was trained: it restores nothing.
"""

import zlib
from pathlib import Path

import numpy as np

from resshift_jax.config import ModelConfig
from resshift_jax.latent_model import backbone_shapes, first_stage_shapes
from resshift_jax.weights.mapping import (
    Shapes,
    backbone_rules,
    first_stage_rules,
    torch_shapes,
)
from resshift_jax.weights.torch import file as torch_file


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of one tensor, in PyTorch's layout, float32."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("relative_position_bias_table"):
        return 0.5 * x
    if name.endswith("embedding.weight"):
        return x
    if len(shape) >= 2:
        return x / np.sqrt(np.prod(shape[1:], dtype=np.float64)).astype(np.float32)
    return (1.0 + 0.1 * x if name.endswith("weight") else 0.1 * x).astype(np.float32)


def state_dict(shapes: Shapes) -> dict[str, np.ndarray]:
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def released_shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """Shapes of the network and of the first stage, by their released names."""
    unet = torch_shapes(backbone_rules(config.unet), backbone_shapes(config.unet))
    stage = config.first_stage
    if not stage.has_params:
        return unet, {}
    return unet, torch_shapes(first_stage_rules(stage), first_stage_shapes(stage))


def write(folder: Path, file: str, config: ModelConfig) -> None:
    """Writes FOLDER/file.pth, and the first stage beside it under its own name."""
    unet, stage = released_shapes(config)
    torch_file.write(folder / f"{file}.pth", state_dict(unet))
    if config.first_stage.has_params:
        torch_file.write(folder / f"{config.first_stage.name}.pth", state_dict(stage))
