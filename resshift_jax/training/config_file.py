"""A YAML file and settings of the command line in, a checked TrainingConfig out, and back to YAML.

A file may name another as its `base`, and then holds what differs from it. Keys that were renamed
since are taken by their names of before, too, which is logged.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resshift_jax.files import written_whole
from resshift_jax.settings import (
    ConfigError,
    from_dict,
    leaves,
    merged,
    renamed,
    renamed_key,
    to_dict,
    unknown,
)
from resshift_jax.training.config import RENAMED, TrainingConfig

logger = logging.getLogger(__name__)


def configs_folder() -> Path:
    """Of the configurations that come with the package."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"  # in a checkout


def find_config(name: str) -> Path:
    """The file of a configuration: a path, or the name of one that comes with the package.

    Raises:
        ConfigError: neither; the line has the names there are.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    names = sorted(file.stem for file in configs_folder().glob("*.yaml"))
    if name not in names:
        raise ConfigError(unknown(name, names, "configuration, and no .yaml file"))
    return configs_folder() / f"{name}.yaml"


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The configuration of a file, with settings such as "optimizer.warmup=100" changed.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: a file that cannot be read, an unknown key, told with the nearest one, or a
            value that cannot be used.
    """
    values = merged(to_dict(TrainingConfig()), _read(path))
    for setting in overrides:
        if "=" not in setting:
            raise ConfigError(f"{setting}: a setting is given as key=value")
        try:
            change = OmegaConf.to_container(OmegaConf.from_dotlist([setting]), resolve=True)
        except (OmegaConfBaseException, YAMLError) as e:
            raise ConfigError(f"{setting}: cannot be read, {_one_line(e)}") from e
        values = merged(values, _as_now(setting, change))
    try:
        return from_dict(TrainingConfig, values)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


def write_config(path: Path, config: TrainingConfig) -> None:
    """Writes the whole configuration, defaults included.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_text(to_yaml(config))


def to_yaml(config: TrainingConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(_lists(to_dict(config))))


def _read(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a file and of its bases, of which it is one of `readers`' itself."""
    if path in readers:
        raise ConfigError(f"{path}: its own base")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{path}: no such file") from e
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as e:
        raise ConfigError(f"{path}: cannot be read, {_one_line(e)}") from e
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a list, groups of settings needed")
    settings = _as_now(str(path), {str(key): value for key, value in values.items()})
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: {base!r} given, the name of a file needed")
    return merged(_read(path.parent / base, (*readers, path)), settings)


def _as_now(where: str, values: Any) -> dict[str, Any]:
    """The settings by their names of now; those that had others are logged."""
    changed: dict[str, str] = {}
    for old, value in leaves(values).items():
        new, _ = renamed_key(old, value, RENAMED)
        if new != old:  # of a group, one line for all that is in it
            before, now = old.split("."), new.split(".")
            while len(before) > 1 and before[-1] == now[-1]:
                before.pop()
                now.pop()
            changed[".".join(before)] = ".".join(now)
    for old, new in changed.items():
        logger.warning("%s: %s is called %s now", where, old, new)
    return renamed(values, RENAMED)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _lists(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
