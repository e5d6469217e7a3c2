"""Our weight files: one safetensors whose header carries the whole model configuration.

Tensors are named by their path, "unet/down_0_block_0/conv1/kernel" or "first_stage/...". A file
without a first stage names in its configuration the one that it needs.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import DTypeLike

from resshift_jax.config import ModelConfig, model_config
from resshift_jax.files import written_whole
from resshift_jax.latent_model import backbone_shapes, first_stage_shapes
from resshift_jax.settings import ConfigError, to_dict
from resshift_jax.weights.mapping import FlatParams
from resshift_jax.weights.torch.file import WeightFileError

FORMAT = "resshift-jax"
VERSION = "1"

STORAGE_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

Params = dict[str, FlatParams]


def save(
    path: Path,
    config: ModelConfig,
    params: Mapping[str, FlatParams],
    dtype: DTypeLike = np.float32,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a model, whole or not at all.

    Args:
        params: {"unet": flat parameters, "first_stage": flat parameters, possibly none}.
        dtype: of the stored values: float32, float16 or bfloat16.
        notes: more for the header, which `load_notes` gives back.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {
        f"{part}/{name}": np.ascontiguousarray(value, dtype)
        for part, flat in params.items()
        for name, value in flat.items()
    }
    header = {"format": FORMAT, "version": VERSION, "config": json.dumps(to_dict(config))}
    write_tensors(path, tensors, {**(notes or {}), **header})


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], header: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as temporary:
        try:
            safetensors.numpy.save_file(tensors, temporary, metadata=header)
        except safetensors.SafetensorError as e:  # of a full disk, too
            raise OSError(f"{path}: cannot be written, {e}") from e


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, in the dtype that they are stored in.

    Raises:
        WeightFileError: damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as e:
        raise WeightFileError(f"{path}: damaged file, {e}") from e


def read_header(path: Path) -> dict[str, str]:
    """The header of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        WeightFileError: damaged, or not a safetensors file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as e:
        raise WeightFileError(f"{path}: damaged, or not a safetensors file ({e})") from e


def load_notes(path: Path) -> dict[str, str]:
    """What the header of a file holds besides its format and its configuration.

    Raises:
        FileNotFoundError: no such file.
        WeightFileError: damaged, or not a safetensors file.
    """
    header = read_header(path)
    return {key: header[key] for key in header if key not in ("format", "version", "config")}


def load_config(path: Path) -> ModelConfig:
    """The configuration in a file's header.

    Raises:
        WeightFileError: not one of our files.
    """
    return _config(path, read_header(path))


def load(path: Path) -> tuple[ModelConfig, Params]:
    """The configuration and the parameters of a file, in the dtype that they are stored in.

    Raises:
        WeightFileError: not one of our files, or tensors that do not fit its configuration.
    """
    config = load_config(path)
    tensors = read_tensors(path)
    params: Params = {"unet": {}, "first_stage": {}}
    problems = []
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part in params:
            params[part][rest] = value
        else:
            problems.append(f"unknown: {name}")
    expected = {"unet": backbone_shapes(config.unet)}
    if params["first_stage"]:
        expected["first_stage"] = first_stage_shapes(config.first_stage)
    for part, shapes in expected.items():
        for name, shape in shapes.items():
            if name not in params[part]:
                problems.append(f"missing: {part}/{name} {shape}")
            elif params[part][name].shape != shape:
                found = params[part][name].shape
                problems.append(f"shape: {part}/{name} is {found}, {shape} expected")
        problems += [f"unknown: {part}/{name}" for name in params[part] if name not in shapes]
    if problems:
        count = f"{len(problems)} tensors do not fit its configuration:"
        raise WeightFileError("\n  ".join([f"{path}: {count}", *problems]))
    return config, params


def _config(path: Path, header: Mapping[str, str]) -> ModelConfig:
    if header.get("format") != FORMAT:
        raise WeightFileError(
            f"{path}: a safetensors file, but without the {FORMAT} header; convert the released "
            f".pth with: resshift convert IN.pth OUT.safetensors"
        )
    if header.get("version") != VERSION:
        raise WeightFileError(
            f"{path}: version {header.get('version')} of the format, this package reads {VERSION}"
        )
    try:
        values = json.loads(header["config"])
        if not isinstance(values, dict):
            raise ConfigError(f"{values!r} given, groups of settings needed")
        return model_config(values)
    except (KeyError, ValueError, ConfigError) as e:
        raise WeightFileError(f"{path}: its configuration cannot be read, {e}") from e
