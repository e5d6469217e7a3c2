"""A training run: a configuration and a folder in; checkpoints, tables and the best EMA out.

Step n of a run is a function of its state before and of (seed, n), so a run that was killed goes on
to the same result from its newest sound checkpoint.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.config import ConfigError, to_dict
from resshift_jax.data.loader import Batch, Loader
from resshift_jax.flops import count_flops, peak_flops
from resshift_jax.platform import COMPUTE_DTYPES, Place, default_dtype
from resshift_jax.progress import show
from resshift_jax.training.checkpoint import Checkpoints
from resshift_jax.training.config import TrainingConfig, identity
from resshift_jax.training.config_file import write_config
from resshift_jax.training.export import write_model
from resshift_jax.training.mesh import (
    make_mesh,
    require_divisible,
    shard_of,
    to_global,
)
from resshift_jax.training.records import Table, read_table
from resshift_jax.training.report import Report
from resshift_jax.training.state import TrainingState, abstract_state, sharded_init
from resshift_jax.training.step import (
    Figures,
    abstract_pairs,
    make_prepare,
    make_step,
    step_function,
)
from resshift_jax.training.stop import Stop
from resshift_jax.training.validation import Validation
from resshift_jax.training.weights import (
    CHECKPOINTS,
    keep_first_stage,
    load_frozen,
    load_init,
)
from resshift_jax.weights.mapping import flatten

BEST = "best.safetensors"
LOSSES, METRICS = "losses.csv", "validation.csv"
MOST_SKIPPED = 100
"""Steps in a row without a finite gradient after which a run gives up."""


class TrainingError(RuntimeError):
    """A run that cannot go on; one line that says why and what to do."""


class Run:
    """A training run in a folder, ready to go on from its newest checkpoint, or from the start.

    Args:
        accept_changes: go on although the configuration has changed.

    Raises:
        ConfigError, InputError, CheckpointError, OSError: with one line that names the key or file.
    """

    def __init__(
        self, config: TrainingConfig, folder: Path, place: Place, stop: Stop,
        *, accept_changes: bool = False,
    ):  # fmt: skip
        self.config, self.folder, self.place, self.stop = config, folder, place, stop
        self.mesh = make_mesh(jax.devices(), config.mesh.fsdp)
        self.dtype = compute_dtype(config, self.mesh)
        require_divisible(config.batch_size, config.micro_batches, self.mesh.size)
        shard, shards = shard_of(self.mesh)
        self.loader = Loader(
            config.data, config.model.scale,
            seed=config.seed, batch_size=config.batch_size, shard=shard, shards=shards,
        )  # fmt: skip
        self.is_first = place.process == 0
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(
            folder / CHECKPOINTS, keep=config.checkpoint.keep, notify=self._say
        )
        self.report: Report | None = None
        found = self.checkpoints.latest()
        if found is not None and not accept_changes:
            require_same(folder, config, found[1]["config"])
        self.frozen = load_frozen(config, folder)
        self.validation = self._make_validation()
        if self.is_first:
            keep_first_stage(folder, flatten(self.frozen["first_stage"]))
            write_config(folder / "config.yaml", config)
        self.state = self._first_state() if found is None else self._restored(found[0])
        self.start = 0 if found is None else found[0]
        self.frozen = jax.device_put(self.frozen, NamedSharding(self.mesh, P()))

    def _make_validation(self) -> Validation | None:
        if self.config.validation.high is None:
            return None
        place = self.place
        return Validation(
            self.config, place.devices, self.dtype,
            process=place.process, processes=place.processes,
        )  # fmt: skip

    def _first_state(self) -> TrainingState:
        params = load_init(self.config)
        return sharded_init(self.config, self.mesh, params)

    def _restored(self, step: int) -> TrainingState:
        return self.checkpoints.restore(step, abstract_state(self.config, self.mesh))

    def __call__(self) -> int:
        """Trains to the last step, or until told to stop; the exit code."""
        config = self.config
        if self.start >= config.steps:
            self._say(f"{self.folder}: done, all {config.steps} steps of it")
            return 0
        prepare = make_prepare(config, self.mesh)
        train_step = make_step(config, self.mesh, self.dtype)
        flops = step_flops(config, self.mesh, self.dtype, self.state, self.frozen)
        peak = self.mesh.size * peak_flops(self.place.devices[0], self.dtype)
        self.losses = Table(self.folder / LOSSES, self.start) if self.is_first else None
        self.metrics = Table(self.folder / METRICS, self.start) if self.is_first else None
        self._pending: deque[tuple[int, Figures, float]] = deque()
        with Report(
            config.logging, self.folder, start=self.start, steps=config.steps,
            batch_size=config.batch_size, flops=flops, peak=peak, silent=not self.is_first,
        ) as self.report:  # fmt: skip
            if self.start:
                self._say(f"{self.folder}: goes on after step {self.start}")
            try:
                return self._train(prepare, train_step)
            finally:
                self.report = None
                for table in (self.losses, self.metrics):
                    if table is not None:
                        table.close()
                self.checkpoints.close()

    def _train(self, prepare: Any, train_step: Any) -> int:
        if self.start and self._validates(self.start) and not self._is_measured(self.start):
            self._validate(self.start)
        with closing(self.loader.batches(self.start)) as batches:
            return self._steps(batches, prepare, train_step)

    def _steps(self, batches: Iterator[Batch], prepare: Any, train_step: Any) -> int:
        config, profile = self.config, _Profile(self.config, self.folder)
        for step in range(self.start + 1, config.steps + 1):
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            self._note_unreadable(batch)
            profile.before(step)
            images = to_global(self.mesh, {k: v for k, v in batch.items() if k != "record"})
            pairs = prepare(np.int32(step - 1), images)
            self.state, figures = train_step(self.state, self.frozen, pairs)
            self._pending.append((step, figures, waited))
            # One step is always under way while the figures of the one before are told.
            self._tell(all_but=1)
            if step - 1 > self.start:
                self.stop.at_once = False
            self.checkpoints.poll()
            profile.after(step, figures)
            stopping = self.stop(step)
            due = step % config.checkpoint.every == 0 or step == config.steps
            if stopping or due or self._validates(step):
                self._save(step)
            if stopping:
                self.checkpoints.wait()
                self._say(f"stopped after step {step}; the same command goes on")
                return self.stop.exit_code
            if self._validates(step):
                self._validate(step)
        self.checkpoints.wait()
        self._say(f"{self.folder}: done, {config.steps} steps")
        return 0

    def _tell(self, all_but: int = 0) -> None:
        """Writes down the figures of the steps that are done, but for the newest ones."""
        while len(self._pending) > all_but:
            step, figures, waited = self._pending.popleft()
            figures = jax.device_get(figures)
            if self.losses is not None:
                self.losses.add(_row(step, figures))
            if int(figures.skipped_in_a_row) >= MOST_SKIPPED:
                raise TrainingError(
                    f"step {step}: no finite gradient in {MOST_SKIPPED} steps; go on from an "
                    f"earlier checkpoint with a lower optimizer.learning_rate, or a clip_norm"
                )
            assert self.report is not None
            self.report.step(step, figures, waited)

    def _save(self, step: int) -> None:
        self._tell()
        if self.losses is not None:
            self.losses.flush()
        self.checkpoints.save(step, self.state, {"config": to_dict(self.config)})

    def _validates(self, step: int) -> bool:
        if self.validation is None:
            return False
        return step % self.config.validation.every == 0 or step == self.config.steps

    def _is_measured(self, step: int) -> bool:
        return any(row["step"] == step for row in read_table(self.folder / METRICS))

    def _validate(self, step: int) -> None:
        """Measures the EMA, with its checkpoint on the disk: the process may end at any moment."""
        assert self.validation is not None
        assert self.report is not None
        self.checkpoints.wait()
        self.stop.at_once = True
        with self.report.pause():
            ema = self._to_host(self.state.ema)
            params = {"unet": ema, "first_stage": self._to_host(self.frozen["first_stage"])}
            metrics, picture = self.validation.measure(params)
            if self.metrics is not None:
                best = self._is_best(metrics)
                self.metrics.add({"step": step, **metrics})
                self.metrics.flush()
                self.report.metrics(step, metrics)
                if picture is not None:
                    self.report.pictures(step, picture)
                if best:
                    notes = {"step": str(step), **{k: f"{v:.6g}" for k, v in metrics.items()}}
                    write_model(self.folder / BEST, self.config.model, params, notes=notes)
        self.stop.at_once = False

    def _is_best(self, metrics: dict[str, float]) -> bool:
        name = self.config.validation.best_by
        sign = -1 if name.startswith("lpips") else 1
        before = [sign * row[name] for row in read_table(self.folder / METRICS) if name in row]
        return sign * metrics[name] >= max(before, default=-np.inf)

    def _to_host(self, tree: Any) -> Any:
        """A whole copy of arrays that may be divided among devices of several processes."""
        gather = jax.jit(lambda x: x, out_shardings=NamedSharding(self.mesh, P()))
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), gather(tree))

    def _note_unreadable(self, batch: dict[str, np.ndarray]) -> None:
        for line in self.loader.unreadable(batch):
            self._say(f"unreadable, another taken instead: {line}")

    def _say(self, line: str) -> None:
        if self.report is not None:
            self.report.say(line)
        elif self.is_first:
            show(line, sys.stderr)


class _Profile:
    """Writes a trace of some steps for TensorBoard or Perfetto."""

    def __init__(self, config: TrainingConfig, folder: Path):
        self._steps, self._folder = config.logging.profile, folder / "profile"

    def before(self, step: int) -> None:
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)

    def after(self, step: int, figures: Figures) -> None:
        if self._steps and step == self._steps[1]:
            jax.block_until_ready(figures)
            jax.profiler.stop_trace()


def compute_dtype(config: TrainingConfig, mesh: Mesh) -> np.dtype:
    if config.dtype == "auto":
        return default_dtype(mesh.devices.flat[0].platform)
    return COMPUTE_DTYPES[config.dtype]


def step_flops(config: TrainingConfig, mesh: Mesh, dtype: np.dtype, state: Any, frozen: Any) -> int:
    """Operations of a step that have to be done: what is computed again to save memory is not."""
    once = replace(config, loss=replace(config.loss, remat=False))
    return count_flops(step_function(once, mesh, dtype), state, frozen, abstract_pairs(config))


def require_same(folder: Path, config: TrainingConfig, earlier: dict[str, Any]) -> None:
    """Raises ConfigError where a run was begun with settings that give another result."""
    plain = json.loads(json.dumps(to_dict(config)))  # lists for tuples, as checkpoints have them
    now, then = (_leaves(identity(values)) for values in (plain, earlier))
    changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise ConfigError(
            f"{folder}: its checkpoints were made with {key}={then.get(key)}{more}, now "
            f"{now.get(key)}; give another --workdir, or --accept-changes to go on with it"
        )


def _row(step: int, figures: Figures) -> dict[str, float | int]:
    terms = {name: float(value) for name, value in figures.terms.items()}
    return {
        "step": step, "loss": float(figures.loss), **terms,
        "gradient_norm": float(figures.grad_norm), "learning_rate": float(figures.learning_rate),
        "skipped": int(figures.skipped),
    }  # fmt: skip


def _leaves(values: Any, where: str = "") -> dict[str, Any]:
    """Dotted keys and values; lists count as one value each."""
    if not isinstance(values, dict):
        return {where: values}
    return {
        key: leaf
        for name, value in values.items()
        for key, leaf in _leaves(value, f"{where}.{name}" if where else name).items()
    }
