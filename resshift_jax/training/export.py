"""Runs and weight files in; one weight file out, with network, first stage and settings.

Of several, where each went on from the same weights, it is the mean of their weights, which is
often better than any of them (model soups, arXiv 2203.05482).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from resshift_jax.chain import make_chain
from resshift_jax.config import ModelConfig
from resshift_jax.latent_model import flatten
from resshift_jax.settings import ConfigError
from resshift_jax.training.weights import FIRST_STAGE, read_ema
from resshift_jax.weights import store
from resshift_jax.weights.mapping import FlatParams


def write_model(
    path: Path,
    model: ModelConfig,
    params: Mapping[str, Any],
    dtype: DTypeLike = np.float32,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes {"unet": tree, "first_stage": tree} with the model's configuration, whole or not.

    Raises:
        OSError: the file cannot be written.
    """
    flat = {
        part: {name: np.asarray(value) for name, value in flatten(tree).items()}
        for part, tree in params.items()
    }
    store.save(path, model, flat, dtype, notes)


def export(
    sources: Sequence[Path],
    path: Path,
    step: int | None = None,
    dtype: DTypeLike = np.float32,
    *,
    sampler: str | None = None,
    sampling_steps: int | None = None,
) -> str:
    """Writes the mean of the weights of runs and of .safetensors files; what they are, in words.

    Of a run it is the EMA of the newest sound checkpoint, or of that after `step`.

    sampler, sampling_steps: by which the file is sampled unless told otherwise; None: as before.

    Raises:
        FileNotFoundError: no run or file there, or no such checkpoint.
        ValueError: a file that cannot be read, weights of different models, or a path that is no
            .safetensors.
        OSError: no checkpoint is sound, or the file cannot be written.
    """
    if path.suffix != ".safetensors":  # perhaps the last run, and no path
        raise ValueError(f"{path}: cannot be written, name a .safetensors file")
    words, models, weights = zip(*(_read(source, step) for source in sources), strict=True)
    for source, model, params in zip(sources, models, weights, strict=True):
        if model != models[0] or not _same(params["first_stage"], weights[0]["first_stage"]):
            raise ConfigError(
                f"{source}: not the model and the first stage of {sources[0]}, which a mean needs"
            )
    model = _with_sampler(models[0], sampler, sampling_steps)
    unet = _mean([params["unet"] for params in weights])
    params = {"unet": unet, "first_stage": weights[0]["first_stage"]}
    write_model(path, model, params, dtype, notes={"weights": "; ".join(words)})
    return ("the mean of " if len(words) > 1 else "") + "; ".join(words)


def _with_sampler(
    model: ModelConfig, sampler: str | None, sampling_steps: int | None
) -> ModelConfig:
    chain = model.chain
    if sampler is not None and sampler != chain.sampler:
        chain = replace(chain, sampler=sampler, sampling_steps=None)
    if sampling_steps is not None:
        chain = replace(chain, sampling_steps=sampling_steps)
    make_chain(chain, in_pixels=model.first_stage.in_pixels)  # refuses what it cannot take
    return replace(model, chain=chain)


def _read(source: Path, step: int | None) -> tuple[str, ModelConfig, store.Params]:
    """What it is, its model and its weights."""
    if source.suffix == ".safetensors":
        return (source.name, *store.load(source))
    found, model, ema = read_ema(source, step)
    params: store.Params = {"unet": ema, "first_stage": {}}
    if model.first_stage.has_params:
        if not (source / FIRST_STAGE).is_file():
            raise FileNotFoundError(
                f"{source / FIRST_STAGE}: not there, the first stage of that run"
            )
        params["first_stage"] = store.read_tensors(source / FIRST_STAGE)
    return f"the EMA of {source.name} after {found} steps", model, params


def _mean(weights: Sequence[FlatParams]) -> FlatParams:
    return {
        name: np.mean([np.asarray(flat[name], np.float32) for flat in weights], axis=0)
        for name in weights[0]
    }


def _same(one: FlatParams, other: FlatParams) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
