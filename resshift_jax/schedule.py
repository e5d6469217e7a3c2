"""The eta schedule: its settings in, every coefficient of the chain out, in float64."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resshift_jax.settings import require, require_positive

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScheduleConfig:
    """How the residual is shifted (arXiv 2307.12348, equation 10).

    Attributes:
        num_timesteps: T, the number of time-steps the network was trained with, at least 2.
        min_noise_level: m; sqrt(eta_1) = min(m / kappa, m).
        max_noise_level: sqrt(eta_T).
        kappa: standard deviation of the noise at eta = 1.
        power: p, how the growth of sqrt(eta) bends between its ends.
    """

    num_timesteps: int = 15
    min_noise_level: float = 0.04
    max_noise_level: float = 0.99
    kappa: float = 2.0
    power: float = 0.3

    def __post_init__(self) -> None:
        require(
            self.num_timesteps >= 2,
            f"chain.num_timesteps: {self.num_timesteps} given, at least 2 needed",
        )
        require_positive("chain", self, "kappa", "power")
        first = min(self.min_noise_level / self.kappa, self.min_noise_level)
        require(
            0 < first < self.max_noise_level < 1,
            f"chain: 0 < min_noise_level < max_noise_level < 1 needed, found "
            f"{self.min_noise_level} and {self.max_noise_level}",
        )


@dataclass(frozen=True, eq=False)
class Schedule:
    """Coefficients of a chain of S kept time-steps, arrays (S,) indexed by t = 0..S-1.

    Attributes:
        etas: eta_t, the share of the residual that has been shifted after step t.
        timesteps: index of each in the schedule of training, which the network is given.
        kappa: standard deviation of the noise at eta = 1.
    """

    etas: Floats
    timesteps: NDArray[np.int64]
    kappa: float

    @property
    def num_steps(self) -> int:
        return len(self.etas)

    @property
    def sqrt_etas(self) -> Floats:
        return np.sqrt(self.etas)

    @property
    def etas_prev(self) -> Floats:
        """eta_{t-1}, with eta_0 = 0."""
        return np.append(0.0, self.etas[:-1])

    @property
    def alphas(self) -> Floats:
        """alpha_t = eta_t - eta_{t-1}."""
        return self.etas - self.etas_prev

    @property
    def posterior_mean_coef_xt(self) -> Floats:
        """eta_{t-1} / eta_t."""
        return self.etas_prev / self.etas

    @property
    def posterior_mean_coef_x0(self) -> Floats:
        """alpha_t / eta_t."""
        return self.alphas / self.etas

    @property
    def ddim_coef_xt(self) -> Floats:
        """m_t = sqrt(eta_{t-1} / eta_t) of the deterministic chain."""
        return np.sqrt(self.etas_prev / self.etas)

    @property
    def ddim_coef_y(self) -> Floats:
        """j_t = eta_{t-1} - sqrt(eta_{t-1} eta_t) of the deterministic chain."""
        return self.etas_prev - np.sqrt(self.etas_prev * self.etas)

    @property
    def posterior_variance(self) -> Floats:
        """kappa^2 eta_{t-1} alpha_t / eta_t; 0 at the last reverse step, t = 0."""
        return self.kappa**2 * self.etas_prev * self.alphas / self.etas

    @property
    def posterior_variance_clipped(self) -> Floats:
        """The variance with that of t = 0 replaced by that of t = 1, so that it can be divided by.

        A chain of one step has no other variance to take; it keeps kappa^2 eta.
        """
        variance = self.posterior_variance.copy()
        variance[0] = variance[1] if self.num_steps > 1 else self.kappa**2 * self.etas[0]
        return variance

    @property
    def posterior_log_variance_clipped(self) -> Floats:
        return np.log(self.posterior_variance_clipped)

    @property
    def loss_weight_x0(self) -> Floats:
        """Weight of the x_0 and residual losses in the variational bound."""
        return 0.5 / self.posterior_variance_clipped * (self.alphas / self.etas) ** 2

    @property
    def loss_weight_epsilon(self) -> Floats:
        """Weight of the epsilon losses in the variational bound."""
        shift = self.kappa * self.alphas / ((1 - self.etas) * self.sqrt_etas)
        return 0.5 / self.posterior_variance_clipped * shift**2


def make_schedule(config: ScheduleConfig, sampling_steps: int | None = None) -> Schedule:
    """The schedule, whole or with `sampling_steps` of its time-steps.

    sqrt(eta_t) = sqrt(eta_1) b^beta_t, beta_t = ((t-1) / (T-1))^p (T-1), b such that the last is
    max_noise_level. Of T time-steps, S < T keep the indices int(T/S * i), i < S; S > T means T. One
    step keeps the last index: the first has hardly any noise, and takes an x_t near x_0.

    Raises:
        ValueError: sampling_steps below 1.
    """
    if sampling_steps is not None and sampling_steps < 1:
        raise ValueError(f"sampling_steps={sampling_steps}: at least 1 needed")
    total = config.num_timesteps
    first = min(config.min_noise_level / config.kappa, config.min_noise_level)
    growth = np.exp(np.log(config.max_noise_level / first) / (total - 1))
    beta = np.linspace(0.0, 1.0, total, dtype=np.float64) ** config.power * (total - 1)
    etas = (first * growth**beta) ** 2

    kept = min(sampling_steps or total, total)
    timesteps = np.array([int(total / kept * i) for i in range(kept)] if kept > 1 else [total - 1])
    return Schedule(etas=etas[timesteps], timesteps=timesteps, kappa=config.kappa)
