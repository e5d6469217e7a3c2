"""What depends on the machine: devices, dtypes, matrix precision, compiler options, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resshift_jax import platform
from resshift_jax.platform import compiler_options, default_dtype, matmul_precision


@pytest.mark.parametrize(
    ("backend", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_dtype_by_default(monkeypatch, backend, dtype):
    assert default_dtype(backend) == np.dtype(dtype)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert default_dtype() == np.dtype(dtype)


def test_float32_means_float32():
    assert matmul_precision(np.float32) == matmul_precision("float32") == "highest"
    assert matmul_precision(jnp.bfloat16) == "default"


def test_compiler_options_compile():
    platform = jax.devices()[0].platform
    assert compiler_options(platform) == compiler_options()
    double = jax.jit(lambda x: 2 * x, compiler_options=compiler_options(platform))
    assert double(jnp.ones(())) == 2


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of the CPU")
def test_this_xla_knows_the_options():
    assert compiler_options()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("npu", "device=npu: give cpu, gpu, tpu"),
        ("cpu:x", "device=cpu:x: give cpu"),
        ("cpu:99", r"device=cpu:99: not there, the last is cpu:\d+"),
    ],
)
def test_devices_that_are_not_there_are_named(device, message):
    with pytest.raises(ValueError, match=message):
        platform.start(device)


def test_devices_are_all_or_one():
    everything = platform.start()
    assert everything == (tuple(jax.local_devices()), 0, 1)
    assert platform.start("cpu:0").devices == (jax.local_devices(backend="cpu")[0],)


def test_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch):
    free = platform.available_memory()
    assert free is None or 2**20 < free < 2**50
    monkeypatch.setattr(platform, "_CGROUP", tmp_path)
    assert platform.available_memory() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("max\n")
    assert platform.available_memory() == pytest.approx(free, rel=0.2)
    # Files in the cache give way to whoever needs the memory.
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 5000\nfile 1500\nkernel 500\n")
    assert platform.available_memory() == 4500
