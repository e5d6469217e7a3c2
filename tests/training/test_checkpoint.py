"""Checkpoints: what comes back, and what becomes of damaged, broken-off and failing ones."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resshift_jax.training.checkpoint import MANIFEST, CheckpointError, Checkpoints, read_part


def make_state(step: int) -> dict:
    return {
        "step": jnp.int32(step),
        "ema": {"a": {"kernel": jnp.arange(60_000.0).reshape(200, 300) + step}},
        "half": jnp.full(7, step, jnp.bfloat16),
        "moments": (jnp.full((3,), step, jnp.uint32), ()),
    }


def abstract(state) -> dict:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> Path:
    """A folder with the checkpoints of the steps 1 to 3, to be copied."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), {"config": {"list": [step]}})
    checkpoints.wait()
    checkpoints.close()
    return folder


@pytest.fixture
def folder(three_steps, tmp_path) -> Path:
    return shutil.copytree(three_steps, tmp_path / "checkpoints")


@pytest.fixture
def opened(folder):
    """Checkpoints of the folder, and the lines that they told."""
    lines: list[str] = []
    checkpoints = Checkpoints(folder, notify=lines.append)
    yield checkpoints, lines
    checkpoints.close()


def test_the_newest_comes_back_to_the_bit(opened):
    checkpoints, lines = opened
    assert checkpoints.latest() == (3, {"config": {"list": [3]}})
    assert_same(checkpoints.restore(3, abstract(make_state(0))), make_state(3))
    assert not lines


def test_a_part_is_read_without_the_rest(folder):
    step, meta, ema = read_part(folder, "ema", 2)
    assert (step, meta, list(ema)) == (2, {"config": {"list": [2]}}, ["a/kernel"])
    np.testing.assert_array_equal(ema["a/kernel"], make_state(2)["ema"]["a"]["kernel"])
    assert read_part(folder, "ema")[0] == 3
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7; there: 3, 2, 1"):
        read_part(folder, "ema", 7)


def test_what_is_saved_is_not_what_comes_after_it(tmp_path):
    """Donated as soon as save() returns."""
    update = partial(jax.jit, donate_argnums=0)(lambda s: jax.tree.map(lambda x: x + 1, s))
    checkpoints = Checkpoints(tmp_path, keep=5)
    state = update(make_state(0))
    for step in (1, 2, 3):
        checkpoints.save(step, state, {})
        state = update(state)
    checkpoints.wait()
    for step in (1, 2, 3):
        expected = jax.tree.map(lambda x, n=step: x + n, make_state(0))
        assert_same(checkpoints.restore(step, abstract(expected)), expected)
    checkpoints.close()


def largest_file(path: Path) -> Path:
    files = [f for f in path.rglob("*") if f.is_file() and f.name != MANIFEST]
    return max(files, key=lambda f: f.stat().st_size)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("which", ["an array's file", MANIFEST])
def test_a_damaged_checkpoint_is_not_gone_on_from(folder, opened, damage, which):
    checkpoints, lines = opened
    path = folder / "3" / MANIFEST if which == MANIFEST else largest_file(folder / "3")
    damage(path)
    assert checkpoints.latest() == (2, {"config": {"list": [2]}})
    (line,) = lines
    assert line.startswith(f"{folder / '3'}: {path.relative_to(folder / '3')} ")
    assert line.endswith("; going back to step 2")
    assert_same(checkpoints.restore(2, abstract(make_state(0))), make_state(2))
    # And the same step is saved again, in the place of what cannot be used.
    checkpoints.save(3, make_state(3), {"new": 1})
    checkpoints.wait()
    assert checkpoints.latest() == (3, {"new": 1})
    assert_same(checkpoints.restore(3, abstract(make_state(0))), make_state(3))


def test_two_damaged_ones_are_both_named(folder, opened):
    checkpoints, lines = opened
    flip(largest_file(folder / "3"))
    (folder / "2" / MANIFEST).unlink()
    assert checkpoints.latest()[0] == 1
    assert [line.split(":")[0] for line in lines] == [str(folder / "3"), str(folder / "2")]


def test_none_that_is_sound_is_an_error_and_none_at_all_is_none(folder, opened, tmp_path):
    checkpoints, _ = opened
    for step in (1, 2, 3):
        flip(largest_file(folder / str(step)))
    with pytest.raises(CheckpointError, match=r"no checkpoint is sound, remove .* to begin anew"):
        checkpoints.latest()
    with pytest.raises(CheckpointError, match="checksum differs"):
        read_part(folder, "ema", 2)
    empty = Checkpoints(tmp_path / "empty")
    assert empty.latest() is None
    empty.close()


def test_where_only_the_first_save_was_broken_off_a_run_begins_anew(folder, opened):
    checkpoints, lines = opened
    for step in (2, 3):
        shutil.rmtree(folder / str(step))
    (folder / "1" / MANIFEST).unlink()
    assert checkpoints.latest() is None
    assert "beginning anew" in lines[0]
    with pytest.raises(FileNotFoundError, match="no checkpoints there"):
        read_part(folder, "ema")
    checkpoints.save(1, make_state(1), {})
    checkpoints.wait()
    assert checkpoints.latest() == (1, {})


def test_another_network_is_named(opened):
    checkpoints, _ = opened
    state = make_state(0)
    state["ema"]["a"]["kernel"] = jnp.zeros((200, 301))
    with pytest.raises(CheckpointError, match=r"ema/a/kernel is \[\[200, 300\], 'float32'\]"):
        checkpoints.restore(3, abstract(state))


def test_the_newest_are_kept(folder, opened):
    checkpoints, _ = opened
    flip(largest_file(folder / "2"))
    (folder / "9.orbax-checkpoint-tmp-1").mkdir()
    checkpoints.save(4, make_state(4), {})
    checkpoints.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]


SAVING = """
    import jax, jax.numpy as jnp, resource, sys
    from pathlib import Path
    from resshift_jax.training.checkpoint import CheckpointError, Checkpoints
    checkpoints = Checkpoints(Path(sys.argv[1]))
    state = {"x": jax.random.normal(jax.random.key(0), (4_000_000,))}
"""


def python(code: str, *arguments) -> subprocess.Popen:
    code = textwrap.dedent(SAVING) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_save_that_is_killed_does_not_count(folder):
    process = python(
        """
        print("begun", flush=True)
        for step in range(4, 1000):
            checkpoints.save(step, state, {})
        """,
        folder,
    )
    process.stdout.readline()
    while not list(folder.glob("4*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines: list[str] = []
    checkpoints = Checkpoints(folder, notify=lines.append)
    step, _ = checkpoints.latest()
    assert step == 3 or (folder / str(step) / MANIFEST).exists()
    checkpoints.save(step + 1, make_state(step + 1), {})
    checkpoints.wait()
    assert checkpoints.latest()[0] == step + 1
    assert not list(folder.glob("*tmp*"))
    checkpoints.close()


def test_a_write_that_fails_is_one_line_and_harms_nothing(folder):
    process = python(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        try:
            checkpoints.save(4, state, {})
            checkpoints.wait()
        except CheckpointError as e:
            print(e)
        checkpoints.close()
        """,
        folder,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.splitlines() == [
        f"{folder}: the checkpoint of step 4 cannot be written, file too large; "
        f"those before it are whole, and the same command goes on from them"
    ]
    assert err == ""
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]
    assert read_part(folder, "ema")[0] == 3
