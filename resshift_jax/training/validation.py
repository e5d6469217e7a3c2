"""How good the EMA is: parameters in; the metrics and pictures of the whole chain out."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from resshift_jax.data.config import SourceConfig
from resshift_jax.data.crops import crop_pair
from resshift_jax.data.sources import open_source
from resshift_jax.degradation.pairs import make_pairs
from resshift_jax.evaluation.metrics import METRICS
from resshift_jax.image_io.photo import ImageFileError
from resshift_jax.inference.batching import Request, Restorer
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Programs, replicate
from resshift_jax.latent_model import LatentModel, Params
from resshift_jax.pixels import signed_from_uint8, uint8_from_signed
from resshift_jax.platform import Topology, compiler_options
from resshift_jax.training.config import TrainingConfig

logger = logging.getLogger(__name__)

PICTURES = 4
"""Rows of the picture."""


class Sample(NamedTuple):
    """An image to validate with: uint8, (H, W, 3), (h, w, 3) and (h, w)."""

    hq: np.ndarray
    lq: np.ndarray
    mask: np.ndarray | None


class Validation:
    """Measures parameters on this process's share of the validation images.

    Args:
        config: of the run; `validation.hq` is set.
        model: as it computes on the devices of this process.
        topology: this process, its devices, and how many processes share the images.

    Raises:
        InputError, OSError: no images, or pairs that do not fit.
        FileNotFoundError: LPIPS has no weights.
    """

    def __init__(self, config: TrainingConfig, model: LatentModel, topology: Topology):
        self._config, self._model, self._topology = config, model, topology
        validation = config.validation
        assert validation.hq is not None
        self._source = open_source(
            SourceConfig(validation.hq, lq=validation.lq), config.model.scale
        )
        self._programs = Programs(model, None, None, topology.devices)
        self._metrics = {}
        for name in validation.metrics:
            network = METRICS[name].network
            file = None if network is None else config.lpips_file(network)
            self._metrics[name] = METRICS[name].make(file)
        compiled = partial(jax.jit, compiler_options=compiler_options())
        self._pairs = compiled(partial(make_pairs, config=config.degradation))
        self._preview = compiled(partial(preview, model, seed=config.seed))

    def measure(self, params: Params) -> tuple[dict[str, float], np.ndarray | None]:
        """The means over the images, of all processes; and, of the first process, a picture.

        Images that cannot be read or restored are left out, and logged.

        Args:
            params: {"unet": tree, "first_stage": tree} of numpy arrays, or of arrays on one device.

        The picture has a row for each of some images: low quality, x_t of the chain's middle step,
        the x_0 predicted from it, the restored image, and the original.

        Raises:
            ValueError: none of the images could be read and restored.
        """
        params = replicate(params, self._topology.devices)
        options = RestoreOptions(seed=self._config.seed)
        restorer = Restorer(self._model, params, self._programs, options)
        samples = dict(self._samples())
        restored: dict[int, np.ndarray] = {}
        requests = [Request(i, sample.lq, sample.mask) for i, sample in samples.items()]
        for i, image, error in restorer.restore(requests):
            if image is None:
                logger.warning("validation: %s is left out, %s", self._source.name(i), error)
            else:
                restored[i] = image
        found = sorted(restored)
        images, kept = [restored[i] for i in found], [samples[i] for i in found]
        sums = self._sums(images, [sample.hq for sample in kept])
        if self._topology.processes > 1:
            sums = multihost_utils.process_allgather(sums.astype(np.float32)).sum(0)
        if not sums[0]:
            raise ValueError("validation.hq: none of its images could be read and restored")
        metrics = dict(zip(self._metrics, map(float, sums[1:] / sums[0]), strict=True))
        return metrics, None if self._topology.process else self._picture(params, kept, images)

    def _samples(self) -> Iterator[tuple[int, Sample]]:
        """The images of this process, by their numbers."""
        count = min(len(self._source), self._config.validation.images)
        chosen = np.linspace(0, len(self._source) - 1, count).round().astype(int).tolist()
        smallest = max(self._metrics, key=lambda name: METRICS[name].min_side)
        for index, i in enumerate(chosen):
            if index % self._topology.processes != self._topology.process:
                continue
            try:
                hq, lq = self._source.read(i)
            except (ImageFileError, OSError) as e:
                logger.warning("validation: %s; left out", e)
                continue
            sample = Sample(hq, lq, None) if lq is not None else self._degraded(hq, index)
            if min(sample.hq.shape[:2]) < METRICS[smallest].min_side:
                name = self._source.name(i)
                logger.warning("validation: %s is left out, too small for %s", name, smallest)
                continue
            yield i, sample

    def _degraded(self, hq: np.ndarray, index: int) -> Sample:
        """A crop as in training, but always the same one, degraded with the same key."""
        config, seed = self._config, self._config.seed
        rng = np.random.default_rng([seed, index])
        hq, _ = crop_pair(hq, None, rng, config.data.crop, config.model.scale)
        key = jax.random.fold_in(jax.random.key(seed), index)
        pair = self._pairs(key[None], {"hq": hq[None]})
        mask = None if pair.mask is None else np.asarray(pair.mask[0, ..., 0])
        return Sample(uint8_from_signed(pair.hq[0]), uint8_from_signed(pair.lq[0]), mask)

    def _sums(self, images: list[np.ndarray], originals: list[np.ndarray]) -> np.ndarray:
        """The number of images, and the sum of each metric over them, float64."""
        values = [measure(images, originals).sum() for measure in self._metrics.values()]
        return np.array([len(images), *values], np.float64)

    def _picture(
        self, params: Params, samples: list[Sample], images: list[np.ndarray]
    ) -> np.ndarray | None:
        scale, side = self._config.model.scale, self._config.model.unet.cond_size
        rows: list[np.ndarray] = []
        for sample, image in zip(samples, images, strict=True):
            if min(sample.lq.shape[:2]) < side or len(rows) == PICTURES:
                continue
            lq, hq = sample.lq[:side, :side], sample.hq[: scale * side, : scale * side]
            mask = None if sample.mask is None else sample.mask[None, :side, :side, None]
            x_t, x_0 = self._preview(params, lq[None], hq[None], mask)
            if mask is not None:
                lq = np.where(mask[0] > 0.5, 0, lq)
            columns = [np.repeat(np.repeat(lq, scale, 0), scale, 1), uint8_from_signed(x_t[0])]
            columns += [uint8_from_signed(x_0[0]), image[: scale * side, : scale * side], hq]
            rows.append(np.concatenate(columns, axis=1))
        return np.concatenate(rows) if rows else None


def preview(
    model: LatentModel, params: Params, lq: Array, hq: Array, mask: Array | None, *, seed: int
) -> tuple[Array, Array]:
    """x_t of the middle step and the x_0 predicted from it, decoded: (B, H, W, 3) about [-1, 1].

    Of a model of one step it is that step.

    lq, hq: (B, h, w, 3) and (B, H, W, 3) uint8; mask: (B, h, w, 1) in [0, 1], 1 where to fill.
    """
    chain = model.training_chain()
    lq, hq = (signed_from_uint8(image) for image in (lq, hq))
    cond = model.condition(lq, mask)
    z_0, z_y = model.encode(params, hq), model.encode_lq(params, cond)
    last = chain.schedule.num_steps - 1
    t = jnp.full(len(lq), last if model.config.chain.is_one_step else (last + 1) // 2)
    x_t = chain.q_sample(z_0, z_y, t, jax.random.normal(jax.random.key(seed), z_0.shape))
    x_0 = chain.denoised(model.denoiser(params, cond), x_t, z_y, t)
    return model.decode(params, x_t), model.decode(params, x_0)
