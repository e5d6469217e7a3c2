"""What depends on the accelerator and not on the model: the compute dtype, and compiler options."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

COMPUTE_DTYPES = {"float32": np.dtype(jnp.float32), "bfloat16": np.dtype(jnp.bfloat16)}

# XLA's defaults for CPUs less its newer convolutions, which reach 0.7 of the matrix product's rate
# on maps of 32x32 and less, where the older ones reach 0.9; and vectors as wide as the CPU has.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    ),
    "xla_cpu_prefer_vector_width": 512,
}


def default_dtype() -> np.dtype:
    """bfloat16 on TPU and GPU; float32 on CPU, where bfloat16 is no faster."""
    return COMPUTE_DTYPES["float32" if jax.default_backend() == "cpu" else "bfloat16"]


def matmul_precision(dtype: DTypeLike) -> str:
    """For jax.default_matmul_precision: float32 asked for means float32, also on TPU and GPU."""
    return "highest" if np.dtype(dtype) == np.float32 else "default"


@cache
def compiler_options() -> dict[str, Any]:
    """Options for jax.jit on this machine; those that its XLA does not know are left out."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _CPU_OPTIONS.items() if _is_accepted({name: value})}


def _is_accepted(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
