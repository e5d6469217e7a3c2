"""Devices in; the mesh, and how arrays lie on it, out.

Axes: "data", whose devices each have a copy of the state, and "fsdp", whose devices share one. The
batch is divided among all devices.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.settings import ConfigError

AXES = ("data", "fsdp")
BATCH = P(AXES)

# Smaller arrays are copied: to gather them would take longer than to hold them.
LEAST_SHARDED = 2**14


def make_mesh(devices: Sequence[jax.Device], fsdp: int = 1) -> Mesh:
    """The mesh of all devices.

    Raises:
        ConfigError: their number is no multiple of `fsdp`.
    """
    if len(devices) % fsdp:
        raise ConfigError(f"mesh.fsdp: {fsdp} given, must divide {len(devices)} devices")
    # In the order of processes, so that each holds consecutive samples of a batch.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(len(devices) // fsdp, fsdp)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def require_divisible(batch_size: int, micro_batches: int, devices: int) -> None:
    """Raises ConfigError unless each device gets equal parts of a batch."""
    if batch_size % (devices * micro_batches):
        nearest = max(round(batch_size / (devices * micro_batches)), 1) * devices * micro_batches
        raise ConfigError(
            f"batch_size: {batch_size} given, which {devices} devices with {micro_batches} "
            f"micro_batches each cannot divide evenly; give {nearest}"
        )


def spec_of(shape: tuple[int, ...], fsdp: int) -> P:
    """How an array of the state is divided along "fsdp": by its longest side that can be."""
    sides = [side if side % fsdp == 0 else 0 for side in shape]
    if fsdp == 1 or math.prod(shape) < LEAST_SHARDED or not any(sides):
        return P()
    axis = sides.index(max(sides))
    return P(*(None,) * axis, "fsdp")


def with_shardings(mesh: Mesh | AbstractMesh, state: Any) -> Any:
    """The abstract arrays of a state, each with its sharding on the mesh."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=NamedSharding(mesh, spec_of(leaf.shape, mesh.shape["fsdp"])),
        ),
        state,
    )


def shard_of(mesh: Mesh) -> tuple[int, int]:
    """Which of how many shards of a batch this process reads: (index, number)."""
    owners = [device.process_index for device in mesh.devices.flat]
    processes = sorted(set(owners))
    return processes.index(jax.process_index()), len(processes)


def to_global(mesh: Mesh, batch: Any) -> Any:
    """This process's shard of a batch, as arrays (B, ...) on all devices."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
