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
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.cli.progress import show
from resshift_jax.data.loader import Batch, Loader
from resshift_jax.flops import peak_flops
from resshift_jax.image_io.folders import require_folder
from resshift_jax.platform import Place
from resshift_jax.settings import ConfigError, merged, to_dict
from resshift_jax.training.checkpoints.checkpoint import Checkpoints
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
from resshift_jax.training.report import TrainingReport
from resshift_jax.training.state import TrainingState, abstract_state, sharded_init
from resshift_jax.training.step import (
    Figures,
    compute_dtype,
    make_prepare,
    make_step,
    step_flops,
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
CONFIG, LOSSES, METRICS = "config.yaml", "losses.csv", "validation.csv"
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
        devices = place.devices if place.processes == 1 else jax.devices()
        self.mesh = make_mesh(devices, config.mesh.fsdp)
        self.dtype = compute_dtype(config, self.mesh)
        dtype: Any = self.dtype.name
        self._resolved = replace(config, dtype=dtype)
        require_divisible(config.batch_size, config.micro_batches, self.mesh.size)
        shard, shards = shard_of(self.mesh)
        self.loader = Loader(
            config.data, config.model.scale,
            seed=config.seed, batch_size=config.batch_size, shard=shard, shards=shards,
        )  # fmt: skip
        self.is_first = place.process == 0
        require_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(
            folder / CHECKPOINTS, keep=config.checkpoint.keep, notify=self._say
        )
        self.report: TrainingReport | None = None
        found = self.checkpoints.latest()
        if found is not None and not accept_changes:
            require_same(folder, self._resolved, found[1]["config"])
        frozen = load_frozen(config, folder if found is not None else None)
        self.validation = self._make_validation()
        self.state = self._first_state() if found is None else self._restored(found[0])
        self.start = 0 if found is None else found[0]
        if self.is_first:
            if found is None:
                keep_first_stage(folder, flatten(frozen["first_stage"]))
            write_config(folder / CONFIG, config)
        self._require_one_folder()
        everywhere = NamedSharding(self.mesh, P())
        self._gather = jax.jit(lambda tree: tree, out_shardings=everywhere)
        self._first_stage = frozen["first_stage"]
        self.frozen = jax.device_put(frozen, everywhere)

    def _require_one_folder(self) -> None:
        """Raises ConfigError where processes do not see the first one's folder as theirs."""
        if self.place.processes == 1:
            return
        multihost_utils.sync_global_devices("the first process has written its configuration")
        if not (self.folder / CONFIG).exists():
            raise ConfigError(
                f"{self.folder}: not the folder that the first process writes to; give a --workdir "
                f"on a file system that all processes share"
            )

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
        if self.start >= config.steps and not self._owes_validation():
            self._say(f"{self.folder}: done, all {config.steps} steps of it")
            return 0
        prepare = make_prepare(config, self.mesh)
        train_step = make_step(config, self.mesh, self.dtype)
        flops = step_flops(config, self.mesh, self.dtype, self.state, self.frozen)
        peak = self.mesh.size * peak_flops(self.place.devices[0], self.dtype)
        self.losses = Table(self.folder / LOSSES, self.start) if self.is_first else None
        self.metrics = Table(self.folder / METRICS, self.start) if self.is_first else None
        self._pending: deque[tuple[int, Figures, float]] = deque()
        with TrainingReport(
            config.logging, self.folder, start=self.start, steps=config.steps,
            batch_size=config.batch_size, flops=flops, peak=peak, silent=not self.is_first,
        ) as self.report:  # fmt: skip
            if self.start:
                self._say(f"{self.folder}: goes on after step {self.start}")
            try:
                return self._train(prepare, train_step)
            finally:
                self.report = None
                self.checkpoints.close()
                for table in (self.losses, self.metrics):
                    if table is not None:
                        table.close()

    def _train(self, prepare: Any, train_step: Any) -> int:
        if self._owes_validation():
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
                self.stop.allow_at_once(False)
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
                    f"step {step}: no finite gradient in {MOST_SKIPPED} steps; remove the newest "
                    f"folders of {self.folder / CHECKPOINTS} and go on with --accept-changes and a "
                    f"lower optimizer.learning_rate or an optimizer.clip_norm"
                )
            assert self.report is not None
            self.report.step(step, figures, waited)

    def _save(self, step: int) -> None:
        self._tell()
        if self.losses is not None:
            self.losses.flush()
        self.checkpoints.save(step, self.state, {"config": to_dict(self._resolved)})

    def _validates(self, step: int) -> bool:
        if self.validation is None:
            return False
        return step % self.config.validation.every == 0 or step == self.config.steps

    def _owes_validation(self) -> bool:
        """The process ended after the checkpoint that the run goes on from, but before its row."""
        if not self.start or not self._validates(self.start):
            return False
        owed = all(row["step"] != self.start for row in read_table(self.folder / METRICS))
        if self.place.processes > 1:  # of which all must do the same
            owed = bool(multihost_utils.broadcast_one_to_all(np.int32(owed)))
        return owed

    def _validate(self, step: int) -> None:
        """Measures the EMA, with its checkpoint on the disk: the process may end at any moment."""
        assert self.validation is not None
        assert self.report is not None
        self.checkpoints.wait()
        before = self.stop.allow_at_once(True)
        with self.report.pause():
            params = {"unet": self._to_host(self.state.ema), "first_stage": self._first_stage}
            metrics, picture = self.validation.measure(params, self._say)
            if self.metrics is not None:
                if self._is_best(metrics):
                    notes = {"step": str(step), **{k: f"{v:.6g}" for k, v in metrics.items()}}
                    write_model(self.folder / BEST, self.config.model, params, notes=notes)
                self.metrics.add({"step": step, **metrics})  # now this validation is done
                self.metrics.flush()
                self.report.metrics(step, metrics)
                if picture is not None:
                    self.report.pictures(step, picture)
        self.stop.allow_at_once(before)

    def _is_best(self, metrics: dict[str, float]) -> bool:
        name = self.config.validation.best_by
        sign = -1 if name.startswith("lpips") else 1
        before = [sign * row.get(name, np.nan) for row in read_table(self.folder / METRICS)]
        return sign * metrics[name] >= max([v for v in before if v == v], default=-np.inf)

    def _to_host(self, tree: Any) -> Any:
        """A whole copy of arrays that may be divided among devices of several processes."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), self._gather(tree))

    def _note_unreadable(self, batch: dict[str, np.ndarray]) -> None:
        for line in self.loader.unreadable(batch):
            number = self.loader.unreadable_count
            text = f"unreadable, another is taken instead ({number} so far): {line}"
            if self.is_first:
                self._say(text)
            else:  # which reads other files
                show(f"process {self.place.process}: {text}", sys.stderr)

    def _say(self, line: str) -> None:
        if self.report is not None:
            self.report.say(line)
        elif self.is_first:
            show(line, sys.stderr)


class _Profile:
    """Writes a trace of some steps for TensorBoard or Perfetto."""

    def __init__(self, config: TrainingConfig, folder: Path):
        self._first, self._last = config.logging.profile or (0, -1)
        self._folder, self._is_on = folder / "profile", False

    def before(self, step: int) -> None:
        if not self._is_on and self._first <= step <= self._last:
            jax.profiler.start_trace(self._folder)
            self._is_on = True

    def after(self, step: int, figures: Figures) -> None:
        if self._is_on and step >= self._last:
            jax.block_until_ready(figures)
            jax.profiler.stop_trace()
            self._is_on = False


def require_same(folder: Path, config: TrainingConfig, earlier: dict[str, Any]) -> None:
    """Raises ConfigError where a run was begun with settings that give another result."""
    plain = json.loads(json.dumps(to_dict(config)))  # lists for tuples, as checkpoints have them
    # What there was no setting for then is as by default.
    earlier = merged(json.loads(json.dumps(to_dict(TrainingConfig()))), earlier)
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
