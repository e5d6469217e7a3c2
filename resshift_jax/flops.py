"""Floating-point operations of a function: what its convolutions and matrix products cost."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_flops(function: Callable, *args: Any) -> int:
    """Twice the multiply-adds of all convolutions and matrix products in function(*args).

    Element-wise work is not counted. The arguments may be abstract (jax.ShapeDtypeStruct).
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
            total += 2 * math.prod(out) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        repeats = params["length"] if name == "scan" else 1
        total += repeats * sum(_jaxpr_flops(inner) for inner in _inner_jaxprs(params))
    return total


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
