"""The training step lowers for four TPUs and four GPUs, from abstract arrays of full size."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_export import assert_lean

from resshift_jax.latent_model import LatentModel
from resshift_jax.platform import Compute
from resshift_jax.training.config_file import read_config
from resshift_jax.training.mesh import AXES, BATCH
from resshift_jax.training.state import abstract_state
from resshift_jax.training.step import abstract_pairs, make_prepare, make_step
from resshift_jax.training.weights import abstract_frozen

CONFIGS = Path(__file__).parents[2] / "configs"
MESH = AbstractMesh((2, 2), AXES, axis_types=(AxisType.Auto,) * 2)


def placed(tree, spec: P):
    sharding = NamedSharding(MESH, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "platform", "dtype", "parameters"),
    [
        ("realsr_x4", [], "tpu", jnp.bfloat16, 118_593_583),
        ("realsr_x4_v3", ["micro_batches=2"], "cuda", jnp.bfloat16, 118_593_583),
        ("realsr_x4_v3", ["batch_size=32"], "cuda", jnp.float32, 118_593_583),
        ("small_x4", [], "tpu", jnp.bfloat16, 6_890_637),
        ("sinsr_x4", ["discriminator.weight=0.1"], "tpu", jnp.bfloat16, 118_593_583),
        ("sinsr_x4", ["batch_size=32"], "cuda", jnp.float32, 118_593_583),
    ],
)
def test_the_step_lowers(name, settings, platform, dtype, parameters):
    config = read_config(CONFIGS / f"{name}.yaml", ["mesh.fsdp=2", *settings])
    model = LatentModel(config.model, Compute(np.dtype(dtype)))
    state = abstract_state(config, MESH)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.ema)) == parameters
    arguments = state, placed(abstract_frozen(config), P()), placed(abstract_pairs(config), BATCH)
    exported = jax.export.export(make_step(config, model, MESH), platforms=[platform])(*arguments)
    assert exported.nr_devices == 4
    assert len(exported.out_avals) > len(jax.tree.leaves(state))
    module = exported.mlir_module()
    assert_lean(module)
    # Parameters, optimizer and EMA are divided along "fsdp", the batch among all devices.
    signature = re.search(r"func\.func public @main\((.*?)\)\s*->", module, re.DOTALL).group(1)
    divided = [a for a in signature.split("%arg") if '"fsdp"' in a and '"data"' not in a]
    leaves = jax.tree.leaves(state)
    large = [leaf for leaf in leaves if leaf.sharding.spec != P()]
    assert len(divided) == len(large) > 100
    # Small arrays are not; a small network has more of them.
    share = 0.99 if parameters > 10**8 else 0.9
    assert sum(leaf.size for leaf in large) > share * sum(leaf.size for leaf in leaves)
    assert len([a for a in signature.split("%arg") if '"data"' in a]) == 2  # hq and lq
    assert module.count("stablehlo.all_reduce") >= 1
    if dtype == jnp.float32:  # backwards, too
        products = [
            line
            for line in module.splitlines()
            if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
        ]
        assert len(products) > 1000
        assert all(line.count("HIGHEST") == 2 for line in products)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_degradation_of_a_batch_lowers(platform):
    config = read_config(CONFIGS / "realsr_x4.yaml")
    side = config.data.crop.size
    images = {"hq": jax.ShapeDtypeStruct((config.batch_size, side, side, 3), np.uint8)}
    step = jax.ShapeDtypeStruct((), np.int32)
    exported = jax.export.export(make_prepare(config, MESH), platforms=[platform])(
        step, placed(images, BATCH)
    )
    assert exported.nr_devices == 4
    assert [out.shape for out in exported.out_avals] == [(64, 256, 256, 3), (64, 64, 64, 3)]
    assert_lean(exported.mlir_module())
