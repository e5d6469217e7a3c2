"""What depends on the machine and not on the model: devices, dtype, compiler options, memory."""

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

_CGROUP = Path("/sys/fs/cgroup")
_KINDS = ("cpu", "gpu", "tpu")
_MONTH = 30 * 24 * 3600  # seconds

COMPUTE_DTYPES = {"float32": np.dtype(jnp.float32), "bfloat16": np.dtype(jnp.bfloat16)}

# XLA's defaults for CPUs less its newer convolutions, which reach 0.7 of the matrix product's rate
# on maps of 32x32 and less, where the older ones reach 0.9; and vectors as wide as the CPU has.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    ),
    "xla_cpu_prefer_vector_width": 512,
}
# Processes compile programs of their own, for which none may wait for another's tuning.
_GPU_OPTIONS = {"xla_gpu_shard_autotuning": False}
_OPTIONS: dict[str, dict[str, Any]] = {"cpu": _CPU_OPTIONS, "gpu": _GPU_OPTIONS}


@dataclass(frozen=True)
class Compute:
    """How networks compute on a kind of device.

    Attributes:
        dtype: of the arithmetic; parameters are float32.
        patch_channels, patch_pixels: up to so many channels, or pixels of a feature map, a 3x3
            convolution is one matrix product of patches. Of three channels that was 9 times faster
            than XLA's convolution on a CPU, of 8x8 maps 1.3 times; elsewhere it was not measured.
    """

    dtype: np.dtype = COMPUTE_DTYPES["float32"]
    patch_channels: int = 8
    patch_pixels: int = 64

    @property
    def precise(self) -> "Compute":
        """The same in float32."""
        return replace(self, dtype=COMPUTE_DTYPES["float32"])

    def by_patches(self, channels: int, pixels: int) -> bool:
        """Whether a convolution is one matrix product of patches."""
        return channels <= self.patch_channels or pixels <= self.patch_pixels


def compute_on(platform: str | None = None, dtype: DTypeLike | None = None) -> Compute:
    """How networks compute on a kind of device.

    platform: of the devices, as they call it; None: JAX's default.
    dtype: of the arithmetic; None: `default_dtype`.
    """
    return Compute(default_dtype(platform) if dtype is None else np.dtype(dtype))


def default_dtype(platform: str | None = None) -> np.dtype:
    """bfloat16 on TPU and GPU; float32 on CPU, where bfloat16 is no faster.

    platform: of the devices, as they call it; None: JAX's default.
    """
    return COMPUTE_DTYPES["float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"]


def matmul_precision(dtype: DTypeLike) -> str:
    """For jax.default_matmul_precision: float32 asked for means float32, also on TPU and GPU."""
    return "highest" if np.dtype(dtype) == np.float32 else "default"


@cache
def compiler_options(platform: str | None = None) -> dict[str, Any]:
    """Options for jax.jit on a kind of device; those that its XLA does not know are left out.

    platform: of the devices, as they call it; None: JAX's default.
    """
    platform = platform or jax.default_backend()
    options = _OPTIONS.get(platform, {})
    return {k: v for k, v in options.items() if _is_accepted({k: v}, platform)}


def _is_accepted(options: dict[str, Any], platform: str) -> bool:
    device = jax.local_devices(backend=platform)[0]
    try:
        with jax.default_device(device):
            jax.jit(lambda: jnp.zeros(()), compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


class Topology(NamedTuple):
    """This process among others: its devices, its index, and how many processes there are."""

    devices: tuple[jax.Device, ...]
    process: int = 0
    processes: int = 1


def start(device: str | None = None, *, distributed: bool = False) -> Topology:
    """Starts JAX on the devices that are to work, before anything is computed.

    Args:
        device: "cpu", "gpu" or "tpu", with ":1" the second of them alone; None: the best kind.
        distributed: this is one of several processes; wait for all of them. On TPU pods, Slurm,
            Open MPI and Kubernetes JAX finds them by itself; elsewhere $JAX_COORDINATOR_ADDRESS,
            $JAX_NUM_PROCESSES and $JAX_PROCESS_ID tell.

    Raises:
        ValueError: there is no such device, or the other processes cannot be found.
    """
    kind, _, index = (device or "").partition(":")
    if (device and kind not in _KINDS) or not (index.isdigit() or not index):
        raise ValueError(f"device={device}: give {', '.join(_KINDS)}, or one of them as gpu:0")
    if kind:
        jax.config.update("jax_platforms", kind)
    if kind == "gpu" and index:  # the others' memory is not to be taken either
        for option in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(option, index)
        index = ""
    if distributed:
        _find_processes()
    try:
        devices = tuple(jax.local_devices(backend=kind or None))
    except RuntimeError as e:
        raise ValueError(
            f"device={device or 'default'}: JAX finds none here; is it installed for it, as with "
            f"pip install '.[cuda]' or '.[tpu]'?"
        ) from e
    if index and int(index) >= len(devices):
        raise ValueError(f"device={device}: not there, the last is {kind}:{len(devices) - 1}")
    if index:
        devices = (devices[int(index)],)
    return Topology(devices, jax.process_index(), jax.process_count())


def _find_processes() -> None:
    count, index = (os.environ.get(f"JAX_{key}") for key in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(index) if index else None,
            shutdown_timeout_seconds=_MONTH,  # their shares of the work end at different times
        )
    except (RuntimeError, TypeError, ValueError) as e:
        raise ValueError(
            f"distributed=True: {str(e).splitlines()[0]} (where JAX does not find the other "
            f"processes by itself, set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            f"JAX_PROCESS_ID)"
        ) from e


def available_memory() -> int | None:
    """Bytes of memory that this process may still take; None where the system does not tell."""
    try:
        free = 1024 * _counters(Path("/proc/meminfo"))["MemAvailable:"]
    except (OSError, KeyError):
        return None
    try:  # a container may have less than its machine
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        return min(free, limit - used + _counters(_CGROUP / "memory.stat")["file"])
    except (OSError, KeyError, ValueError):
        return free


def require_memory(needed: int, what: str) -> None:
    """To be called before memory is taken: some systems promise it freely, and kill who takes it.

    needed: bytes.
    what: what needs them, in words, for the message.

    Raises:
        MemoryError: there are fewer.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB free"
        )


def _counters(path: Path) -> dict[str, int]:
    """The lines of a kernel's file that begin with a name and a number."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
