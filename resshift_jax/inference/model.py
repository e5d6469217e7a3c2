"""A model as an object: a weight file in, something to call on images out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from resshift_jax.config import ModelConfig
from resshift_jax.inference.batching import Request, Sampler, Settings
from resshift_jax.inference.programs import Programs, programs, replicate
from resshift_jax.inference.tiles import Blend
from resshift_jax.platform import default_dtype
from resshift_jax.weights import bundled
from resshift_jax.weights.load import load_weights
from resshift_jax.weights.mapping import unflatten
from resshift_jax.weights.released import load_released
from resshift_jax.weights.zoo import BUNDLED


@dataclass(frozen=True, eq=False)
class Model:
    """A restoration model.

    Attributes:
        config: everything about it but the weights.
        params: {"unet": tree, "first_stage": tree}, float32 arrays, a copy on each device.
        dtype: of the networks' computation.
        devices: which share the work.
    """

    config: ModelConfig
    params: dict[str, Any]
    dtype: np.dtype
    devices: tuple[jax.Device, ...]

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        seed: int = Settings.seed,
        steps: int | None = None,
        chop_size: int = 512,
        chop_stride: int | None = None,
        batch_size: int = 1,
        blend: Blend = "smooth",
    ) -> np.ndarray:
        """The restored image, or images.

        The result depends on the pixels, the settings and the seed only: the same image in another
        batch is the same. One larger than a tile is cut into tiles and blended.

        Args:
            image: (H, W, 3) or (B, H, W, 3), RGB; uint8, or float in [0, 1].
            mask: for inpainting models, (H, W) or (B, H, W), of either type, full where to fill.
            batch_size: tiles at once on each device; a program is compiled for each number.
            seed, steps, chop_size, chop_stride, blend: see `sampler.Settings`.

        Returns:
            (scale H, scale W, 3), or a batch of such, of image's kind: uint8 or float32 in [0, 1].

        Raises:
            ValueError: an array of another shape or type, a mask missing or not wanted, or a
                setting that does not fit.
            MemoryError: the device cannot hold a tile of this size.
            ArithmeticError: the result is not finite.
        """
        single = image.ndim == 3
        images = image[None] if single else image
        masks = mask[None] if mask is not None and single else mask
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"image: shape {image.shape} given, (H, W, 3) or (B, H, W, 3) needed")
        if masks is not None and len(masks) != len(images):
            raise ValueError(f"mask: shape {masks.shape} given, one for each image needed")
        settings = Settings(seed, steps, chop_size, chop_stride, batch_size, blend)
        requests = [
            Request(i, images[i], None if masks is None else masks[i]) for i in range(len(images))
        ]
        restored: dict[int, Any] = {}
        for i, result, error in self.sampler(settings).restore(requests):
            if error is not None:
                raise error
            restored[i] = result
        return restored[0] if single else np.stack([restored[i] for i in range(len(images))])

    def sampler(
        self, settings: Settings, advance: Callable[[float], None] = lambda share: None
    ) -> Sampler:
        """For streams of images of any sizes; `advance` is told the share of an image just done."""
        return Sampler(self.config, self.params, self.programs(settings), settings, advance)

    def programs(self, settings: Settings) -> Programs:
        """The compiled programs that restoring with these settings uses.

        Raises:
            ValueError: steps that the model's chain cannot take.
        """
        return programs(self.config, settings.steps, self.dtype, self.devices)


def load(
    path: str | PathLike | None = None,
    *,
    task: str | None = None,
    version: str | None = None,
    first_stage: str | PathLike | None = None,
    cache: str | PathLike | None = None,
    dtype: DTypeLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    notify: Callable[[str], None] = print,
) -> Model:
    """A model: that of the package, one from a weight file, or a released one by its name.

    Args:
        path: a released .pth or one of our safetensors files.
        task, version: without a path, those of a released model, e.g. "realsrx4", "v3", which is
            taken from the cache folder or fetched into it; None or "small": the model that ships
            with the package. With a path, what its name does not tell.
        first_stage: the autoencoder's .pth; otherwise embedded, beside `path`, or in the cache.
        cache: folder of released weights; None: $RESSHIFT_CACHE, or one below ~/.cache.
        dtype: of the computation; by default bfloat16 on TPU and GPU, float32 on CPU.
        devices: that share the work; by default all that this process has.
        notify: takes a line to show, on which weights are used, what is fetched and under which
            licence.

    Raises:
        OSError, ValueError: with one clear message that names the file, or what to give.
    """
    folder = None if cache is None else Path(cache)
    if path is not None:
        stage = None if first_stage is None else Path(first_stage)
        config, flat = load_weights(
            Path(path), first_stage=stage, task=task, version=version, cache=folder
        )
    elif first_stage is not None:
        raise ValueError("first_stage: given without weights; name the model's file, too")
    elif task in (None, BUNDLED):
        config, flat = bundled.load_bundled(version)
        notify(f"weights: {bundled.PATH.name}, which ships with the package")
    else:
        config, flat = load_released(task, version, cache=folder, notify=notify)
    devices = tuple(jax.local_devices() if devices is None else devices)
    params = {
        part: unflatten({name: np.asarray(value, np.float32) for name, value in leaves.items()})
        for part, leaves in flat.items()
    }
    dtype = default_dtype(devices[0].platform) if dtype is None else np.dtype(dtype)
    return Model(config, replicate(params, devices), dtype, devices)
