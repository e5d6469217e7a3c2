"""A stream of images in, restored ones out: tiles of one shape fill batches across images."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from resshift_jax.config import ModelConfig
from resshift_jax.inference.programs import Programs, Tiles
from resshift_jax.inference.tiles import Blend, Canvas, Grid, default_stride, make_grid
from resshift_jax.platform import available_memory

# Where "even" blending cuts the noise of each tile: so far apart that no two share any.
_APART = 1 << 16
# Batches that may wait half full, each for more images of its size, before one is run as it is.
_MOST_WAITING = 4
_NOT_FINITE = "the result is not finite: try --dtype float32, or other weights"


@dataclass(frozen=True)
class Settings:
    """How images are restored; what depends on the machine (batch_size) changes no result.

    Attributes:
        seed: another seed, another sample; 0 to 2^32 - 1.
        steps: fewer sampling steps than the model was trained with; None for all.
        chop_size: side of the tiles that larger images are cut into, in pixels for a x4 model; at
            another scale s, tiles are 4/s times as large, since they cost as much.
        chop_stride: distance of neighbouring tiles, in the same unit; None: an eighth less.
        batch_size: tiles a program takes at once, on each device.
        blend: "smooth", or "even" averages overlaps of tiles that each have noise of their own, as
            the published sampler does, with seams.
    """

    seed: int = 12345
    steps: int | None = None
    chop_size: int = 512
    chop_stride: int | None = None
    batch_size: int = 1
    blend: Blend = "smooth"

    def __post_init__(self):
        _require(0 <= self.seed < 2**32, f"seed: {self.seed} given, 0 to {2**32 - 1} needed")
        for name, value in (
            ("steps", self.steps),
            ("chop_size", self.chop_size),
            ("chop_stride", self.chop_stride),
            ("batch_size (--bs)", self.batch_size),
        ):
            _require(value is None or value >= 1, f"{name}: {value} given, at least 1 needed")
        stride = self.chop_stride
        _require(
            stride is None or stride <= self.chop_size,
            f"chop_stride: {stride} given, at most chop_size ({self.chop_size}) needed, or pixels "
            f"between the tiles are lost",
        )

    def grid(self, config: ModelConfig, image: tuple[int, int]) -> Grid:
        """The tiles of an image of (H, W). Sides are rounded to what the model can take: tiles up
        to whole windows, strides down to whole latent pixels."""
        multiple, align, scale = config.pad_multiple, config.align, config.scale
        size = -(-self.chop_size * 4 // (scale * multiple)) * multiple
        stride = (self.chop_stride or default_stride(size * scale // 4)) * 4 // scale
        return make_grid(
            image, size=size, stride=max(1, stride // align) * align, multiple=multiple, align=align
        )


class Request(NamedTuple):
    """An image to restore.

    Attributes:
        tag: comes back with the result.
        image: (H, W, 3) RGB, uint8 or float in [0, 1].
        mask: for inpainting models, (H, W) bool, uint8 or float in [0, 1], full where to fill.
    """

    tag: Any
    image: np.ndarray
    mask: np.ndarray | None = None


class Result(NamedTuple):
    """A restored image (scale H, scale W, 3) of the type of its request, or why there is none."""

    tag: Any
    image: np.ndarray | None
    error: Exception | None = None


@dataclass(eq=False)
class _Job:
    """A request under way, given up where `failed`."""

    request: Request
    canvas: Canvas
    crc: int
    failed: bool = False


class _Tile(NamedTuple):
    job: _Job
    place: int
    lr: np.ndarray
    mask: np.ndarray | None


class Sampler:
    """Restores images with one model.

    A result depends on the image, the settings and the weights only: each image has a key of its
    own, fold_in(key(seed), crc32 of its pixels in 8 bits), and its tiles cut their noise from one
    canvas.

    Args:
        config, params: of the model.
        programs: of the model, for settings.steps.
        advance: called with the share of an image that has just been done.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: dict[str, Any],
        programs: Programs,
        settings: Settings,
        advance: Callable[[float], None] = lambda share: None,
    ):
        self.config, self.params, self.programs = config, params, programs
        self.settings, self.advance = settings, advance
        self._batch = settings.batch_size * len(programs.devices)
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
            _require_memory(request, self.config.scale)
            lr, mask = _arrays(request, self.config)
            grid = self.settings.grid(self.config, lr.shape[:2])
            canvas = Canvas(grid, self.config.scale, self.settings.blend)
            job = _Job(request, canvas, checksum(request.image))
            self._run_tiles(job, lr, mask)
        except (ValueError, MemoryError) as e:
            if job is None:
                self._results.append(Result(request.tag, None, e))
            else:
                self._give_up(job, e)

    def _run_tiles(self, job: _Job, lr: np.ndarray, mask: np.ndarray | None) -> None:
        grid = job.canvas.grid
        for place, (tile, hole) in enumerate(_cut(grid, lr, mask)):
            if job.failed:
                return
            if hole is not None and not hole.any():
                self._add(job, place, tile)  # nothing to fill: it stays as it is
                continue
            group = self._waiting.setdefault(grid.tile, [])
            group.append(_Tile(job, place, tile, hole))
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
        try:
            running = self.programs(self.params, self.settings.seed, self._batch_of(group))
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
            lr=np.stack([tile.lr for tile in filled]),
            crc=np.array([tile.job.crc for tile in filled], np.uint32),
            origin=np.array([self._origin(tile) for tile in filled], np.uint32),
            mask=np.stack(masks) if masks else None,
        )

    def _origin(self, tile: _Tile) -> tuple[int, int]:
        """Where a tile cuts its noise from the canvas, in latent pixels."""
        row, column = (s // self.config.align for s in tile.job.canvas.grid.origins[tile.place])
        if self.settings.blend == "even":
            row += (tile.place + 1) * _APART
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
                self._add(tile.job, tile.place, output)

    def _add(self, job: _Job, place: int, tile: np.ndarray) -> None:
        if job.failed:
            return
        if not np.isfinite(tile).all():
            self._give_up(job, ArithmeticError(_NOT_FINITE))
            return
        try:
            job.canvas.add(place, (tile + 1) / 2)
            image = None if job.canvas.missing else _as_type(job.canvas.image(), job.request.image)
        except MemoryError as e:
            self._give_up(job, e)
            return
        self.advance(1 / len(job.canvas.grid.origins))
        if image is not None:
            self._results.append(Result(job.request.tag, image))

    def _fail(self, group: list[_Tile], error: Exception) -> None:
        reason = (str(error).splitlines() or ["no more memory"])[0]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
            error = MemoryError(f"out of memory, {self._smaller(group[0].lr.shape)} ({reason})")
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
        ways = ["--bs 1"] if self.settings.batch_size > 1 else []
        ways += [f"--chop_size {half * scale // 4}"] if half else []
        return f"try {' or '.join(ways)}" if ways else "and this is the smallest tile"


def _cut(
    grid: Grid, lr: np.ndarray, mask: np.ndarray | None
) -> Iterable[tuple[np.ndarray, np.ndarray | None]]:
    """The tiles of an image, and of its mask where it has one."""
    return zip(grid.cut(lr), repeat(None) if mask is None else grid.cut(mask), strict=False)


def checksum(image: np.ndarray) -> int:
    """crc32 of the pixels in 8 bits: the same for a picture in uint8 and in float of [0, 1]."""
    if image.dtype != np.uint8:
        image = np.rint(255 * image).astype(np.uint8)
    return zlib.crc32(np.ascontiguousarray(image).data)


def _arrays(request: Request, config: ModelConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """The image in [-1, 1] and the mask (H, W, 1) in [0, 1], float32, of a request that fits."""
    image, mask = request.image, request.mask
    _require(
        image.ndim == 3 and image.shape[-1] == 3 and image.size > 0,
        f"image: shape {image.shape} given, (H, W, 3) needed",
    )
    lr = 2 * _as_float(image, "image") - 1
    if (mask is not None) != config.unet.condition_mask:
        needed = "needs a mask" if mask is None else "takes no mask"
        raise ValueError(f"mask: the task {config.task} {needed}")
    if mask is None:
        return lr, None
    _require(
        mask.shape == lr.shape[:2],
        f"mask: shape {mask.shape} given, {lr.shape[:2]} needed as in the image",
    )
    return lr, _as_float(mask, "mask")[..., None]


def _as_type(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """An image of about [0, 1] as uint8 or as float32 in [0, 1]; its own memory is used."""
    if like.dtype == np.uint8:
        return np.rint(np.multiply(image, 255, out=image), out=image).astype(np.uint8)
    return np.clip(image, 0, 1, out=image)


def _require_memory(request: Request, scale: int) -> None:
    """Where memory is promised freely and the process that takes it is killed, look before."""
    available = available_memory()
    pixels = scale**2 * request.image[..., :1].size
    needed = 18 * pixels  # in float32, in 8 bits, and encoded
    if available is not None and needed > available:
        raise MemoryError(
            f"a result of {pixels / 1e6:.0f} megapixels needs {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB free"
        )


def _as_float(x: np.ndarray, name: str) -> np.ndarray:
    """uint8 or float in [0, 1] -> float32 in [0, 1]."""
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255
    if x.dtype == np.bool_ and name == "mask":
        return x.astype(np.float32)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name}: {x.dtype} given, uint8 or float in [0, 1] needed")
    x = x.astype(np.float32)
    if not (x.min() >= 0 and x.max() <= 1):  # false for NaN too
        raise ValueError(f"{name}: values from {x.min()} to {x.max()} given, [0, 1] needed")
    return x


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
