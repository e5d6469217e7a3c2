"""A training run: a configuration and a folder in; checkpoints, tables and the best EMA out.

Step n of a run is a function of its state before and of (seed, n), so a run that was killed goes on
to the same result from its newest sound checkpoint.
"""

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resshift_jax.console import printable
from resshift_jax.data.loader import Batch, Loader
from resshift_jax.evaluation.metrics import METRICS
from resshift_jax.flops import peak_flops
from resshift_jax.image_io.folders import require_folder
from resshift_jax.latent_model import LatentModel, flatten
from resshift_jax.platform import Topology
from resshift_jax.settings import ConfigError, to_dict
from resshift_jax.training.checkpoints.checkpoint import Checkpoints
from resshift_jax.training.config import TrainingConfig, what_changed
from resshift_jax.training.config_file import write_config
from resshift_jax.training.export import write_model
from resshift_jax.training.mesh import make_mesh, require_divisible, shard_of, to_global
from resshift_jax.training.records import read_table
from resshift_jax.training.run_log import METRICS_TABLE, RunLog
from resshift_jax.training.state import TrainingState, abstract_state, sharded_init
from resshift_jax.training.step import latent_model, make_prepare, make_step, step_flops
from resshift_jax.training.stop import Stop
from resshift_jax.training.validation import Validation
from resshift_jax.training.weights import (
    CHECKPOINTS,
    keep_frozen,
    load_frozen,
    load_init,
    load_teacher,
)

BEST, CONFIG = "best.safetensors", "config.yaml"

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A run that is open, for `train` to carry on.

    Attributes:
        config: as it was given, but with the dtype that "auto" stands for.
        model: as it computes on the devices of the mesh.
        start: the step that the run goes on from, 0 for a new one.
        state: after that step, and after each one that follows.
        frozen: the parameters that are not trained, on all devices.
        validation: None where nothing is measured.
    """

    config: TrainingConfig
    folder: Path
    topology: Topology
    mesh: Mesh
    model: LatentModel
    loader: Loader
    checkpoints: Checkpoints
    start: int
    state: TrainingState
    frozen: Any
    validation: Validation | None

    def validates(self, step: int) -> bool:
        """Whether the EMA is measured after a step."""
        if self.validation is None:
            return False
        return step % self.config.validation.every == 0 or step == self.config.train_steps

    def saves(self, step: int) -> bool:
        """Whether the state is kept after a step."""
        is_due = step % self.config.checkpoint.every == 0 or step == self.config.train_steps
        return is_due or self.validates(step)

    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.start >= self.config.train_steps and not self.owes_validation()

    def owes_validation(self) -> bool:
        """The process ended after the checkpoint that the run goes on from, but before its row."""
        if not self.start or not self.validates(self.start):
            return False
        owed = all(row["step"] != self.start for row in read_table(self.folder / METRICS_TABLE))
        if self.topology.processes > 1:  # of which all must do the same
            owed = bool(multihost_utils.broadcast_one_to_all(np.int32(owed)))
        return owed


def open_run(
    config: TrainingConfig, folder: Path, topology: Topology, *, accept_changes: bool = False
) -> Run:
    """A run in a folder, ready to go on from its newest checkpoint, or from the start.

    accept_changes: go on although the configuration has changed.

    Raises:
        ConfigError, InputError, CheckpointError, OSError: with one line that names the key or file.
    """
    devices = topology.devices if topology.processes == 1 else jax.devices()
    mesh = make_mesh(devices, config.mesh.fsdp)
    model = latent_model(config, mesh)
    require_divisible(config.batch_size, config.micro_batches, mesh.size)
    shard, shards = shard_of(mesh)
    loader = Loader(
        config.data, config.model.scale,
        seed=config.seed, batch_size=config.batch_size, shard=shard, shards=shards,
    )  # fmt: skip
    require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / CHECKPOINTS, keep=config.checkpoint.keep)
    found = checkpoints.latest()
    before = folder if found is not None else None
    known = None if found is None else found[1]["config"]["loss"].get("teacher")
    kept = before if known == config.loss.teacher else None  # another one may be accepted
    teacher = load_teacher(config, kept)
    if teacher is not None:
        config = replace(config, loss=replace(config.loss, teacher_model=teacher.model))
    dtype = cast(Literal["float32", "bfloat16"], model.compute.dtype.name)
    resolved = replace(config, dtype=dtype)
    if found is not None and not accept_changes:
        require_same(folder, resolved, found[1]["config"])
    frozen = load_frozen(config, before, teacher)
    log_shares(loader)
    validation = None
    if config.validation.hq is not None:
        validation = Validation(config, model, topology)
    if found is None:
        state = sharded_init(config, mesh, load_init(config, teacher))
    else:
        state = checkpoints.restore(found[0], abstract_state(config, mesh))
    if topology.process == 0:
        if found is None:
            keep_frozen(folder, flatten(frozen["first_stage"]), None)
        if teacher is not None and kept is None:
            keep_frozen(folder, {}, teacher)
        write_config(folder / CONFIG, config)
    require_one_folder(folder, topology)
    return Run(
        resolved, folder, topology, mesh, model, loader, checkpoints,
        start=0 if found is None else found[0],
        state=state, frozen=jax.device_put(frozen, NamedSharding(mesh, P())), validation=validation,
    )  # fmt: skip


def open_log(run: Run) -> RunLog:
    """The log of a run, which starts with what its steps cost."""
    flops = step_flops(run.config, run.model, run.mesh, run.state, run.frozen)
    peak = run.mesh.size * peak_flops(run.topology.devices[0], run.model.compute.dtype)
    silent = run.topology.process > 0
    return RunLog(run.config, run.folder, start=run.start, flops=flops, peak=peak, silent=silent)


def train(run: Run, log: RunLog, stop: Stop) -> int:
    """Trains to the last step, or until told to stop; the exit code.

    Raises:
        TrainingError: too many steps in a row had no finite gradient.
        InputError: the images cannot be read as the configuration says.
        CheckpointError: the state cannot be saved.
    """
    prepare = make_prepare(run.config, run.mesh)
    train_step = make_step(run.config, run.model, run.mesh)
    if run.start:
        logger.info("%s: goes on after step %d", run.folder, run.start)
    if run.owes_validation():
        validate(run, log, stop, run.start)
    with closing(run.loader.batches(run.start)) as batches:
        for step in range(run.start + 1, run.config.train_steps + 1):
            batch = log.next(batches)
            log_unreadable(run.loader, batch)
            log.before(step)
            pairs = prepare(np.int32(step - 1), to_global(run.mesh, images_of(batch)))
            run.state, metrics = train_step(run.state, run.frozen, pairs)
            log.step(step, metrics)
            if step - 1 > run.start:  # there is a step that would be lost
                stop.allow_at_once(False)
            run.checkpoints.poll()
            stopping = stop(step)
            if stopping or run.saves(step):
                log.flush()
                run.checkpoints.save(step, run.state, {"config": to_dict(run.config)})
            if stopping:
                run.checkpoints.wait()
                logger.info("stopped after step %d; the same command goes on", step)
                return stop.exit_code
            if run.validates(step):
                validate(run, log, stop, step)
    run.checkpoints.wait()
    logger.info("%s: done, %d steps", run.folder, run.config.train_steps)
    return 0


def validate(run: Run, log: RunLog, stop: Stop, step: int) -> None:
    """Measures the EMA, with its checkpoint on the disk: the process may end at any moment."""
    assert run.validation is not None
    run.checkpoints.wait()
    before = stop.allow_at_once(True)
    with log.pause():
        first_stage = whole(run.mesh, run.frozen["first_stage"])
        params = {"unet": whole(run.mesh, run.state.ema), "first_stage": first_stage}
        metrics, picture = run.validation.measure(params)
        best_by = run.config.validation.best_by
        if run.topology.process == 0 and is_best(run.folder / METRICS_TABLE, best_by, metrics):
            notes = {"step": str(step), **{k: f"{v:.6g}" for k, v in metrics.items()}}
            write_model(run.folder / BEST, run.config.model, params, notes=notes)
        log.validation(step, metrics, picture)
    stop.allow_at_once(before)


def is_best(table: Path, name: str, metrics: dict[str, float]) -> bool:
    """Whether no validation in the table was better by the metric of this name."""
    before = [row.get(name, np.nan) for row in read_table(table)]
    return all(METRICS[name].is_better(metrics[name], value) for value in before if value == value)


def whole(mesh: Mesh, tree: Any) -> Any:
    """A copy in memory of arrays that may be divided among devices of several processes."""
    gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), gather(tree))


def images_of(batch: Batch) -> Batch:
    """What of a batch goes to the devices."""
    return {name: images for name, images in batch.items() if name != "record"}


def log_shares(loader: Loader) -> None:
    """Logs how much of a batch is of each kind, where there are several."""
    shares = loader.shares()
    if len(shares) > 1:
        told = ", ".join(f"{share:.0%} {printable(kind)}" for kind, share in shares.items())
        logger.info("images: %s", told)


def log_unreadable(loader: Loader, batch: Batch) -> None:
    """Logs the images of a batch in whose stead others were read.

    Raises:
        InputError: there are too many of them.
    """
    for line in loader.unreadable(batch):
        count = loader.unreadable_count
        logger.warning("unreadable, another is taken instead (%d so far): %s", count, line)


def require_same(folder: Path, config: TrainingConfig, earlier: dict[str, Any]) -> None:
    """Raises ConfigError where a run was begun with settings that give another result."""
    changes = what_changed(config, earlier)
    if changes:
        key, then, now = changes[0]
        more = f" and {len(changes) - 1} more" if changes[1:] else ""
        raise ConfigError(
            f"{folder}: its checkpoints were made with {key}={then}{more}, now {now}; give another "
            f"workdir=FOLDER, or accept_changes=True to go on with it"
        )


def require_one_folder(folder: Path, topology: Topology) -> None:
    """Raises ConfigError where processes do not see the first one's folder as theirs."""
    if topology.processes == 1:
        return
    multihost_utils.sync_global_devices("the first process has written its configuration")
    if not (folder / CONFIG).exists():
        raise ConfigError(
            f"{folder}: not the folder that the first process writes to; give a workdir=FOLDER on "
            f"a file system that all processes share"
        )
