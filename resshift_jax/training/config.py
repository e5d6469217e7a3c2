"""All that a training run may say: frozen dataclasses, with defaults and checks.

The defaults are the published recipe of realsr_x4.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from resshift_jax.config import BACKBONES, ModelConfig
from resshift_jax.config import RENAMED as RENAMED_IN_MODELS
from resshift_jax.data.config import DataConfig
from resshift_jax.degradation.colours import ColourConfig
from resshift_jax.degradation.config import RealEsrganConfig
from resshift_jax.degradation.pairs import DEGRADATIONS, DegradationSettings
from resshift_jax.evaluation.metrics import METRICS
from resshift_jax.nn.lpips import LEAST_SIZE, Network
from resshift_jax.settings import (
    Renames,
    leaves,
    merged,
    renamed,
    require,
    require_positive,
    to_dict,
)
from resshift_jax.training.discriminator import DiscriminatorConfig
from resshift_jax.training.distillation import require_same_start
from resshift_jax.training.image_terms import SPECTRUM_SIDE
from resshift_jax.training.losses import LossConfig
from resshift_jax.training.optimizer import OPTIMIZERS, AdamWConfig, LearningRateConfig


@dataclass(frozen=True)
class MeshConfig:
    """How devices share the work: the batch is always divided among all of them.

    Attributes:
        fsdp: devices that share one copy of parameters, optimizer and EMA; 1: each has its own.
    """

    fsdp: int = 1

    def __post_init__(self) -> None:
        require_positive("mesh", self, "fsdp")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is kept, besides at the end and when the run is told to stop.

    Attributes:
        every: steps.
        keep: how many of the newest stay.
    """

    every: int = 2000
    keep: int = 3

    def __post_init__(self) -> None:
        require_positive("checkpoint", self, "every")
        require(self.keep >= 2, f"checkpoint.keep: {self.keep} given, at least 2 needed")


@dataclass(frozen=True)
class ValidationConfig:
    """How the EMA is measured, with the whole chain.

    Attributes:
        every: steps; the last one is always measured.
        hq: folder of originals; None: nothing is measured.
        lq: folder of their low-quality versions; None: made of the originals with one key, by the
            run's own degradation.
        images: at most so many, spread evenly over the folder.
        metrics: what is measured, of METRICS.
        best_by: the metric by which the best EMA is kept.
    """

    every: int = 10_000
    hq: str | None = None
    lq: str | None = None
    images: int = 64
    metrics: tuple[Annotated[str, METRICS], ...] = ("psnr_y", "ssim_y", "lpips_alex")
    best_by: Annotated[str, METRICS] = "lpips_alex"

    def __post_init__(self) -> None:
        require_positive("validation", self, "every", "images")
        require(
            self.best_by in self.metrics,
            f"validation.best_by: {self.best_by} given, but validation.metrics has "
            f"{', '.join(self.metrics) or 'none'}",
        )


@dataclass(frozen=True)
class LoggingConfig:
    """What a run tells.

    Attributes:
        every: steps between lines and points of curves.
        tensorboard: curves and pictures for TensorBoard, in the run's folder.
        profile: first and last step of which a trace is written; None: none.
    """

    every: int = 50
    tensorboard: bool = True
    profile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require_positive("logging", self, "every")
        if self.profile is not None:
            first, last = self.profile
            require(1 <= first <= last, f"logging.profile: {self.profile} given, two steps needed")


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        data: the images, and how crops are cut out of them.
        colours: how the images' colours are changed before that.
        degradation: how their low-quality versions are made; of one of the kinds in DEGRADATIONS.
        discriminator: what else judges the decoded predictions.
        optimizer: of one of the kinds in OPTIMIZERS.
        train_steps: updates of the parameters.
        batch_size: images an update, on all devices together.
        micro_batches: parts that a device takes its share of the batch in, one after the other.
        ema: decay of the exponential moving average of the parameters, from their start.
        seed: of all that is drawn.
        timestep_weights: how often each time-step is drawn beside the others, from the one of the
            least noise on; none: all as often, or the last alone where only that is sampled.
        dtype: of the networks' computation; "auto": bfloat16 on TPU and GPU, float32 on CPU.
        first_stage_weights: .pth of the autoencoder; None: from the cache folder, or fetched.
        init: a weight file, or the folder of another run for its EMA; None: from random parameters.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    colours: ColourConfig = ColourConfig()  # noqa: RUF009, it is frozen
    degradation: Annotated[DegradationSettings, DEGRADATIONS] = RealEsrganConfig()
    loss: LossConfig = LossConfig()  # noqa: RUF009, it is frozen
    discriminator: DiscriminatorConfig = DiscriminatorConfig()  # noqa: RUF009
    optimizer: Annotated[LearningRateConfig, OPTIMIZERS] = AdamWConfig()
    train_steps: int = 300_000
    batch_size: int = 64
    micro_batches: int = 1
    ema: float = 0.999
    seed: int = 12345
    timestep_weights: tuple[float, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    first_stage_weights: str | None = None
    init: str | None = None
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        for name in ("train_steps", "batch_size", "micro_batches"):
            value = getattr(self, name)
            require(value > 0, f"{name}: {value} given, must be positive")
        require(0 <= self.ema < 1, f"ema: {self.ema} given, 0 to below 1 needed")
        require(0 <= self.seed < 2**32, f"seed: {self.seed} given, 0 to {2**32 - 1} needed")
        self._check_timesteps()
        self._check_teacher()
        self._check_discriminator()
        self._check_degradation()
        self._check_sizes()

    @property
    def timestep_probs(self) -> tuple[float, ...] | None:
        """With which each time-step is drawn; None: all with the same."""
        weights, last = self.timestep_weights, self.model.chain.num_timesteps - 1
        if self.model.chain.is_one_step:
            weights = (0.0,) * last + (1.0,)
        return tuple(weight / sum(weights) for weight in weights) or None

    def _check_timesteps(self) -> None:
        weights, chain = self.timestep_weights, self.model.chain
        if not weights:
            return
        given = f"timestep_weights: {weights} given"
        require(
            len(weights) == chain.num_timesteps,
            f"{given}, but chain.num_timesteps is {chain.num_timesteps}",
        )
        require(
            all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0,
            f"{given}, none may be negative and one must be positive",
        )
        require(
            not chain.is_one_step or not any(weights[:-1]),
            f"{given}, but a model of one step is trained at the last time-step alone",
        )

    def _check_teacher(self) -> None:
        loss, chain = self.loss, self.model.chain
        require(
            not loss.of("teacher") or chain.is_one_step,
            f"loss.teacher: {loss.teacher} given, but the student's model.chain.sampler is "
            f"{chain.sampler}; its model must be one of one step, sampler=one_step",
        )
        require(
            not chain.is_one_step or not loss.of("latent") or chain.target in ("x0", "residual"),
            f"model.chain.target: {chain.target} given, but of a draw of the prior no noise can be "
            f'told: "x0" or "residual", or leave out loss.weights.mse',
        )
        if loss.teacher_model is not None:
            require_same_start(loss.teacher_model, self.model)

    def _check_discriminator(self) -> None:
        config, crop, kind = self.discriminator, self.data.crop.size, self.model.unet.kind
        if not config.weight:
            return
        require(
            crop >= config.least_side,
            f"data.crop.size: {crop} given, a discriminator of {config.strided} strided "
            f"convolutions needs {config.least_side} or more",
        )
        require(
            not config.adaptive or BACKBONES[kind].last_layer is not None,
            f"discriminator.adaptive: true given, but unet.kind {kind} does not tell its last "
            f"layer; a fixed weight can be had",
        )

    def _check_degradation(self) -> None:
        model, degradation = self.model, self.degradation
        row = DEGRADATIONS[degradation.kind]
        require(
            row.draws_masks == model.unet.cond_mask,
            f"degradation.kind: {degradation.kind} given, but unet.cond_mask is "
            f"{str(model.unet.cond_mask).lower()}",
        )
        require(
            degradation.scale == model.scale,
            f"degradation.scale: {degradation.scale} given, the model's scale is {model.scale}",
        )
        require(
            self.validation.lq is None or not model.unet.cond_mask,
            f"validation.lq: {self.validation.lq} given, but holes are drawn here; leave it out",
        )
        for i, source in enumerate(self.data.sources):
            # Given pairs may stand beside those that are made, but have no masks.
            fits = not row.draws_masks if source.lq is not None else not row.takes_pairs
            require(
                fits,
                f"data.sources.{i}.lq: {source.lq} given, but degradation.kind is "
                f"{degradation.kind}",
            )

    def _check_sizes(self) -> None:
        model = self.model
        side = model.unet.image_size * model.first_stage.factor
        require(
            self.data.crop.size == side,
            f"data.crop.size: {self.data.crop.size} given, {side} needed by a latent of "
            f"{model.unet.image_size} with {model.first_stage.factor} pixels each",
        )
        window, networks = self.loss.lpips_window, self.loss.networks
        least = max((LEAST_SIZE[network] for network in networks), default=0)
        require(side >= least, f"data.crop.size: {side} given, LPIPS needs {least} or more")
        require(
            side >= SPECTRUM_SIDE or not self.loss.weights.get("spectrum"),
            f"data.crop.size: {side} given, loss.weights.spectrum needs {SPECTRUM_SIDE} or more",
        )
        if window is not None:
            require(bool(networks), f"loss.lpips_window: {window} given, but no LPIPS has a weight")
            require(
                least <= window <= side,
                f"loss.lpips_window: {window} given, {least} to {side} needed",
            )

    def lpips_file(self, network: Network) -> Path | None:
        """With the parameters of a network of LPIPS; None: what is installed."""
        file = self.loss.vgg_weights if network == "vgg" else self.loss.alex_weights
        return None if file is None else Path(file)


# Dotted names that keys had before, in files that are still read.
_ROUNDS: Renames = {
    "first": "first_round",
    "second": "second_round",
    "second_prob": "second_round_prob",
}
RENAMED: Renames = {
    **{
        f"model.{old}": f"model.{new}" if isinstance(new, str) else (f"model.{new[0]}", new[1])
        for old, new in RENAMED_IN_MODELS.items()
    },
    "steps": "train_steps",
    "validation.high": "validation.hq",
    "validation.low": "validation.lq",
    "validation.lpips": (
        "validation.metrics",
        lambda networks: ["psnr_y", "ssim_y", *(f"lpips_{network}" for network in networks)],
    ),
    "data.sources": (
        "data.sources", lambda sources: [renamed(source, {"low": "lq"}) for source in sources],
    ),
    **{f"degradation.{old}": f"degradation.{new}" for old, new in _ROUNDS.items()},
    "degradation.parts": (
        "degradation.parts", lambda parts: [renamed(part, _ROUNDS) for part in parts],
    ),
    **{f"loss.{name}": f"loss.weights.{name}" for name in
       ("mse", "lpips_vgg", "lpips_alex", "l1", "spectrum")},
    "loss.gradient": "loss.weights.edge",
    "loss.vgg_window": "loss.lpips_window",
}  # fmt: skip


_OF_THE_MACHINE = ("mesh", "checkpoint", "validation", "logging")
_OF_THE_READERS = ("threads", "workers", "prefetch", "max_unreadable")


def what_changed(config: TrainingConfig, earlier: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The settings that change what is trained: (dotted key, what it was, what it is now).

    earlier: plain dictionaries of the configuration that a checkpoint was made with, also with the
        names of before; what there was no setting for then is as by default.
    """
    defaults = _plain(to_dict(TrainingConfig()))
    now, then = (
        leaves(_identity(values))
        for values in (_plain(to_dict(config)), merged(defaults, renamed(_plain(earlier), RENAMED)))
    )
    keys = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    return [(key, then.get(key), now.get(key)) for key in keys]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """With lists for tuples, as checkpoints have them."""
    return json.loads(json.dumps(values))


def _identity(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if key not in _OF_THE_MACHINE}
    data = {key: value for key, value in kept["data"].items() if key not in _OF_THE_READERS}
    for source in data["sources"]:
        source.pop("kind", None)  # which is for the log
    weights = {name: weight for name, weight in kept["loss"]["weights"].items() if weight}
    return {**kept, "data": data, "loss": {**kept["loss"], "weights": weights}}
