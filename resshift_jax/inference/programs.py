"""Compiled restorations: a batch of tiles in, restored tiles out, one program a shape of tiles."""

import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.config import ModelConfig
from resshift_jax.platform import available_memory, compiler_options
from resshift_jax.restore import restore
from resshift_jax.schedule import make_schedule


class Tiles(NamedTuple):
    """A batch of N tiles, as arrays of numpy or of JAX.

    Attributes:
        lr: (N, h, w, 3) float32 in [-1, 1].
        crc: (N,) uint32, the checksum of the whole image that each is cut from.
        origin: (N, 2) uint32, row and column within the latent of that image.
        mask: for inpainting, (N, h, w, 1) float32 in [0, 1].
    """

    lr: Any
    crc: Any
    origin: Any
    mask: Any = None


def restore_tiles(params: dict, seed: Array, tiles: Tiles, **options) -> Array:
    """`restore` with the key of each image made from the seed and the image's checksum."""
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(tiles.crc)
    return restore(params, tiles.lr, keys, tiles.mask, tiles.origin, **options)


class Programs:
    """The programs of one model on some devices, compiled as shapes of tiles come up.

    A batch is divided evenly among the devices, each of which works on its share alone.

    Attributes:
        devices: on which they run.
        count, seconds: how many programs were needed, and how long they took to be ready.
        found: how many of them were in the compilation cache.
        announce: told what is compiled before that starts, and "" when it ends.
    """

    def __init__(
        self,
        config: ModelConfig,
        steps: int | None,
        dtype: np.dtype,
        devices: tuple[jax.Device, ...],
    ):
        _cache_hits()
        make_schedule(config.chain, steps)  # refuses steps that the chain cannot take
        mesh = _mesh(devices)
        function = jax.shard_map(
            partial(restore_tiles, config=config, sampling_steps=steps, dtype=dtype),
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
        self.announce: Callable[[str], None] = lambda what: None

    def __call__(self, params: dict, seed: int, tiles: Tiles) -> Array:
        """The restored tiles, (N, scale h, scale w, 3) float32 in [-1, 1].

        Raises:
            MemoryError, jax.errors.JaxRuntimeError: what it takes exceeds the memory.
        """
        arguments = params, np.uint32(seed), jax.device_put(tiles, self._split)
        shape = tiles.lr.shape
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(arguments)
        program = self._compiled[shape]
        if isinstance(program, Exception):
            raise program
        if self.devices[0].platform == "cpu":
            _require_memory(program, len(self.devices))
        return program(*arguments)

    def _compile(self, arguments: tuple) -> jax.stages.Compiled | Exception:
        """The program, or why there is none, which no second try would change."""
        start, hits = time.perf_counter(), len(_cache_hits())
        _, height, width, _ = arguments[2].lr.shape
        self.announce(f"compiling for tiles of {width}x{height}")
        try:
            compiled = self._jitted.lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as e:
            return e
        finally:
            self.announce("")
        self.seconds += time.perf_counter() - start
        self.found += len(_cache_hits()) > hits
        self.count += 1
        return compiled


@cache
def programs(
    config: ModelConfig, steps: int | None, dtype: np.dtype, devices: tuple[jax.Device, ...]
) -> Programs:
    """The programs of a model, the same at each call with the same arguments."""
    return Programs(config, steps, dtype, devices)


def replicate(params: Any, devices: tuple[jax.Device, ...]) -> Any:
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


def _require_memory(compiled: jax.stages.Compiled, devices: int) -> None:
    """Where memory is promised freely and the process that takes it is killed, look before."""
    analysis, available = compiled.memory_analysis(), available_memory()
    if analysis is not None and available is not None:
        needed = devices * analysis.temp_size_in_bytes
        if needed > available:
            raise MemoryError(f"{needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB free")


@cache
def _cache_hits() -> list[str]:
    """Grows by one at each program that JAX finds in its compilation cache."""
    hits: list[str] = []

    def listen(event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    return hits
