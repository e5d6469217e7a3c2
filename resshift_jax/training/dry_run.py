"""What a configuration would train, and what that needs: settings and devices in, a text out."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.flops import H100, peak_flops
from resshift_jax.latent_model import LatentModel
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.config_file import to_yaml
from resshift_jax.training.losses import teacher_of
from resshift_jax.training.mesh import BATCH, make_mesh, require_divisible
from resshift_jax.training.state import abstract_state
from resshift_jax.training.step import abstract_pairs, latent_model, make_step, step_flops
from resshift_jax.training.weights import abstract_frozen


def describe(config: TrainingConfig, devices: Sequence[jax.Device]) -> str:
    """The resolved configuration, and what a step takes in shapes, arithmetic and memory.

    Nothing is read or trained; the step is compiled, for that tells its memory.

    Raises:
        ConfigError: the batch or the state cannot be divided among the devices.
    """
    mesh = make_mesh(devices, config.mesh.fsdp)
    require_divisible(config.batch_size, config.micro_batches, mesh.size)
    model = latent_model(config, mesh)
    dtype = model.compute.dtype
    state, frozen = abstract_state(config, mesh), abstract_frozen(config)
    everywhere, divided = NamedSharding(mesh, P()), NamedSharding(mesh, BATCH)
    frozen = _with_sharding(frozen, everywhere)
    pairs = _with_sharding(abstract_pairs(config), divided)
    memory = make_step(config, model, mesh).lower(state, frozen, pairs).compile().memory_analysis()
    needed = 0 if memory is None else memory.temp_size_in_bytes
    flops = step_flops(config, model, mesh, state, frozen)
    rate = mesh.size * peak_flops(devices[0], dtype)
    seconds = flops / rate / 0.5
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    shapes = [f"{name} {'x'.join(map(str, array.shape))}"
              for name, array in pairs._asdict().items() if array is not None]  # fmt: skip
    held = sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves((state, frozen)))
    lines = [
        to_yaml(config).rstrip(),
        "",
        f"devices:     {mesh.size} {devices[0].device_kind}, {_mesh_words(mesh)}",
        f"batch:       {', '.join(shapes)}; {config.batch_size // mesh.size} a device, in "
        f"{config.micro_batches} part{'s' if config.micro_batches > 1 else ''}",
        f"computed in: {np.dtype(dtype).name}",
        f"parameters:  {parameters:,} trained, "
        f"{sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen)):,} frozen",
        *_teacher_words(config),
        f"arithmetic:  {flops / 1e9:,.0f} GFLOP a step, {flops * config.train_steps / 1e18:.3g} "
        f"EFLOP in {config.train_steps:,} steps",
        f"time:        {_duration(seconds * config.train_steps)} at half of these devices' "
        f"{rate / 1e12:.3g} TFLOP/s; {flops * config.train_steps / H100 / 0.4 / 3600:,.3g} "
        f"chip-hours at 40 % of an H100's peak",
        f"memory:      {held / 2**30:.2f} GiB of state a device, "
        f"{needed / 2**30:.2f} GiB while a step is computed",
    ]
    return "\n".join(lines)


def _teacher_words(config: TrainingConfig) -> list[str]:
    if config.loss.teacher is None:
        return []
    teacher = teacher_of(LatentModel(config.model), config.loss).config
    known = config.loss.teacher_model is not None
    steps = teacher.chain.sampling_steps or teacher.chain.num_timesteps
    return [
        f"teacher:     {config.loss.teacher}, {'' if known else 'taken to be the same network, '}"
        f"{steps} steps"
    ]


def _with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _bytes_on_a_device(leaf: jax.ShapeDtypeStruct) -> int:
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _mesh_words(mesh: jax.sharding.Mesh) -> str:
    return " x ".join(f"{size} {axis}" for axis, size in mesh.shape.items())


def _duration(seconds: float) -> str:
    days, hours = divmod(seconds / 3600, 24)
    return f"{days:.0f} days {hours:.0f} hours" if days else f"{hours:.1f} hours"
