"""A model as an object: a weight file in, something to call on images out."""

import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resshift_jax.config import ModelConfig
from resshift_jax.platform import default_dtype
from resshift_jax.restore import compiled_restore
from resshift_jax.weights.load import load_weights
from resshift_jax.weights.mapping import unflatten


@dataclass(frozen=True, eq=False)
class Model:
    """A restoration model.

    Attributes:
        config: everything about it but the weights.
        params: {"unet": tree, "first_stage": tree}, float32 arrays.
        dtype: of the networks' computation.
    """

    config: ModelConfig
    params: dict[str, Any]
    dtype: np.dtype

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
    ) -> np.ndarray:
        """The restored image, or images.

        The result depends on the pixels, the settings and the seed only: each image has a key of
        its own, made from the seed and its pixels, so the same image in another batch is the same.

        Args:
            image: (H, W, 3) or (B, H, W, 3), RGB; uint8, or float in [0, 1].
            mask: for inpainting models, (H, W) or (B, H, W), of either type, full where to fill.
            seed: another seed, another sample.
            steps: fewer sampling steps than the model was trained with.

        Returns:
            (scale H, scale W, 3), or a batch of such, of image's kind: uint8 or float32 in [0, 1].

        Raises:
            ValueError: an array of another shape or type, or a mask missing or not wanted.
        """
        images = image[None] if image.ndim == 3 else image
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"image: shape {image.shape} given, (H, W, 3) or (B, H, W, 3) needed")
        lr = 2 * _as_float(images, "image") - 1
        masks = None
        if (mask is not None) != self.config.unet.condition_mask:
            needed = "needs a mask" if mask is None else "takes no mask"
            raise ValueError(f"mask: the task {self.config.task} {needed}")
        if mask is not None:
            masks = _as_float(mask[None] if mask.ndim == 2 else mask, "mask")[..., None]
            if masks.shape[:3] != lr.shape[:3]:
                raise ValueError(f"mask: shape {mask.shape} given, that of the image needed")

        height, width = lr.shape[1:3]
        keys = jnp.stack([image_key(seed, one) for one in images])
        run = compiled_restore(self.config, steps, self.dtype)
        out = run(self.params, self._pad(lr), keys, None if masks is None else self._pad(masks))
        scale = self.config.scale
        out = np.asarray(out)[:, : scale * height, : scale * width]
        out = (out + 1) / 2
        if image.dtype == np.uint8:
            out = np.rint(255 * out).astype(np.uint8)
        return out[0] if image.ndim == 3 else out

    def _pad(self, x: np.ndarray) -> np.ndarray:
        """Reflects at the bottom and the right to the model's multiple, repeatedly if need be."""
        multiple = self.config.pad_multiple
        height, width = x.shape[1:3]
        return np.pad(
            x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "reflect"
        )


def load(
    path: str | PathLike,
    *,
    first_stage: str | PathLike | None = None,
    task: str | None = None,
    version: str | None = None,
    dtype: DTypeLike | None = None,
) -> Model:
    """A model from a released .pth or one of our safetensors files.

    Args:
        path: the weights.
        first_stage: the autoencoder's .pth; otherwise embedded, beside `path`, or in the cache.
        task, version: of a .pth whose file name does not tell, e.g. "realsrx4", "v3".
        dtype: of the computation; by default bfloat16 on TPU and GPU, float32 on CPU.

    Raises:
        FileNotFoundError, ValueError: with one clear message that names the file.
    """
    config, flat = load_weights(
        Path(path),
        first_stage=None if first_stage is None else Path(first_stage),
        task=task,
        version=version,
    )
    params = {
        part: unflatten({name: jnp.asarray(value, jnp.float32) for name, value in leaves.items()})
        for part, leaves in flat.items()
    }
    return Model(config, params, default_dtype() if dtype is None else np.dtype(dtype))


def image_key(seed: int, pixels: np.ndarray) -> jax.Array:
    """The key of an image: fold_in(key(seed), crc32 of its pixels in 8 bits).

    Args:
        pixels: uint8, or float in [0, 1]; the same picture in either type has the same key.
    """
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * pixels).astype(np.uint8)
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(np.ascontiguousarray(pixels).data))


def _as_float(x: np.ndarray, name: str) -> np.ndarray:
    """uint8 or float in [0, 1] -> float32 in [0, 1]."""
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name}: {x.dtype} given, uint8 or float in [0, 1] needed")
    x = x.astype(np.float32)
    if not (x.min() >= 0 and x.max() <= 1):  # false for NaN too
        raise ValueError(f"{name}: values from {x.min()} to {x.max()} given, [0, 1] needed")
    return x
