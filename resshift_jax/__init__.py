"""ResShift in JAX: a low-quality image in, a restored one out.

    import resshift_jax
    model = resshift_jax.load()  # or load("resshift_realsrx4_s15_v2.pth")
    hq = model(lq)  # (H, W, 3) uint8 -> (4H, 4W, 3) uint8

The parts are pure functions: `restore`, `LatentModel`, the chain in `chain`, the networks in `nn`;
of training `make_step`, `sample_losses` and their like (examples/train_loop.py).
Notices, such as which weights are used, are logged under "resshift_jax".
"""

import logging
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from resshift_jax.chain import SAMPLERS, Chain, make_chain
from resshift_jax.config import ChainConfig, ModelConfig, UNetConfig, VQConfig
from resshift_jax.inference.model import Model, load
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.latent_model import LatentModel
from resshift_jax.restore import restore

if TYPE_CHECKING:
    from resshift_jax.data.config import SourceConfig
    from resshift_jax.data.loader import Loader
    from resshift_jax.degradation.pairs import Pair, make_pairs
    from resshift_jax.image_io.photo import Photo, read_photo, write_photo
    from resshift_jax.training.config import TrainingConfig
    from resshift_jax.training.config_file import find_config, read_config
    from resshift_jax.training.export import write_model
    from resshift_jax.training.losses import LossConfig, sample_losses
    from resshift_jax.training.mesh import make_mesh, to_global
    from resshift_jax.training.state import TrainingState, sharded_init
    from resshift_jax.training.step import StepMetrics, make_prepare, make_step
    from resshift_jax.training.weights import load_frozen

__all__ = [
    "SAMPLERS",
    "Chain",
    "ChainConfig",
    "LatentModel",
    "Loader",
    "LossConfig",
    "Model",
    "ModelConfig",
    "Pair",
    "Photo",
    "RestoreOptions",
    "SourceConfig",
    "StepMetrics",
    "TrainingConfig",
    "TrainingState",
    "UNetConfig",
    "VQConfig",
    "__version__",
    "find_config",
    "load",
    "load_frozen",
    "make_chain",
    "make_mesh",
    "make_pairs",
    "make_prepare",
    "make_step",
    "read_config",
    "read_photo",
    "restore",
    "sample_losses",
    "sharded_init",
    "to_global",
    "write_model",
    "write_photo",
]

# Public names of modules that are not imported before they are asked for; training needs its extra.
_LAZY = {
    "SourceConfig": "data.config",
    "Loader": "data.loader",
    "Pair": "degradation.pairs",
    "make_pairs": "degradation.pairs",
    "Photo": "image_io.photo",
    "read_photo": "image_io.photo",
    "write_photo": "image_io.photo",
    "TrainingConfig": "training.config",
    "find_config": "training.config_file",
    "read_config": "training.config_file",
    "write_model": "training.export",
    "LossConfig": "training.losses",
    "sample_losses": "training.losses",
    "make_mesh": "training.mesh",
    "to_global": "training.mesh",
    "TrainingState": "training.state",
    "sharded_init": "training.state",
    "StepMetrics": "training.step",
    "make_prepare": "training.step",
    "make_step": "training.step",
    "load_frozen": "training.weights",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


try:
    __version__ = version("resshift-jax")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

logging.getLogger(__name__).addHandler(logging.NullHandler())
