"""A stream of images in, restored ones out: tiles of one shape fill batches across images."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, UInt8

from resshift_jax.config import ModelConfig
from resshift_jax.inference.options import RestoreOptions
from resshift_jax.inference.programs import Programs, Progress, Tiles
from resshift_jax.inference.tiles import Blending, Grid
from resshift_jax.latent_model import LatentModel, Params
from resshift_jax.pixels import (
    signed_from_unit,
    uint8_from_unit,
    unit_from_signed,
    unit_from_uint8,
)
from resshift_jax.platform import require_memory

# Where "even" blending cuts the noise of each tile: so far apart that no two share any.
_APART = 1 << 16
# Batches that may wait half full, each for more images of its size, before one is run as it is.
_MOST_WAITING = 4
_NOT_FINITE = "the result is not finite: try dtype=float32, or other weights"

Image = UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"]
Mask = UInt8[np.ndarray, "H W"] | Float[np.ndarray, "H W"] | Bool[np.ndarray, "H W"]


class Request(NamedTuple):
    """An image to restore.

    Attributes:
        tag: comes back with the result.
        lq: RGB, uint8 or float in [0, 1].
        mask: for inpainting models, bool, uint8 or float in [0, 1], full where to fill.
    """

    tag: Any
    lq: Image
    mask: Mask | None = None


class Result(NamedTuple):
    """What became of a request.

    Attributes:
        image: (scale H, scale W, 3), uint8 or float32 in [0, 1] as the request; or None.
        error: why there is no image.
    """

    tag: Any
    image: Image | None
    error: Exception | None = None


@dataclass(eq=False)
class _Job:
    """A request under way, given up where `failed`."""

    request: Request
    blending: Blending
    crc: int
    failed: bool = False


@dataclass(frozen=True, eq=False)
class _Tile:
    """A tile that waits: `index` is its own among the tiles of the job's grid."""

    job: _Job
    index: int
    lq: Float32[np.ndarray, "h w 3"]
    mask: Float32[np.ndarray, "h w 1"] | None


class Restorer:
    """Restores images with one model.

    A result depends on the image, the options and the weights only: each image has a key of its
    own, fold_in(key(seed), crc32 of its pixels in 8 bits), and its tiles cut their noise from one
    canvas.

    Args:
        model: what is computed.
        params: its parameters, a copy on each of the programs' devices.
        programs: of the model, for the options' sampling_steps and sampler.
        options: how images are restored.
        progress: who is told of what is done, and of what is compiled.
    """

    def __init__(
        self,
        model: LatentModel,
        params: Params,
        programs: Programs,
        options: RestoreOptions = RestoreOptions(),
        progress: Progress = Progress(),
    ):
        self.config, self.params, self.programs = model.config, params, programs
        self.options, self.progress = options, progress
        self._batch = options.batch_size * len(programs.devices)
        self._waiting: dict[tuple[int, int], list[_Tile]] = {}
        self._running: list[tuple[list[_Tile], Array]] = []
        self._results: list[Result] = []

    def restore(self, requests: Iterable[Request]) -> Iterator[Result]:
        """The results, in the order in which they are done; a failure is one of them.

        Small images wait for others of their size until a batch is full. A large one does not, so
        that memory holds one of them at most.
        """
        for request in requests:
            self._take(request)
            yield from self._done()
        for shape in list(self._waiting):
            self._run(self._waiting.pop(shape))
        self._collect()
        yield from self._done()

    def _done(self) -> Iterator[Result]:
        results, self._results = self._results, []
        yield from results

    def _take(self, request: Request) -> None:
        """Runs the tiles of an image, or lets the last of them wait for those of others."""
        job = None
        try:
            _require_room(request, self.config.scale)
            lq, mask = _arrays(request, self.config)
            grid = self.options.grid(self.config, (lq.shape[0], lq.shape[1]))
            blending = Blending(grid, self.config.scale, self.options.blend)
            job = _Job(request, blending, checksum(request.lq))
            self._run_tiles(job, lq, mask)
        except (ValueError, MemoryError) as e:
            if job is None:
                self._results.append(Result(request.tag, None, e))
            else:
                self._give_up(job, e)

    def _run_tiles(self, job: _Job, lq: np.ndarray, mask: np.ndarray | None) -> None:
        grid = job.blending.grid
        for index, (tile, hole) in enumerate(_cut(grid, lq, mask)):
            if job.failed:
                return
            if hole is not None and not hole.any():
                self._add(job, index, tile)  # nothing to fill: it stays as it is
                continue
            group = self._waiting.setdefault(grid.tile, [])
            group.append(_Tile(job, index, tile, hole))
            if len(group) == self._batch:
                self._run(self._waiting.pop(grid.tile))
        if sum(map(len, self._waiting.values())) > _MOST_WAITING * self._batch:
            self._run(self._waiting.pop(next(iter(self._waiting))))
        if len(grid.origins) > 1:
            if grid.tile in self._waiting:
                self._run(self._waiting.pop(grid.tile))
            self._collect()

    def _run(self, group: list[_Tile]) -> None:
        """Starts the program for tiles of one shape, as many as a batch has or fewer."""
        tiles, seed = self._batch_of(group), self.options.seed
        try:
            running = self.programs(self.params, seed, tiles, self.progress.announce)
            self._running.append((group, running))
        except (MemoryError, jax.errors.JaxRuntimeError) as e:
            self._fail(group, e)
        # The next batch may start while an accelerator is at this one; a CPU has no memory for two.
        self._collect(leave=0 if self.programs.devices[0].platform == "cpu" else 1)

    def _batch_of(self, group: list[_Tile]) -> Tiles:
        """The group's tiles, the last of them repeated where a batch has room for more."""
        filled = group + [group[-1]] * (self._batch - len(group))
        masks = [tile.mask for tile in filled if tile.mask is not None]
        return Tiles(
            lq=np.stack([tile.lq for tile in filled]),
            crc=np.array([tile.job.crc for tile in filled], np.uint32),
            origin=np.array([self._origin(tile) for tile in filled], np.uint32),
            mask=np.stack(masks) if masks else None,
        )

    def _origin(self, tile: _Tile) -> tuple[int, int]:
        """Where a tile cuts its noise from the canvas, in latent pixels."""
        row, column = (s // self.config.align for s in tile.job.blending.grid.origins[tile.index])
        if self.options.blend == "even":
            row += (tile.index + 1) * _APART
        return row % 2**32, column

    def _collect(self, leave: int = 0) -> None:
        """Waits for the programs that run, but for the `leave` that started last."""
        while len(self._running) > leave:
            group, running = self._running.pop(0)
            try:
                restored = np.asarray(running)
            except (MemoryError, jax.errors.JaxRuntimeError) as e:
                self._fail(group, e)
                continue
            for tile, output in zip(group, restored, strict=False):
                self._add(tile.job, tile.index, output)

    def _add(self, job: _Job, index: int, tile: Float32[np.ndarray, "h w 3"]) -> None:
        if job.failed:
            return
        if not np.isfinite(tile).all():
            self._give_up(job, ArithmeticError(_NOT_FINITE))
            return
        blending = job.blending
        try:
            blending.add(index, unit_from_signed(tile))
            image = None if blending.missing else _as_type(blending.image(), job.request.lq)
        except MemoryError as e:
            self._give_up(job, e)
            return
        self.progress.advance(1 / len(blending.grid.origins))
        if image is not None:
            self._results.append(Result(job.request.tag, image))

    def _fail(self, group: list[_Tile], error: Exception) -> None:
        reason = (str(error).splitlines() or ["no more memory"])[0]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
            error = MemoryError(f"out of memory, {self._smaller(group[0].lq.shape)} ({reason})")
        for job in dict.fromkeys(tile.job for tile in group):
            self._give_up(job, error)

    def _give_up(self, job: _Job, error: Exception) -> None:
        if not job.failed:
            job.failed = True
            self._results.append(Result(job.request.tag, None, error))

    def _smaller(self, shape: tuple[int, ...]) -> str:
        """What to try where tiles of this shape were too much."""
        scale, multiple = self.config.scale, self.config.pad_multiple
        half = max(shape[:2]) // 2 // multiple * multiple
        ways = ["batch_size=1"] if self.options.batch_size > 1 else []
        ways += [f"chop_size={half * scale // 4}"] if half else []
        return f"try {' or '.join(ways)}" if ways else "and this is the smallest tile"


def _cut(
    grid: Grid, lq: np.ndarray, mask: np.ndarray | None
) -> Iterable[tuple[np.ndarray, np.ndarray | None]]:
    """The tiles of an image, and of its mask where it has one."""
    return zip(grid.cut(lq), repeat(None) if mask is None else grid.cut(mask), strict=False)


def checksum(image: Image) -> int:
    """crc32 of the pixels in 8 bits: the same for a picture in uint8 and in float of [0, 1]."""
    if image.dtype != np.uint8:
        image = uint8_from_unit(image)
    return zlib.crc32(np.ascontiguousarray(image).data)


def _require_room(request: Request, scale: int) -> None:
    """Raises MemoryError where the result would exceed the memory."""
    pixels = scale**2 * request.lq[..., :1].size
    needed = 18 * pixels  # in float32, in 8 bits, and encoded
    require_memory(needed, f"a result of {pixels / 1e6:.0f} megapixels")


def _arrays(
    request: Request, config: ModelConfig
) -> tuple[Float32[np.ndarray, "H W 3"], Float32[np.ndarray, "H W 1"] | None]:
    """The image in [-1, 1] and the mask in [0, 1] of a request that fits."""
    image, mask = request.lq, request.mask
    if image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"lq: shape {image.shape} given, (H, W, 3) needed")
    lq = signed_from_unit(_as_unit(image, "lq"))
    if (mask is not None) != config.unet.cond_mask:
        needed = "needs a mask" if mask is None else "takes no mask"
        raise ValueError(f"mask: the task {config.task} {needed}")
    if mask is None:
        return lq, None
    if mask.shape != lq.shape[:2]:
        raise ValueError(f"mask: shape {mask.shape} given, {lq.shape[:2]} needed as in lq")
    return lq, _as_unit(mask, "mask")[..., None]


def _as_unit(x: np.ndarray, name: str) -> np.ndarray:
    """uint8 or float in [0, 1] -> float32 in [0, 1]."""
    if x.dtype == np.uint8:
        return unit_from_uint8(x)
    if x.dtype == np.bool_ and name == "mask":
        return x.astype(np.float32)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name}: {x.dtype} given, uint8 or float in [0, 1] needed")
    x = x.astype(np.float32)
    if not (x.min() >= 0 and x.max() <= 1):  # false for NaN too
        raise ValueError(f"{name}: values from {x.min()} to {x.max()} given, [0, 1] needed")
    return x


def _as_type(image: Float32[np.ndarray, "H W 3"], like: np.ndarray) -> Image:
    """An image of about [0, 1] as uint8 or as float32 in [0, 1]; its own memory is used."""
    if like.dtype == np.uint8:
        return uint8_from_unit(image, overwrite=True)
    return np.clip(image, 0, 1, out=image)
