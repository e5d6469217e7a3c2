"""Compiled restorations: a batch of tiles in, restored tiles out, one program a shape of tiles."""

import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32, UInt32

from resshift_jax.latent_model import LatentModel, Params
from resshift_jax.platform import compiler_options, require_memory
from resshift_jax.restore import restore

T = TypeVar("T")


class Progress(NamedTuple):
    """Who is told how a run goes.

    Attributes:
        advance: called with the share of an image that has just been done with.
        announce: called with what is compiled before that starts, and with "" when it ends.
    """

    advance: Callable[[float], None] = lambda share: None
    announce: Callable[[str], None] = lambda what: None


class Tiles(NamedTuple):
    """A batch of N tiles, as arrays of numpy or of JAX.

    Attributes:
        lq: float32 in [-1, 1].
        crc: the checksum of the whole image that each is cut from.
        origin: row and column of the first latent pixel within the latent of that image.
        mask: for inpainting, float32 in [0, 1], 1 where to fill.
    """

    lq: Float32[Any, "N h w 3"]
    crc: UInt32[Any, " N"]
    origin: UInt32[Any, "N 2"]
    mask: Float32[Any, "N h w 1"] | None = None


def restore_tiles(
    model: LatentModel,
    params: Params,
    seed: UInt32[Array, ""],
    tiles: Tiles,
    *,
    sampling_steps: int | None = None,
    sampler: str | None = None,
) -> Float32[Array, "N H W 3"]:
    """`restore` with the key of each image made from the seed and the image's checksum."""
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(tiles.crc)
    return restore(
        model, params, tiles.lq, keys, tiles.mask, tiles.origin,
        sampling_steps=sampling_steps, sampler=sampler,
    )  # fmt: skip


class Programs:
    """The programs of one model on some devices, compiled as shapes of tiles come up.

    A batch is divided evenly among the devices, each of which works on its share alone.

    Attributes:
        devices: on which they run.
        count, seconds: how many programs were needed, and how long they took to be ready.
        found: how many of them were in the compilation cache.

    Raises:
        ValueError: an unknown sampler, or steps that it cannot take.
    """

    def __init__(
        self,
        model: LatentModel,
        sampling_steps: int | None,
        sampler: str | None,
        devices: tuple[jax.Device, ...],
    ):
        _cache_hits()
        model.chain(sampling_steps, sampler)  # raises here rather than at the first image
        mesh = _mesh(devices)
        function = jax.shard_map(
            partial(restore_tiles, model, sampling_steps=sampling_steps, sampler=sampler),
            mesh=mesh,
            in_specs=(P(), P(), P("tiles")),
            out_specs=P("tiles"),
            check_vma=False,
        )
        self._jitted = jax.jit(function, compiler_options=compiler_options(devices[0].platform))
        self._compiled: dict[tuple[int, ...], jax.stages.Compiled | Exception] = {}
        self._split = NamedSharding(mesh, P("tiles"))
        self.devices = devices
        self.count, self.seconds, self.found = 0, 0.0, 0

    def __call__(
        self, params: Params, seed: int, tiles: Tiles, announce: Callable[[str], None] | None = None
    ) -> Float[Array, "N H W 3"]:
        """The restored tiles, (N, scale h, scale w, 3) float32 in [-1, 1].

        announce: called with what is compiled, where that is needed; see `Progress`.

        Raises:
            MemoryError, jax.errors.JaxRuntimeError: what it takes exceeds the memory.
        """
        arguments = params, np.uint32(seed), jax.device_put(tiles, self._split)
        shape = tiles.lq.shape
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(arguments, announce or (lambda what: None))
        program = self._compiled[shape]
        if isinstance(program, Exception):
            raise program
        if self.devices[0].platform == "cpu" and (analysis := program.memory_analysis()):
            require_memory(len(self.devices) * analysis.temp_size_in_bytes, "the program")
        return program(*arguments)

    def _compile(
        self, arguments: tuple[Params, np.uint32, Tiles], announce: Callable[[str], None]
    ) -> jax.stages.Compiled | Exception:
        """The program, or why there is none, which no second try would change."""
        start, hits = time.perf_counter(), len(_cache_hits())
        _, height, width, _ = arguments[2].lq.shape
        announce(f"compiling for tiles of {width}x{height}")
        try:
            compiled = self._jitted.lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as e:
            return e
        finally:
            announce("")
        self.seconds += time.perf_counter() - start
        self.found += len(_cache_hits()) > hits
        self.count += 1
        return compiled


def replicate(params: T, devices: tuple[jax.Device, ...]) -> T:
    """A copy of the parameters on each device."""
    return jax.device_put(params, NamedSharding(_mesh(devices), P()))


def keep_programs(folder: Path) -> None:
    """Keeps what is compiled in `folder`, for the next run; a folder named to JAX goes before.

    Raises:
        OSError: the folder cannot be made.
    """
    # JAX goes on without a program that it cannot read or keep, but warns of each in two lines.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.array(devices), ("tiles",))


@cache
def _cache_hits() -> list[str]:
    """Grows by one at each program that JAX finds in its compilation cache."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    return hits
