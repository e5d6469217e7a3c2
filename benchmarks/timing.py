"""Timing that compares across machines: each part in turn with a matrix product, best of rounds."""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resshift_jax.flops import count_flops
from resshift_jax.latent_model import LatentModel

MATMUL_SIDE = 2048


def matmul_program(dtype: DTypeLike) -> Callable:
    """The compiled product of two square matrices of MATMUL_SIDE."""
    square = jnp.ones((MATMUL_SIDE, MATMUL_SIDE), dtype)
    return jax.jit(lambda: square @ square)


def published(model: LatentModel) -> LatentModel:
    """The model with networks as published, before upsampling is folded into convolutions."""
    return replace(model, compute=replace(model.compute, patch_pixels=sys.maxsize))


def gflop(function: Callable, *args: Any) -> float:
    """GFLOP of a function, which is traced for it."""
    # A function of its own: JAX would take the trace made here for the one to be timed.
    return count_flops(lambda *same: function(*same), *args) / 1e9


def timed(function: Callable, *args: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, result


def interleaved(
    parts: dict[str, tuple[Callable, tuple]], matmul: Callable, rounds: int
) -> tuple[dict[str, float], float]:
    """Best seconds of each part, and of the matrix product that runs before and after each."""
    best = dict.fromkeys(parts, float("inf"))
    best_matmul = float("inf")
    for _ in range(rounds):
        for name, (function, args) in parts.items():
            for _ in range(3):
                best_matmul = min(best_matmul, timed(matmul)[0])
            best[name] = min(best[name], timed(function, *args)[0])
    return best, best_matmul


def peak_gib(device: jax.Device) -> float:
    """Peak memory of the device, or of this process on a CPU."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return stats["peak_bytes_in_use"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def describe_machine() -> dict:
    """What ran, for the head of a table."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else platform.machine() + " CPU",
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def write_json(path: Path, summary: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n")
