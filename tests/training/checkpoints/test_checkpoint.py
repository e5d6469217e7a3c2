"""Checkpoints: bit for bit what was saved, or the one before, whatever happened to the newest."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resshift_jax.training.checkpoints.checkpoint import CheckpointError, Checkpoints, read_part

ROOT = Path(__file__).parents[3]


class Nothing(NamedTuple):
    """As optax has it for what keeps nothing."""


class State(NamedTuple):
    step: Any
    params: Any
    ema: Any
    optimizer: Any


def bits(seed, shape, dtype=np.uint32):
    return np.random.default_rng(seed).integers(
        0, 2 ** (8 * np.dtype(dtype).itemsize), shape, dtype
    )


def make_state(seed=0):
    """Random bits: of the floats some are infinite, denormal, or not numbers."""
    layer = {"kernel": bits(seed, (8, 6)).view(np.float32), "bias": bits(seed + 1, (6,))}
    half = bits(seed + 2, (4, 8), np.uint16).view(jnp.bfloat16)
    state = State(
        step=np.int32(seed),
        params={"layer": layer, "half": half},
        ema={"layer": {"kernel": bits(seed + 3, (8, 6)).view(np.float32)}, "half": half},
        optimizer=(Nothing(), {"count": bits(seed, (), np.uint32).view(np.int32), "mu": None}),
    )
    return jax.tree.map(jnp.asarray, state)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


class Logged(logging.Handler):
    """The messages since it was made."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens checkpoints below a folder; what is logged then goes to the list `logged` of each."""
    open_ones = []

    def opener(folder=tmp_path / "run", **options):
        handler = Logged()
        monkeypatch.setattr(logging.getLogger("resshift_jax"), "handlers", [handler])
        checkpoints = Checkpoints(folder, **options)
        checkpoints.logged = handler.messages
        open_ones.append(checkpoints)
        return checkpoints

    yield opener
    for checkpoints in open_ones:
        checkpoints.close()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two") / "run"
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {"seed": step})
    checkpoints.close()
    return folder


@pytest.fixture
def copied(two_steps, tmp_path):
    return Path(shutil.copytree(two_steps, tmp_path / "run"))


def start(script, *args, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_gives_back_what_was_saved_bit_for_bit(opened, tmp_path):
    state, meta = make_state(), {"config": {"rate": 1e-4, "sizes": [1, 2]}, "note": "Zürich"}
    checkpoints = opened()
    checkpoints.save(7, state, meta)
    checkpoints.wait()
    again = opened()
    assert again.latest() == (7, meta)
    assert_same_bits(again.restore(7, abstract(state)), state)
    assert again.logged == checkpoints.logged == []
    assert names(tmp_path / "run") == ["7"]


def test_arrays_may_be_donated_once_save_returns(opened):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: 3 * x - 7, tree), donate_argnums=0)
    state = {f"{i}": jnp.full((1024, 512), i, jnp.float32) for i in range(8)}
    like = abstract(state)
    jax.block_until_ready(update(jax.tree.map(jnp.copy, state)))  # compiled
    checkpoints = opened()
    checkpoints.save(1, state, {})
    for _ in range(5):
        state = update(state)
    checkpoints.wait()
    saved = checkpoints.restore(1, like)
    for i in range(8):
        assert (saved[f"{i}"] == i).all()


def test_no_folder_or_an_empty_one_is_a_fresh_start(opened, tmp_path):
    assert opened().latest() is None
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    assert opened().latest() is None


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("file", ["ocdbt.process_0/d/*", "_METADATA", "manifest.json"])
def test_damage_goes_back_to_the_step_before(opened, copied, file, damage):
    path = max((copied / "2").glob(file), key=lambda path: path.stat().st_size)
    damage(path)
    checkpoints = opened(copied)
    assert checkpoints.latest() == (1, {"seed": 1})
    (line,) = checkpoints.logged
    what = {truncate: "damaged", flip_a_bit: "damaged", Path.unlink: "missing"}[damage]
    for part in (str(copied / "2"), path.name, what, "step 1"):
        assert part in line
    assert_same_bits(checkpoints.restore(1, abstract(make_state(1))), make_state(1))
    assert names(copied) == ["1", "2"]  # it is left there

    checkpoints.save(2, make_state(3), {"seed": 3})
    checkpoints.wait()
    again = opened(copied)
    assert (again.latest(), again.logged) == ((2, {"seed": 3}), [])
    assert_same_bits(again.restore(2, abstract(make_state(3))), make_state(3))


def test_every_bit_of_a_manifest_counts(opened, copied):
    path = copied / "2" / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            same = json.loads(changed) == json.loads(content)
        except ValueError:
            same = False
        assert opened(copied).latest()[0] == (2 if same else 1)


def test_files_that_are_not_its_own_do_not_matter(opened, copied):
    (copied / "2" / "notes.txt").touch()
    (copied / "backup").mkdir()
    (copied / "3").touch()
    assert opened(copied).latest() == (2, {"seed": 2})


def test_no_sound_checkpoint_is_not_a_fresh_start(opened, copied):
    (copied / "1" / "manifest.json").unlink()
    truncate(copied / "2" / "_METADATA")
    with pytest.raises(CheckpointError, match=r"step 2: _METADATA .* remove that folder") as e:
        opened(copied).latest()
    assert str(copied) in str(e.value)
    assert names(copied) == ["1", "2"]


def test_keeps_the_newest_sound_ones(opened, tmp_path):
    checkpoints = opened(keep=2)
    for step in (1, 2, 3, 10):
        checkpoints.save(step, make_state(), {})
    checkpoints.wait()
    assert names(tmp_path / "run") == ["10", "3"]
    flip_a_bit(tmp_path / "run" / "10" / "_METADATA")
    again = opened(keep=2)
    assert again.latest() == (3, {})
    again.save(4, make_state(), {})
    again.wait()
    assert names(tmp_path / "run") == ["10", "3", "4"]
    again.save(5, make_state(), {})
    again.wait()
    assert names(tmp_path / "run") == ["10", "4", "5"]


def test_damaged_ones_do_not_push_out_sound_ones(opened, tmp_path):
    checkpoints = opened(keep=5)
    for step in (10, 20, 30):
        checkpoints.save(step, make_state(), {})
    checkpoints.wait()
    for step in (20, 30):
        flip_a_bit(tmp_path / "run" / str(step) / "_METADATA")
    again = opened(keep=2)
    assert again.latest() == (10, {})
    again.save(11, make_state(), {})
    again.wait()
    assert again.latest() == (11, {})
    assert names(tmp_path / "run") == ["10", "11", "20", "30"]


def test_a_first_save_that_is_broken_off_is_a_fresh_start(opened, tmp_path):
    (tmp_path / "run" / "1.saving").mkdir(parents=True)
    assert opened().latest() is None


def test_removes_what_broken_off_saves_left(opened, copied):
    for name in ("3.saving", "4.saving.orbax-checkpoint-tmp"):
        (copied / name / "d").mkdir(parents=True)
    shutil.copytree(copied / "1", copied / "1.replaced")  # killed before it was removed
    (copied / "2").rename(copied / "2.replaced")  # killed before the new one was named
    assert opened(copied).latest() == (2, {"seed": 2})
    assert names(copied) == ["1", "2"]


SAVE_TWICE = """
import sys
from pathlib import Path
import jax.numpy as jnp
from resshift_jax.training.checkpoints.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
state = {str(i): jnp.full((1024, 1024), i, jnp.float32) for i in range(32)}
checkpoints.save(1, state, {})
checkpoints.wait()
checkpoints.save(2, state, {})
if sys.argv[2:] == ["wait"]:
    checkpoints.wait()
"""


@pytest.mark.parametrize("stage", ["2.saving.orbax-checkpoint-tmp/ocdbt.process_0", "2.saving"])
def test_killed_while_saving(opened, tmp_path, stage):
    folder = tmp_path / "run"
    process = start(SAVE_TWICE, folder, "wait")
    while not (folder / stage).exists():
        assert process.poll() is None
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert not (folder / "2").exists()
    checkpoints = opened()
    assert (checkpoints.latest(), checkpoints.logged) == ((1, {}), [])
    assert names(folder) == ["1"]
    checkpoints.save(2, make_state(2), {})
    checkpoints.wait()
    assert opened().latest() == (2, {})


def test_a_process_that_forgets_to_close_ends(opened, tmp_path):
    process = start(SAVE_TWICE, tmp_path / "run")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert opened().latest()[0] in (1, 2)


FULL_DISK = """
import resource, sys, time
from pathlib import Path
import jax, jax.numpy as jnp
from resshift_jax.training.checkpoints.checkpoint import CheckpointError, Checkpoints
folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder)
state = {str(i): jax.random.normal(jax.random.key(i), (512, 512)) for i in range(24)}
checkpoints.save(1, state, {})
checkpoints.wait()
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit, step in ((20, 2), (300, 2), (3000, 2), (1_000_000, 2), (1_000_000, 1)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        checkpoints.save(step, state, {})
        while True:
            checkpoints.poll()
            time.sleep(0.01)
    except CheckpointError as e:
        print(e)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    print([path.name for path in folder.iterdir()], checkpoints.latest())
checkpoints.save(2, state, {})
checkpoints.wait()
print(checkpoints.latest())
checkpoints.close()
"""


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path):
    lines = finish(start(FULL_DISK, tmp_path / "run")).splitlines()
    assert lines.pop() == "(2, {})"
    assert len(lines) == 10
    for told, left in zip(lines[::2], lines[1::2], strict=True):
        for part in (str(tmp_path / "run"), "cannot be written", "File too large"):
            assert part in told
        assert left == "['1'] (1, {})"


def test_a_folder_that_cannot_be_written_to_is_one_line(opened, tmp_path):
    (tmp_path / "run").touch()
    checkpoints = opened()
    with pytest.raises(CheckpointError, match=r"run: .* step 1 .* (Not a directory|File exists)"):
        checkpoints.save(1, make_state(), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(ema={}), "ema/half is bfloat16 (4, 8), expected is absent"),
        (lambda s: s._replace(step=jnp.zeros(3)), "step is int32 (), expected is float32 (3,)"),
        (lambda s: s._replace(ema={**s.ema, "x": s.step}), "ema/x is absent, expected is int32 ()"),
    ],
)
def test_another_state_than_was_saved_is_refused(opened, copied, change, message):
    with pytest.raises(CheckpointError) as e:
        opened(copied).restore(2, abstract(change(make_state())))
    assert f"{copied / '2'}: {message}" in str(e.value)


def test_reads_one_part(copied, capsys, caplog):
    expected = make_state(2).ema
    step, meta, ema = read_part(copied, "ema")
    assert (step, meta, sorted(ema)) == (2, {"seed": 2}, ["half", "layer/kernel"])
    assert_same_bits(ema["half"], expected["half"])
    assert_same_bits(ema["layer/kernel"], expected["layer"]["kernel"])
    assert all(type(array) is np.ndarray for array in ema.values())
    assert read_part(copied, "params", 1)[:2] == (1, {"seed": 1})

    truncate(copied / "2" / "_METADATA")
    assert read_part(copied, "ema")[0] == 1
    assert len(caplog.messages) == 1
    with pytest.raises(CheckpointError, match="2: _METADATA is damaged"):
        read_part(copied, "ema", 2)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 5; there: 1, 2"):
        read_part(copied, "ema", 5)
    with pytest.raises(CheckpointError, match="no teacher; there: ema, optimizer, params, step"):
        read_part(copied, "teacher")
    with pytest.raises(FileNotFoundError, match="no checkpoints there"):
        read_part(copied / "none", "ema")
    assert capsys.readouterr() == ("", "")


TWO_PROCESSES = """
import json
import logging
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from resshift_jax.training.checkpoints.checkpoint import Checkpoints
from test_checkpoint import abstract, make_state
mesh = Mesh(jax.devices(), "x")
def placed(leaf):
    spec = PartitionSpec("x") if leaf.ndim and leaf.shape[0] % 4 == 0 else PartitionSpec()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
said = []
class Handler(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("resshift_jax").addHandler(Handler())
logging.getLogger("resshift_jax").propagate = False  # absl has a handler for the root logger
checkpoints = Checkpoints(Path(sys.argv[3]))
said.append(f"{checkpoints.latest()}")
state = checkpoints.restore(1, jax.tree.map(placed, abstract(make_state())))
update = jax.jit(lambda s: jax.tree.map(lambda x: -x, s), donate_argnums=0)
checkpoints.save(3, state, {"processes": 2})
state = update(state)
checkpoints.save(4, state, {"processes": 2})
checkpoints.wait()
said.append(f"{checkpoints.latest()}")
checkpoints.close()
# Not to the standard output: Gloo writes there, too, and in the middle of lines.
Path(sys.argv[4]).write_text(json.dumps(said))
"""


def test_two_processes_share_their_checkpoints(opened, copied, tmp_path):
    truncate(copied / "2" / "_METADATA")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    said = [tmp_path / f"said{index}.txt" for index in range(2)]
    processes = [start(TWO_PROCESSES, address, i, copied, said[i]) for i in range(2)]
    for process in processes:
        finish(process)
    first, second = [json.loads(path.read_text()) for path in said]
    assert second == ["(1, {'seed': 1})", "(4, {'processes': 2})"]
    assert first[1:] == second
    assert "going back to step 1" in first[0]
    checkpoints = opened(copied)
    assert checkpoints.latest() == (4, {"processes": 2})
    state = make_state(1)
    assert_same_bits(checkpoints.restore(3, abstract(state)), state)
    assert_same_bits(
        checkpoints.restore(4, abstract(state)).params["layer"]["bias"],
        -state.params["layer"]["bias"],
    )


def test_the_package_itself_does_not_import_orbax():
    finish(start("import sys, resshift_jax; assert 'orbax' not in sys.modules"))
