"""The model that ships with the package: nothing in, its configuration and parameters out."""

from pathlib import Path

from resshift_jax.config import ModelConfig
from resshift_jax.weights import store
from resshift_jax.weights.store import Params
from resshift_jax.weights.zoo import UnknownModelError

PATH = Path(__file__).parents[1] / "pretrained" / "small_x4.safetensors"


def bundled_config(version: str | None = None) -> ModelConfig:
    """Its configuration.

    Raises:
        UnknownModelError: a version, of which there is only one.
        FileNotFoundError, WeightFileError: an installation without the file, or a damaged one.
    """
    _require_there(version)
    return store.load_config(PATH)


def load_bundled(version: str | None = None) -> tuple[ModelConfig, Params]:
    """Its configuration and parameters.

    Raises:
        UnknownModelError, FileNotFoundError, WeightFileError: as `bundled_config`.
    """
    _require_there(version)
    return store.load(PATH)


def _require_there(version: str | None) -> None:
    if version is not None:
        raise UnknownModelError(
            f"version={version}: the model that ships with the package has no versions; name a "
            f"published model with task=NAME"
        )
    if not PATH.is_file():
        raise FileNotFoundError(
            f"{PATH}: not there, though it ships with the package; install that anew, or name "
            f"another model with task=NAME or weights=FILE"
        )
