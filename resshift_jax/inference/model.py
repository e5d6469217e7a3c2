"""A model as an object: a weight file in, something to call on images out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Float32, UInt8

from resshift_jax.config import ModelConfig
from resshift_jax.inference.batching import Request, Restorer
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Programs, Progress, replicate
from resshift_jax.latent_model import LatentModel, Params, unflatten
from resshift_jax.platform import compute_on
from resshift_jax.weights import bundled
from resshift_jax.weights.load import load_weights
from resshift_jax.weights.released import load_released
from resshift_jax.weights.zoo import BUNDLED

logger = logging.getLogger(__name__)

# One image, or a batch of B of one size; masks are bool, too.
Images = UInt8[np.ndarray, "*B h w 3"] | Float[np.ndarray, "*B h w 3"]
Restored = UInt8[np.ndarray, "*B H W 3"] | Float32[np.ndarray, "*B H W 3"]
Masks = UInt8[np.ndarray, "*B h w"] | Float[np.ndarray, "*B h w"] | Bool[np.ndarray, "*B h w"]


@dataclass(frozen=True, eq=False)
class Model:
    """A restoration model, with the programs that were compiled for it.

    Attributes:
        latent_model: everything about it but the weights.
        params: {"unet": tree, "first_stage": tree}, float32 arrays, a copy on each device.
        devices: which share the work.
    """

    latent_model: LatentModel
    params: Params = field(repr=False)
    devices: tuple[jax.Device, ...]
    _programs: dict[tuple[int | None, str | None], Programs] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self.latent_model.config

    @property
    def dtype(self) -> np.dtype:
        """Of the networks' computation."""
        return self.latent_model.compute.dtype

    def __call__(
        self,
        lq: Images,
        mask: Masks | None = None,
        options: RestoreOptions = RestoreOptions(),
        **changes: Any,
    ) -> Restored:
        """The restored image, or images.

        The result depends on the pixels, the options and the seed only: the same image in another
        batch is the same. One larger than a tile is cut into tiles and blended.

        Args:
            lq: (H, W, 3) or (B, H, W, 3), RGB; uint8, or float in [0, 1].
            mask: for inpainting models, (H, W) or (B, H, W); bool, uint8 or float in [0, 1], full
                where to fill.
            options: how it is restored.
            changes: fields of `RestoreOptions` that are to differ from `options`, as in
                model(lq, sampling_steps=4).

        Returns:
            (scale H, scale W, 3), or a batch of such, of lq's kind: uint8 or float32 in [0, 1].

        Raises:
            ValueError: an array of another shape or type, a mask missing or not wanted, or an
                option that does not fit.
            TypeError: a change that is no field of `RestoreOptions`.
            MemoryError: the device cannot hold a tile of this size.
            ArithmeticError: the result is not finite.
        """
        options = _changed(options, changes)
        single = lq.ndim == 3
        images = lq[None] if single else lq
        masks = mask[None] if mask is not None and single else mask
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"lq: shape {lq.shape} given, (H, W, 3) or (B, H, W, 3) needed")
        if masks is not None and len(masks) != len(images):
            raise ValueError(f"mask: shape {masks.shape} given, one for each image needed")
        requests = (
            Request(i, image, None if masks is None else masks[i]) for i, image in enumerate(images)
        )
        found: dict[int, np.ndarray] = {}
        for i, restored, error in self.restorer(options).restore(requests):
            if restored is None:
                assert error is not None
                raise error
            found[i] = restored
        return found[0] if single else np.stack([found[i] for i in range(len(images))])

    def restorer(
        self, options: RestoreOptions = RestoreOptions(), progress: Progress = Progress()
    ) -> Restorer:
        """For streams of images of any sizes, the progress of which may be followed."""
        programs = self.programs(options)
        return Restorer(self.latent_model, self.params, programs, options, progress)

    def programs(self, options: RestoreOptions = RestoreOptions()) -> Programs:
        """The compiled programs that restoring with these options uses, always the same ones.

        Raises:
            ValueError: steps that the sampler cannot take.
        """
        key = options.sampling_steps, options.sampler
        if key not in self._programs:
            self._programs[key] = Programs(self.latent_model, *key, self.devices)
        return self._programs[key]


def _changed(options: RestoreOptions, changes: dict[str, Any]) -> RestoreOptions:
    known = [option.name for option in fields(RestoreOptions)]
    for name in changes:
        if name not in known:
            raise TypeError(f"{name}: not an option, those are {', '.join(known)}")
    return replace(options, **changes)


def load(
    weights: str | PathLike[str] | None = None,
    *,
    task: str | None = None,
    version: str | None = None,
    first_stage: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    dtype: DTypeLike | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Model:
    """A model: that of the package, one from a weight file, or a released one by its name.

    Which weights are used, what is fetched and under which licence, is logged as INFO under
    "resshift_jax".

    Args:
        weights: a released .pth or one of our safetensors files.
        task, version: without `weights`, those of a released model, e.g. "realsrx4", "v3", which
            is taken from the cache folder or fetched into it; None or "small": the model that ships
            with the package. With `weights`, what the file's name does not tell.
        first_stage: the autoencoder's .pth; otherwise embedded, beside `weights`, or in the cache.
        cache: folder of released weights; None: $RESSHIFT_CACHE, or one below ~/.cache.
        dtype: of the computation; None: bfloat16 on TPU and GPU, float32 on CPU.
        devices: that share the work; None: all that this process has.

    Raises:
        OSError, ValueError: with one clear message that names the file, or what to give.
    """
    folder = None if cache is None else Path(cache)
    if weights is not None:
        stage = None if first_stage is None else Path(first_stage)
        config, flat = load_weights(
            Path(weights), first_stage=stage, task=task, version=version, cache=folder
        )
    elif first_stage is not None:
        raise ValueError("first_stage: given without weights; name the model's file, too")
    elif task is None or task == BUNDLED:
        config, flat = bundled.load_bundled(version)
        logger.info("weights: %s, which ships with the package", bundled.PATH.name)
    else:
        config, flat = load_released(task, version, cache=folder)
    devices = tuple(jax.local_devices() if devices is None else devices)
    params = {
        part: unflatten({name: np.asarray(value, np.float32) for name, value in leaves.items()})
        for part, leaves in flat.items()
    }
    latent_model = LatentModel(config, compute_on(devices[0].platform, dtype))
    return Model(latent_model, replicate(params, devices), devices)
