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


@cache
def compiler_options() -> dict[str, Any]:
    """Options for jax.jit on this machine; none where its XLA does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _CPU_OPTIONS
