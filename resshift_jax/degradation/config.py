"""The settings of Real-ESRGAN's degradation: frozen dataclasses of probabilities and ranges.

The defaults are the published training setting; `TEST_SET` is that of ImageNet-Test. The checks
serve the settings of other degradations, too.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from resshift_jax.settings import require, require_positive

Range = tuple[float, float]
"""Least and greatest value of what is drawn evenly."""


def require_ranges(group: str, config: Any, *names: str, most: float = math.inf) -> None:
    """Raises ConfigError unless these are two finite numbers each, ordered, from 0 to `most`."""
    for name in names:
        value = getattr(config, name)
        require(
            len(value) == 2 and 0 <= value[0] <= value[1] <= most and value[1] < math.inf,
            f"{group}.{name}: {value} given, two numbers from 0 on needed, the smaller one first"
            + (f", at most {most:.4g}" if most < math.inf else ""),
        )


def require_probabilities(group: str, config: Any, *names: str) -> None:
    """Raises ConfigError unless these are from 0 to 1."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{group}.{name}: {value} given, a probability needed")


def require_shares(group: str, config: Any, *names: str, others: bool = False) -> None:
    """Raises ConfigError unless these are probabilities of sum 1, or less if there are others."""
    require_probabilities(group, config, *names)
    found = sum(getattr(config, name) for name in names)
    require(
        found <= 1 + 1e-6 and (others or found >= 1 - 1e-6),
        f"{group}: {', '.join(names)} sum to {found:g}, {'at most 1' if others else '1'} needed",
    )


def require_sizes(group: str, config: Any) -> None:
    """Raises ConfigError unless its `sizes` are two odd numbers, ordered."""
    require_ranges(group, config, "sizes")
    require(
        all(size % 2 == 1 for size in config.sizes),
        f"{group}.sizes: {config.sizes} given, odd numbers needed",
    )


@dataclass(frozen=True)
class SincConfig:
    """A sinc filter, which rings: the ideal low-pass filter of a circle of frequencies.

    Attributes:
        prob: that an image is filtered.
        sizes: least and greatest side of the kernel, odd; all odd ones between are as likely.
        cutoff: greatest frequency that passes, in radians a pixel.
    """

    prob: float = 0.8
    sizes: tuple[int, int] = (3, 13)
    cutoff: Range = (math.pi / 3, math.pi)

    def __post_init__(self) -> None:
        require_probabilities("sinc", self, "prob")
        require_sizes("sinc", self)
        require_positive("sinc", self, "cutoff")
        require_ranges("sinc", self, "cutoff", most=math.pi)


@dataclass(frozen=True)
class BlurConfig:
    """A blur with a kernel of random kind, size and form.

    Attributes:
        prob: that an image is blurred.
        sizes: least and greatest side of the kernel, odd; all odd ones between are as likely.
        sinc: probability of a sinc kernel; the six kinds share the rest.
        sinc_cutoff, sinc_cutoff_wide: its cut-off in radians a pixel, for sides below `wide` and
            from there on.
        isotropic .. plateau_anisotropic: probabilities of the kinds, 1 in sum.
        sigma: in pixels, drawn for each axis apart; isotropic kernels have one.
        generalized_shape, plateau_shape: the exponent b, half of the draws below and half above 1.
    """

    prob: float = 1.0
    sizes: tuple[int, int] = (3, 19)
    sinc: float = 0.1
    sinc_cutoff: Range = (math.pi / 3, math.pi)
    sinc_cutoff_wide: Range = (math.pi / 5, math.pi)
    wide: int = 13
    isotropic: float = 0.45
    anisotropic: float = 0.25
    generalized_isotropic: float = 0.12
    generalized_anisotropic: float = 0.03
    plateau_isotropic: float = 0.12
    plateau_anisotropic: float = 0.03
    sigma: Range = (0.2, 3.0)
    generalized_shape: Range = (0.5, 4.0)
    plateau_shape: Range = (1.0, 2.0)

    def __post_init__(self) -> None:
        require_probabilities("blur", self, "prob", "sinc")
        require_sizes("blur", self)
        require_positive("blur", self, "sinc_cutoff", "sinc_cutoff_wide", "sigma")
        require_ranges("blur", self, "sinc_cutoff", "sinc_cutoff_wide", most=math.pi)
        require_ranges("blur", self, "sigma")
        for name in ("generalized_shape", "plateau_shape"):
            require_positive("blur", self, name)
            require_ranges("blur", self, name)
            low, high = getattr(self, name)
            require(low <= 1 <= high, f"blur.{name}: {low} to {high} given, must contain 1")
        require_shares(
            "blur", self, "isotropic", "anisotropic", "generalized_isotropic",
            "generalized_anisotropic", "plateau_isotropic", "plateau_anisotropic",
        )  # fmt: skip

    @property
    def kinds(self) -> tuple[float, ...]:
        """The probabilities of the six kinds, in the order of the attributes."""
        return (
            self.isotropic, self.anisotropic, self.generalized_isotropic,
            self.generalized_anisotropic, self.plateau_isotropic, self.plateau_anisotropic,
        )  # fmt: skip


@dataclass(frozen=True)
class ResizeConfig:
    """A resizing by a random factor, with one of three interpolations.

    Attributes:
        up_prob, down_prob: that the image grows, that it shrinks; the rest keeps its size.
        up, down: the factor.
    """

    up_prob: float = 0.2
    down_prob: float = 0.7
    up: Range = (1.0, 1.5)
    down: Range = (0.15, 1.0)

    def __post_init__(self) -> None:
        require_shares("resize", self, "up_prob", "down_prob", others=True)
        require_positive("resize", self, "up", "down")
        require_ranges("resize", self, "up", "down")
        require(self.up[0] >= 1, f"resize.up: {self.up} given, factors of at least 1 needed")
        require(self.down[1] <= 1, f"resize.down: {self.down} given, factors of at most 1 needed")

    @property
    def greatest(self) -> float:
        """The greatest factor that can be drawn."""
        return self.up[1] if self.up_prob > 0 else 1.0


@dataclass(frozen=True)
class NoiseConfig:
    """Gaussian or Poisson noise.

    Attributes:
        gaussian_prob: of Gaussian noise, Poisson noise otherwise.
        gaussian_sigma: standard deviation, in grey levels of 255.
        poisson_scale: factor of the deviation from the image.
        grey_prob: that the three channels share their noise.
    """

    gaussian_prob: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    grey_prob: float = 0.4

    def __post_init__(self) -> None:
        require_probabilities("noise", self, "gaussian_prob", "grey_prob")
        require_ranges("noise", self, "gaussian_sigma", "poisson_scale")


@dataclass(frozen=True)
class RoundConfig:
    """Blur, resizing and noise, in this order."""

    blur: BlurConfig = BlurConfig()
    resize: ResizeConfig = ResizeConfig()
    noise: NoiseConfig = NoiseConfig()


def require_qualities(group: str, config: Any, *names: str) -> None:
    """Raises ConfigError unless these are two qualities of JPEG each, ordered."""
    require_ranges(group, config, *names)
    for name in names:
        low, high = getattr(config, name)
        require(low >= 1 and high <= 100, f"{group}.{name}: {low} to {high} given, 1 to 100 needed")


@dataclass(frozen=True)
class RealEsrganConfig:
    """The second-order degradation of Real-ESRGAN (arXiv 2107.10833).

    Attributes:
        scale: side of the image over the side of its low-quality version.
        first_round, first_jpeg: the first round, and the quality of the JPEG after it.
        second_round_prob: that there is a second round.
        second_round: it; its resizing is by a factor of the low-quality size.
        sinc: the last filter, once the image has its low-quality size.
        jpeg: quality of the last JPEG.
        jpeg_first_prob: that it comes before the image gets that size, and not after the filter.
    """

    kind: Literal["real_esrgan"] = "real_esrgan"
    scale: int = 4
    first_round: RoundConfig = RoundConfig()
    first_jpeg: Range = (30.0, 95.0)
    second_round_prob: float = 0.5
    second_round: RoundConfig = RoundConfig(
        blur=BlurConfig(prob=0.8, sizes=(3, 13), sigma=(0.2, 1.5)),
        resize=ResizeConfig(up_prob=0.3, down_prob=0.4, up=(1.0, 1.2), down=(0.3, 1.0)),
        noise=NoiseConfig(gaussian_sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    )
    sinc: SincConfig = SincConfig()
    jpeg: Range = (30.0, 95.0)
    jpeg_first_prob: float = 0.5

    def __post_init__(self) -> None:
        require(self.scale >= 1, f"degradation.scale: {self.scale} given, must be at least 1")
        require_probabilities("degradation", self, "second_round_prob", "jpeg_first_prob")
        require_qualities("degradation", self, "first_jpeg", "jpeg")


TEST_SET = RealEsrganConfig(
    first_round=RoundConfig(
        blur=BlurConfig(
            sizes=(3, 11), sigma=(0.2, 0.8), isotropic=0.6, anisotropic=0.4,
            generalized_isotropic=0.0, generalized_anisotropic=0.0, plateau_isotropic=0.0,
            plateau_anisotropic=0.0,
        ),
        resize=ResizeConfig(down=(0.5, 1.0)),
        noise=NoiseConfig(gaussian_sigma=(1.0, 15.0), poisson_scale=(0.05, 0.3)),
    ),
    first_jpeg=(70.0, 95.0),
    second_round_prob=0.0,
    sinc=SincConfig(prob=0.2, sizes=(3, 5)),
    jpeg=(80.0, 100.0),
)  # fmt: skip
"""The degradation of ImageNet-Test: one mild round."""


@dataclass(frozen=True)
class MixtureConfig:
    """Each image degraded in one of several ways.

    Attributes:
        parts: the ways, all of one scale; by default that of training and that of ImageNet-Test.
        weights: how often each is taken beside the others; none: all are as often.
    """

    kind: Literal["mixture"] = "mixture"
    parts: tuple[RealEsrganConfig, ...] = (RealEsrganConfig(), TEST_SET)
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(
            len({part.scale for part in self.parts}) == 1,
            f"mixture.parts: scales {sorted({part.scale for part in self.parts})} given, one or "
            f"more parts of one scale needed",
        )
        if self.weights:
            require_positive("mixture", self, "weights")
            require(
                len(self.weights) == len(self.parts),
                f"mixture.weights: {len(self.weights)} given, {len(self.parts)} needed",
            )

    @property
    def scale(self) -> int:
        return self.parts[0].scale
