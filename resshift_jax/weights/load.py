"""Any weight file in, (configuration, parameters) out: released .pth files and our safetensors."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resshift_jax.config import (
    FirstStageConfig,
    ModelConfig,
    UNetConfig,
    with_overrides,
)
from resshift_jax.latent_model import backbone_shapes, first_stage_shapes
from resshift_jax.settings import ConfigError, to_dict
from resshift_jax.weights import store
from resshift_jax.weights.mapping import (
    ConversionError,
    FlatParams,
    backbone_rules,
    first_stage_rules,
    to_ours,
)
from resshift_jax.weights.recognize import is_first_stage, recognize_first_stage, recognize_unet
from resshift_jax.weights.store import Params
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch.file import TorchTensor
from resshift_jax.weights.zoo import (
    UnknownModelError,
    any_release,
    canonical_task,
    find_releases,
    released_config,
)


def cache_dir() -> Path:
    """Where weights are looked for besides their own folder: $RESSHIFT_CACHE, or below ~/.cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "resshift-jax"
    return Path(os.environ.get("RESSHIFT_CACHE") or default).expanduser()


def load_weights(
    path: Path,
    *,
    first_stage: Path | None = None,
    task: str | None = None,
    version: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    expected: ModelConfig | None = None,
    need_first_stage: bool = True,
    cache: Path | None = None,
) -> tuple[ModelConfig, Params]:
    """The configuration and flat parameters of a weight file.

    Args:
        path: a released .pth, or our safetensors.
        first_stage: a .pth of the autoencoder, used instead of an embedded one.
        task, version: of a .pth whose name does not tell, see `zoo.RELEASED` and `zoo.ALIASES`;
            those of a safetensors are checked, the version as far as its chain tells it.
        overrides: dotted configuration keys -> values, for a .pth.
        expected: the configuration that the file must have, tensor by tensor; nothing is then
            taken from its name, and no other widths are recognised.
        need_first_stage: look for the first stage beside the file and in the cache where it is
            neither embedded nor given; if False, leave it out.
        cache: the cache's folder; None: `cache_dir()`.

    Raises:
        FileNotFoundError: a file is absent; the message says what to put where.
        ValueError: a file that cannot be used: WeightFileError, ConversionError, ConfigError or
            UnknownModelError.
    """
    if path.suffix == ".safetensors":
        config, params = store.load(path)
        _check_ours(path, config, task, version, expected)
        if overrides:
            raise ConfigError(f"{path}: has its own settings, {', '.join(overrides)} given")
    else:
        config, params = _from_torch(path, task, version, overrides or {}, expected)
    if first_stage is None and need_first_stage and _lacks_first_stage(config, params):
        first_stage = _find_first_stage(config.first_stage, path, cache or cache_dir())
    if first_stage is not None:
        stage, params["first_stage"] = read_first_stage(first_stage, config.first_stage)
        config = replace(config, first_stage=stage)
    return config, params


def read_first_stage(
    path: Path, expected: FirstStageConfig | None = None
) -> tuple[FirstStageConfig, FlatParams]:
    """The autoencoder of a .pth.

    Args:
        expected: what the model needs; a file of another layout is refused.
    """
    state = _read(path)
    if expected is not None and not expected.has_params:
        raise ConversionError(f"{path}: given, but this model has no autoencoder as first stage")
    try:
        config = expected or recognize_first_stage(state, path.stem)
        # Report a misfit in full, tensor by tensor, rather than as another configuration.
        params = to_ours(state, first_stage_rules(config), first_stage_shapes(config))
    except ConversionError as e:
        wanted = f" as {expected.name}" if expected else ""
        raise ConversionError(f"{path}: does not fit{wanted}; {e}") from e
    return config, params


def _check_ours(
    path: Path,
    config: ModelConfig,
    task: str | None,
    version: str | None,
    expected: ModelConfig | None,
) -> None:
    """Refuses one of our files that is another model than the one that was named."""
    if task is not None and canonical_task(task) != config.task:
        raise UnknownModelError(f"{path}: its task is {config.task}, task={task} given")
    if version is not None:
        try:
            (release,) = find_releases(config.task, version)
        except UnknownModelError as e:
            raise UnknownModelError(f"{path}: {e}") from e
        if config.chain != release.config.chain:
            raise UnknownModelError(
                f"{path}: its chain is not that of version={version}, it was trained with "
                f"{config.chain.num_timesteps} steps and {version} with "
                f"{release.config.chain.num_timesteps}"
            )
    if expected is not None and config != expected:
        wanted = to_dict(expected)
        keys = ", ".join(key for key, value in to_dict(config).items() if value != wanted[key])
        raise ConversionError(f"{path}: not the model {expected.task} as released, {keys} differ")


def _from_torch(
    path: Path,
    task: str | None,
    version: str | None,
    overrides: Mapping[str, Any],
    expected: ModelConfig | None,
) -> tuple[ModelConfig, Params]:
    state = _read(path)
    if is_first_stage(state):
        raise ConversionError(
            f"{path}: an autoencoder alone; give the model's file, and this one as first_stage=FILE"
        )
    config = with_overrides(expected or _configure(path, state, task, version), overrides)
    try:
        params = to_ours(state, backbone_rules(config.unet), backbone_shapes(config.unet))
    except ConversionError as e:
        raise ConversionError(f"{path}: does not fit as {config.task}; {e}") from e
    return config, {"unet": params, "first_stage": {}}


def _configure(
    path: Path, state: Mapping[str, TorchTensor], task: str | None, version: str | None
) -> ModelConfig:
    """The configuration that a .pth's name and its tensors tell."""
    try:
        unet = recognize_unet(state)
    except ConversionError:
        # Its mismatches with a released network of the task say more than what is odd about it.
        return any_release(path.stem, task).config
    try:
        return _with_unet(released_config(path.stem, task, version), unet)
    except UnknownModelError as e:
        raise UnknownModelError(f"{path}: {e}") from e


def _with_unet(config: ModelConfig, unet: UNetConfig) -> ModelConfig:
    """The task's configuration with the widths found in the file, where they make a model of it."""
    try:
        return replace(config, unet=unet)
    except ConfigError:
        return config  # another kind of network: the mismatches will be listed


def _read(path: Path) -> dict[str, TorchTensor]:
    if path.is_dir() or not path.exists():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"{path}: {found} there, a weight file needed")
    return torch_file.read(path)


def _lacks_first_stage(config: ModelConfig, params: Params) -> bool:
    return config.first_stage.has_params and not params["first_stage"]


def _find_first_stage(config: FirstStageConfig, path: Path, cache: Path) -> Path:
    name = f"{config.name}.pth"
    for folder in (path.parent, cache):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{path}: needs the first stage {name}, found neither beside it nor in {cache}; "
        f"put it there, or name it with first_stage=FILE"
    )
