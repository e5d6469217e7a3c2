"""Counted operations against hand-counted ones."""

import jax
import jax.numpy as jnp
import pytest

from resshift_jax.flops import count_flops
from resshift_jax.nn.layers import Conv3x3


def test_matrix_products_and_loops():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert count_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7
    assert count_flops(jax.vmap(lambda a: a @ b), jnp.ones((4, 3, 5))) == 4 * 2 * 3 * 5 * 7
    square = jnp.ones((6, 6))

    def loop(x):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.dot)(x, square), None), x, length=9)[0]

    assert count_flops(loop, square) == 9 * 2 * 6**3
    assert count_flops(lambda a: jnp.tanh(a) + a, a) == 0


def test_branches_strides_and_devices():
    square = jnp.ones((6, 6))

    def branches(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x)

    assert count_flops(branches, jnp.int32(1), square) == 2 * 2 * 6**3

    layer = Conv3x3(5, stride=2)
    x = jnp.ones((1, 8, 8, 16))
    variables = layer.init(jax.random.key(0), x)
    forward = count_flops(layer.apply, variables, x)
    # As many again for the gradient of the kernel and of the input, whose stride is undone.
    gradient = jax.grad(lambda v, x: layer.apply(v, x).sum(), argnums=(0, 1))
    assert count_flops(gradient, variables, x) == pytest.approx(3 * forward, rel=0.15)

    mesh = jax.sharding.AbstractMesh((4,), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    divided = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)
    assert count_flops(divided, jnp.ones((8, 6))) == 4 * 2 * 2 * 2 * 6


def test_convolutions():
    x = jax.ShapeDtypeStruct((2, 16, 12, 32), jnp.float32)
    for stride, pixels in ((1, 16 * 12), (2, 8 * 6)):
        layer = Conv3x3(10, stride=stride)
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        assert count_flops(layer.apply, variables, x) == 2 * 2 * pixels * 9 * 32 * 10
