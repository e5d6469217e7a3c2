"""The eta schedule: a chain configuration in, every coefficient of the chain out, in float64."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resshift_jax.config import ChainConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Coefficients of a chain of S kept steps, arrays of shape (S,) indexed by the step t = 0..S-1.

    Attributes:
        etas: eta_t, the share of the residual that has been shifted after step t.
        timesteps: index of each kept step in the training schedule, which the network is given.
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


def make_schedule(config: ChainConfig, sampling_steps: int | None = None) -> Schedule:
    """The schedule of a chain, whole or with `sampling_steps` of its steps.

    sqrt(eta_t) = sqrt(eta_1) b^beta_t, beta_t = ((t-1) / (T-1))^p (T-1), b such that the last is
    max_noise_level. Of T steps, S < T keep the indices int(T/S * i), i < S; S > T means T. A chain
    with `one_step` set keeps the last index alone, and `sampling_steps` must then be 1 or None.

    Raises:
        ValueError: sampling_steps below 1, or above 1 for a one-step model.
    """
    if sampling_steps is not None and sampling_steps < 1:
        raise ValueError(f"sampling steps: {sampling_steps} given, at least 1 needed")
    if config.one_step and sampling_steps not in (None, 1):
        raise ValueError(f"sampling steps: {sampling_steps} given, this model samples in one step")
    total = config.steps
    first = min(config.min_noise_level / config.kappa, config.min_noise_level)
    growth = np.exp(np.log(config.max_noise_level / first) / (total - 1))
    beta = np.linspace(0.0, 1.0, total, dtype=np.float64) ** config.power * (total - 1)
    etas = (first * growth**beta) ** 2

    kept = min(sampling_steps or total, total)
    if config.one_step:
        timesteps = np.array([total - 1])
    else:
        timesteps = np.array([int(total / kept * i) for i in range(kept)])
    return Schedule(etas=etas[timesteps], timesteps=timesteps, kappa=config.kappa)
