"""How good the EMA is: parameters in; PSNR, SSIM, LPIPS and pictures of the whole chain out."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.typing import DTypeLike

from resshift_jax.chain import make_chain
from resshift_jax.data.config import SourceConfig
from resshift_jax.data.crops import crop_pair
from resshift_jax.data.sources import open_source
from resshift_jax.degradation.pairs import make_pairs
from resshift_jax.evaluation.metrics import Lpips, psnr_y, ssim_y
from resshift_jax.image_io.photo import ImageFileError
from resshift_jax.inference.batching import Request, Sampler, Settings
from resshift_jax.inference.programs import Programs, replicate
from resshift_jax.nn.autoencoder import first_stage
from resshift_jax.nn.lpips import LEAST_SIZE
from resshift_jax.nn.unet import SwinUNet
from resshift_jax.platform import compiler_options
from resshift_jax.resize import upsample_bicubic
from resshift_jax.restore import known_part
from resshift_jax.training.config import TrainingConfig
from resshift_jax.weights.lpips import load_lpips

PICTURES = 4
"""Rows of the picture."""


class Sample(NamedTuple):
    """An image to validate with: uint8, (H, W, 3), (h, w, 3) and (h, w)."""

    high: np.ndarray
    low: np.ndarray
    mask: np.ndarray | None


class Validation:
    """Measures parameters on this process's share of the validation images.

    Args:
        config: of the run; `validation.high` is set.
        process, processes: this process and how many share the images.
        devices: of this process.

    Raises:
        InputError, OSError: no images, or pairs that do not fit.
        FileNotFoundError: LPIPS has no weights.
    """

    def __init__(
        self,
        config: TrainingConfig,
        devices: tuple[jax.Device, ...],
        dtype: np.dtype,
        *,
        process: int = 0,
        processes: int = 1,
    ):
        self._config, self._devices, self._dtype = config, devices, dtype
        self._process, self._processes = process, processes
        validation = config.validation
        assert validation.high is not None
        self._source = open_source(
            SourceConfig(validation.high, low=validation.low), config.model.scale
        )
        self._programs = Programs(config.model, None, dtype, devices)
        self._lpips = {n: Lpips(n, load_lpips(n, config.lpips_file(n))) for n in validation.lpips}
        self._pairs = jax.jit(
            partial(make_pairs, config=config.degradation), compiler_options=compiler_options()
        )
        self._preview = jax.jit(
            partial(preview, config=config, dtype=dtype), compiler_options=compiler_options()
        )

    def measure(
        self, params: dict[str, Any], notify: Callable[[str], None]
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """The means over the images, of all processes; and, of the first process, a picture.

        Args:
            params: {"unet": tree, "first_stage": tree} of numpy arrays, or of arrays on one device.
            notify: given a line on each image that is left out, as it cannot be read or restored.

        The picture has a row for each of some images: low quality, x_t of the chain's middle step,
        the x_0 predicted from it, the restored image, and the original.
        """
        params = replicate(params, self._devices)
        settings = Settings(seed=self._config.seed)
        sampler = Sampler(self._config.model, params, self._programs, settings)
        samples = dict(self._samples(notify))
        restored: dict[int, np.ndarray] = {}
        requests = [Request(i, sample.low, sample.mask) for i, sample in samples.items()]
        for i, image, error in sampler.restore(requests):
            if image is None:
                notify(f"validation: {self._source.name(i)} is left out, {error}")
            else:
                restored[i] = image
        found = sorted(restored)
        images, kept = [restored[i] for i in found], [samples[i] for i in found]
        sums = self._sums(images, kept)
        if self._processes > 1:
            sums = multihost_utils.process_allgather(sums.astype(np.float32)).sum(0)
        names = ["psnr_y", "ssim_y", *(f"lpips_{name}" for name in self._lpips)]
        if not sums[0]:
            raise ValueError("validation.high: none of its images could be read and restored")
        metrics = dict(zip(names, map(float, sums[1:] / sums[0]), strict=True))
        return metrics, None if self._process else self._picture(params, kept, images)

    def _samples(self, notify: Callable[[str], None]) -> Iterator[tuple[int, Sample]]:
        """The images of this process, by their numbers."""
        count = min(len(self._source), self._config.validation.images)
        chosen = np.linspace(0, len(self._source) - 1, count).round().astype(int).tolist()
        least = max((LEAST_SIZE[network] for network in self._lpips), default=1)
        for place, i in enumerate(chosen):
            if place % self._processes != self._process:
                continue
            try:
                high, low = self._source.read(i)
            except (ImageFileError, OSError) as e:
                notify(f"validation: {e}; left out")
                continue
            sample = Sample(high, low, None) if low is not None else self._degraded(high, place)
            if min(sample.high.shape[:2]) < least:
                notify(f"validation: {self._source.name(i)} is left out, too small for LPIPS")
                continue
            yield i, sample

    def _degraded(self, high: np.ndarray, place: int) -> Sample:
        """A crop as in training, but always the same one, degraded with the same key."""
        config, seed = self._config, self._config.seed
        rng = np.random.default_rng([seed, place])
        high, _ = crop_pair(high, None, rng, config.data.crop, config.model.scale)
        key = jax.random.fold_in(jax.random.key(seed), place)
        pair = self._pairs(key[None], {"high": high[None]})
        mask = None if pair.mask is None else np.asarray(pair.mask[0, ..., 0])
        return Sample(to_uint8(pair.high[0]), to_uint8(pair.low[0]), mask)

    def _sums(self, images: list[np.ndarray], samples: list[Sample]) -> np.ndarray:
        """The number of images, and the sum of each metric over them."""
        originals = [sample.high for sample in samples]
        values: list[list[float]] = [
            [len(images)],
            [psnr_y(*pair) for pair in zip(images, originals, strict=True)],
            [ssim_y(*pair) for pair in zip(images, originals, strict=True)],
        ]
        for distance in self._lpips.values():
            by_size: dict[tuple, list[int]] = {}
            for i, original in enumerate(originals):
                by_size.setdefault(original.shape, []).append(i)
            values.append([
                distance([images[i] for i in group], [originals[i] for i in group]).sum()
                for group in by_size.values()
            ])  # fmt: skip
        return np.array([np.sum(some) for some in values], np.float64)

    def _picture(
        self, params: dict[str, Any], samples: list[Sample], images: list[np.ndarray]
    ) -> np.ndarray | None:
        scale, side = self._config.model.scale, self._config.model.unet.condition_size
        rows: list[np.ndarray] = []
        for sample, image in zip(samples, images, strict=True):
            if min(sample.low.shape[:2]) < side or len(rows) == PICTURES:
                continue
            low, high = sample.low[:side, :side], sample.high[: scale * side, : scale * side]
            mask = None if sample.mask is None else sample.mask[None, :side, :side, None]
            x_t, x_0 = self._preview(params, low[None], high[None], mask)
            if mask is not None:
                low = np.where(mask[0] > 0.5, 0, low)
            columns = [np.repeat(np.repeat(low, scale, 0), scale, 1), to_uint8(x_t[0])]
            columns += [to_uint8(x_0[0]), image[: scale * side, : scale * side], high]
            rows.append(np.concatenate(columns, axis=1))
        return np.concatenate(rows) if rows else None


def preview(
    params: dict[str, Any],
    low: Array,
    high: Array,
    mask: Array | None,
    *,
    config: TrainingConfig,
    dtype: DTypeLike,
) -> tuple[Array, Array]:
    """x_t of the middle step and the x_0 predicted from it, decoded: (B, H, W, 3)."""
    model = config.model
    unet, stage = SwinUNet(model.unet, dtype), first_stage(model.first_stage, dtype)
    chain = make_chain(model.chain, in_pixels=model.first_stage.in_pixels)
    encode, decode = (
        partial(stage.apply, {"params": params["first_stage"]}, method=method)
        for method in ("encode", "decode")
    )
    low, high = (image.astype(jnp.float32) / 127.5 - 1 for image in (low, high))
    known, fill = known_part(low, mask)
    z_0, z_y = encode(high), encode(upsample_bicubic(known, model.scale))
    t = jnp.full(len(low), model.chain.steps // 2)
    noise = jax.random.normal(jax.random.key(config.seed), z_0.shape)
    x_t = chain.q_sample(z_0, z_y, t, noise)

    def denoise(x_t: Array, t: Array) -> Array:
        return unet.apply({"params": params["unet"]}, x_t, t, known, fill)

    return decode(x_t), decode(chain.denoised(denoise, x_t, z_y, t))


def to_uint8(image: Array) -> np.ndarray:
    """[-1, 1] -> 0..255."""
    return np.asarray(np.round((np.clip(np.asarray(image), -1, 1) + 1) * 127.5), np.uint8)
