"""Where a run's parameters come from: its configuration in, trees of numpy arrays out.

The network starts from random parameters, a weight file, or another run; the first stage, LPIPS and
a teacher are not trained.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resshift_jax.config import FirstStageConfig, ModelConfig, UNetConfig, model_config
from resshift_jax.latent_model import LatentModel, first_stage_shapes, flatten, unflatten
from resshift_jax.nn.lpips import LPIPS
from resshift_jax.settings import ConfigError, leaves, to_dict
from resshift_jax.training.checkpoints.checkpoint import read_part
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.losses import teacher_of
from resshift_jax.weights import store
from resshift_jax.weights.load import load_weights, read_first_stage
from resshift_jax.weights.lpips import load_lpips
from resshift_jax.weights.mapping import FlatParams
from resshift_jax.weights.released import load_released, obtain_first_stage
from resshift_jax.weights.zoo import release_of_file

FIRST_STAGE = "first_stage.safetensors"
TEACHER = "teacher.safetensors"
CHECKPOINTS = "checkpoints"

Tree = dict[str, Any]

logger = logging.getLogger(__name__)


class Teacher(NamedTuple):
    """A teacher's model, and the parameters of its backbone."""

    model: ModelConfig
    params: FlatParams


def load_teacher(config: TrainingConfig, run: Path | None = None) -> Teacher | None:
    """The teacher that loss.teacher names; None: there is none.

    run: the folder of one that goes on, with the teacher that it began with.

    Raises:
        FileNotFoundError, ValueError: no such file or run; the line says which.
    """
    name = config.loss.teacher
    if name is None:
        return None
    path = Path(name) if run is None else run / TEACHER
    if path.is_dir():
        _, model, flat = read_ema(path)
        return Teacher(model, flat)
    release = release_of_file(path.stem)
    if not path.exists() and path.name in (path.stem, f"{path.stem}.pth") and release is not None:
        model, params = load_released(release.config.task, release.version)
    else:
        expected = config.loss.teacher_model if path.suffix == ".pth" else None
        model, params = load_weights(path, expected=expected, need_first_stage=False)
    return Teacher(model, params["unet"])


def load_frozen(
    config: TrainingConfig, run: Path | None = None, teacher: Teacher | None = None
) -> dict[str, Tree]:
    """The parameters that are not trained.

    "first_stage", and where needed LPIPS as "vgg", "alex", and the teacher's backbone as "teacher".

    run: the folder of one that goes on, with the first stage that it began with.

    Raises:
        FileNotFoundError, ValueError: a file is absent or does not fit; the line says which.
    """
    frozen = {"first_stage": unflatten(load_first_stage(config, run))}
    for network in config.loss.networks:
        frozen[network] = load_lpips(network, config.lpips_file(network))
    if teacher is not None:
        frozen["teacher"] = _as_float32(teacher.params)
    return frozen


def abstract_frozen(config: TrainingConfig) -> dict[str, Any]:
    """The shapes of the parameters that are not trained; see `load_frozen`."""
    shapes = first_stage_shapes(config.model.first_stage)
    stage = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    frozen: dict[str, Any] = {"first_stage": unflatten(stage)}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    for network in config.loss.networks:
        init = partial(LPIPS(network).init, jax.random.key(0))
        frozen[network] = jax.eval_shape(init, image, image)["params"]
    if config.loss.teacher is not None:
        teacher = teacher_of(LatentModel(config.model), config.loss)
        frozen["teacher"] = jax.eval_shape(teacher.init, jax.random.key(0))
    return frozen


def load_first_stage(config: TrainingConfig, run: Path | None = None) -> FlatParams:
    """The parameters of the first stage, none where it has none.

    Those of the run that goes on; or else of `first_stage_weights`, of what the network starts
    from, or as published.
    """
    stage = config.model.first_stage
    if not stage.has_params:
        return {}
    start = Path(config.init) if config.init is not None else None
    if run is not None and (run / FIRST_STAGE).is_file():
        return _read_kept(run, stage)
    if config.first_stage_weights is not None:
        return read_first_stage(Path(config.first_stage_weights), stage)[1]
    if start is not None and (start / FIRST_STAGE).is_file():
        return _read_kept(start, stage)
    if start is not None and start.suffix == ".safetensors" and start.is_file():
        embedded = load_weights(start, need_first_stage=False)[1]["first_stage"]
        if embedded:
            return _require_fit(start, embedded, stage)
    try:
        path = obtain_first_stage(stage)
    except OSError as e:
        raise type(e)(f"{e}; in training, first_stage_weights=FILE names one") from e
    return read_first_stage(path, stage)[1]


def keep_frozen(folder: Path, first_stage: FlatParams, teacher: Teacher | None) -> None:
    """Keeps a first stage and a teacher with the run, for which they must stay the same."""
    if first_stage:
        store.write_tensors(folder / FIRST_STAGE, first_stage)
    if teacher is not None:
        store.save(folder / TEACHER, teacher.model, {"unet": teacher.params, "first_stage": {}})


def load_init(config: TrainingConfig, teacher: Teacher | None = None) -> Tree | None:
    """The parameters that the network starts from; None: random ones.

    Those of `init`, to which blocks of the pixel head may be added; or a copy of the teacher, if
    its network is the same.

    Raises:
        FileNotFoundError, ValueError: no such file or run, or one of another network.
    """
    if config.init is None:
        if teacher is None:
            return None
        alike = teacher.model.unet == config.model.unet
        words = "a copy of its teacher" if alike else "random parameters: its teacher's differs"
        logger.info("the network starts from %s", words)
        return _as_float32(teacher.params) if alike else None
    path = Path(config.init)
    if path.is_dir():
        _, model, flat = read_ema(path)
        network = model.unet
    else:
        model, params = load_weights(
            path, task=config.model.task if path.suffix == ".pth" else None,
            expected=config.model if path.suffix == ".pth" else None, need_first_stage=False,
        )  # fmt: skip
        network, flat = model.unet, params["unet"]
    if _has_fewer_pixel_blocks(network, config.model.unet):
        logger.info("init: %s has fewer pixel_blocks; the others change nothing at first", path)
        flat = flatten(LatentModel(config.model).init(jax.random.key(config.seed))) | dict(flat)
    elif network != config.model.unet:
        raise ConfigError(f"init: {path} holds another network, {_difference(network, config)}")
    return _as_float32(flat)


def _has_fewer_pixel_blocks(network: Any, wanted: Any) -> bool:
    if not isinstance(network, UNetConfig) or not isinstance(wanted, UNetConfig):
        return False
    blocks = wanted.pixel_blocks
    return network.pixel_blocks < blocks and replace(network, pixel_blocks=blocks) == wanted


def _as_float32(flat: FlatParams) -> Tree:
    return unflatten({name: np.asarray(value, np.float32) for name, value in flat.items()})


def _difference(network: Any, config: TrainingConfig) -> str:
    """The first setting of model.unet that a network does not have as the configuration says."""
    found, wanted = leaves(to_dict(network)), leaves(to_dict(config.model.unet))
    key = next(key for key in [*wanted, *found] if found.get(key) != wanted.get(key))
    return f"with model.unet.{key}={found.get(key)}, here it is {wanted.get(key)}"


def read_ema(run: Path, step: int | None = None) -> tuple[int, ModelConfig, FlatParams]:
    """The step, the model and the EMA of a run's newest sound checkpoint, or of that of `step`.

    Raises:
        FileNotFoundError: no run there, or no checkpoint of that step.
        CheckpointError: none is sound.
    """
    found, meta, ema = read_part(run / CHECKPOINTS, "ema", step)
    flat = {name: np.asarray(value) for name, value in flatten(ema).items()}
    return found, model_config(meta["config"]["model"]), flat


def _read_kept(run: Path, stage: FirstStageConfig) -> FlatParams:
    return _require_fit(run / FIRST_STAGE, store.read_tensors(run / FIRST_STAGE), stage)


def _require_fit(path: Path, params: FlatParams, stage: FirstStageConfig) -> FlatParams:
    if {name: value.shape for name, value in params.items()} != dict(first_stage_shapes(stage)):
        raise ConfigError(f"{path}: not the first stage that model.first_stage describes")
    return params
