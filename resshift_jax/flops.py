"""Floating-point operations: what a function costs, and what a device can do."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Dense bfloat16 operations a second of a chip, as its maker tells.
_PEAK = {
    "TPU v2": 45e12, "TPU v3": 123e12, "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12,
    "TPU v5": 459e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12, "TPU v6e": 918e12,
    "TPU7x": 2307e12, "V100": 125e12, "A100": 312e12, "L4": 121e12, "L40S": 362e12,
    "H100": 989e12, "H200": 989e12, "B200": 2250e12,
}  # fmt: skip
H100 = _PEAK["H100"]
"""Its greatest rate, operations a second in bfloat16: the unit in which costs are compared."""

_MATMUL_SIDE = 2048


def count_flops(function: Callable, *args: Any) -> int:
    """Twice the multiply-adds of all convolutions and matrix products in function(*args).

    Element-wise work is not counted, nor are products with zeros that a stride puts between
    values. Of branches the dearest counts, and what `shard_map` divides among devices for all of
    them. The arguments may be abstract (jax.ShapeDtypeStruct).
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = equation.outvars[0].aval.shape if equation.outvars else ()
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(lhs[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
            flops = 2 * math.prod(out) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            total += flops // math.prod(params["lhs_dilation"])
        if name == "cond":  # one of its branches is computed
            total += max(_jaxpr_flops(branch.jaxpr) for branch in params["branches"])
            continue
        repeats = 1
        if name == "scan":
            repeats = params["length"]
        elif name == "shard_map":
            repeats = params["mesh"].size
        total += repeats * sum(_jaxpr_flops(inner) for inner in _inner_jaxprs(params))
    return total


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def peak_flops(device: jax.Device, dtype: Any) -> float:
    """Operations a second that a device could do at most.

    For bfloat16 on a known chip as its maker tells, otherwise that of the fastest product of two
    2048x2048 matrices in a second of them: what else a machine does may slow some down.
    """
    names = sorted((name for name in _PEAK if name in device.device_kind), key=len)
    if names and np.dtype(dtype) == jnp.bfloat16:
        return _PEAK[names[-1]]
    with jax.default_device(device):
        square = jnp.ones((_MATMUL_SIDE, _MATMUL_SIDE), dtype)
        product = jax.jit(lambda x: x @ x).lower(square).compile()
        seconds: list[float] = []
        while sum(seconds) < 1:
            start = time.perf_counter()
            product(square).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * _MATMUL_SIDE**3 / min(seconds)
