"""What depends on the accelerator: compute dtypes, matrix precision, compiler options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resshift_jax.platform import compiler_options, default_dtype, matmul_precision


@pytest.mark.parametrize(
    ("backend", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_dtype_by_default(monkeypatch, backend, dtype):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert default_dtype() == np.dtype(dtype)


def test_float32_means_float32():
    assert matmul_precision(np.float32) == matmul_precision("float32") == "highest"
    assert matmul_precision(jnp.bfloat16) == "default"


def test_compiler_options_compile():
    double = jax.jit(lambda x: 2 * x, compiler_options=compiler_options())
    assert double(jnp.ones(())) == 2


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of the CPU")
def test_this_xla_knows_the_options():
    assert compiler_options()
