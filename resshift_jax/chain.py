"""The residual-shifting chain: a denoiser as a plain function in, samples of x_0 out.

Nothing here knows what the denoiser is or what the arrays show. All arrays are float and of one
shape (B, ...); t holds step indices of the chain's schedule, int, of shape () or (B,). The letters
are those of the paper, arXiv 2307.12348.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpy.typing import NDArray

from resshift_jax.config import ChainConfig, Target
from resshift_jax.schedule import Schedule, make_schedule

Denoiser = Callable[[Array, Array], Array]
NoiseSource = Callable[[ArrayLike], Array]


class Trajectory(NamedTuple):
    """What a reverse chain of S steps went through, in the order of sampling.

    Attributes:
        x_T: the draw from the prior, (B, ...).
        samples: x_{t-1} after each reverse step, (S, B, ...); the last is the result.
        pred_x0: the x_0 predicted at each reverse step, (S, B, ...).
    """

    x_T: Array
    samples: Array
    pred_x0: Array


def gaussian_noise(key: Array, shape: tuple[int, ...]) -> NoiseSource:
    """Standard normal noise of shape (B, ...) for each draw k: k = 0 the prior, k = 1..S the steps.

    Args:
        key: one key, folded with each sample's place in the batch, or B keys, one a sample. The
            draws of a sample depend on its own key and k only.
    """
    keys = key
    if key.ndim == 0:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(shape[0]))
    elif key.shape != shape[:1]:
        raise ValueError(f"keys: {key.shape} given, one key or {shape[0]} keys needed")

    def draw(k: ArrayLike) -> Array:
        return jax.vmap(lambda one: jax.random.normal(jax.random.fold_in(one, k), shape[1:]))(keys)

    return draw


def canvas_noise(keys: Array, origins: Array | None, shape: tuple[int, ...]) -> NoiseSource:
    """Standard normal noise of tiles, cut from one canvas of noise for each draw and key.

    A pixel's noise depends on its key, the draw and its place on the canvas only, so that tiles
    which overlap agree, and a tile needs no canvas to be drawn.

    Args:
        keys: (B,) keys, one an image; tiles of one image share it.
        origins: (B, 2) uint32, row and column of each tile's first pixel on the canvas; None: 0.
        shape: (B, H, W, C) of the tiles.
    """
    batch, height, width, channels = shape
    if origins is None:
        origins = jnp.zeros((batch, 2), jnp.uint32)

    def draw(k: ArrayLike) -> Array:
        def pixel(key: Array, row: Array, column: Array) -> Array:
            place = jax.random.fold_in(jax.random.fold_in(key, row), column)
            return jax.random.normal(place, (channels,))

        def tile(key: Array, origin: Array) -> Array:
            rows = origin[0] + jnp.arange(height, dtype=jnp.uint32)
            columns = origin[1] + jnp.arange(width, dtype=jnp.uint32)
            across = jax.vmap(pixel, (None, None, 0))
            down = jax.vmap(across, (None, 0, None))
            return down(jax.random.fold_in(key, k), rows, columns)

        return jax.vmap(tile)(keys, origins)

    return draw


@dataclass(frozen=True, eq=False)
class Chain:
    """The forward and reverse process over a schedule.

    Attributes:
        schedule: coefficients of the kept steps.
        target: what the denoiser predicts.
        in_pixels: x_0 is made of pixels in [-1, 1]: predictions are clipped to that range, and the
            denoiser's input is scaled by its range instead of its standard deviation.
    """

    schedule: Schedule
    target: Target = "x0"
    in_pixels: bool = False

    def q_sample(self, x_0: Array, y: Array, t: Array, noise: Array) -> Array:
        """x_t ~ q(x_t | x_0, y) = N(x_0 + eta_t (y - x_0), kappa^2 eta_t I)."""
        s = self.schedule
        eta, sqrt_eta = _at(s.etas, t, x_0), _at(s.sqrt_etas, t, x_0)
        return x_0 + eta * (y - x_0) + s.kappa * sqrt_eta * noise

    def prior_sample(self, y: Array, noise: Array) -> Array:
        """x_T ~ N(y, kappa^2 eta_T I)."""
        return y + jnp.asarray(self.schedule.kappa * self.schedule.sqrt_etas[-1], y.dtype) * noise

    def posterior(self, x_0: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
        """Mean and variance of q(x_{t-1} | x_t, x_0, y), which does not need y."""
        s = self.schedule
        mean = _at(s.posterior_mean_coef_xt, t, x_t) * x_t
        mean += _at(s.posterior_mean_coef_x0, t, x_t) * x_0
        return mean, _at(s.posterior_variance, t, x_t)

    def scale_input(self, x_t: Array, t: Array) -> Array:
        """x_t as the denoiser is given it: about unit variance, or about [-1, 1] for pixels."""
        s = self.schedule
        if self.in_pixels:
            return x_t / _at(3 * s.kappa * s.sqrt_etas + 1, t, x_t)
        return x_t / _at((s.kappa**2 * s.etas + 1) ** 0.5, t, x_t)

    def target_of(self, x_0: Array, y: Array, t: Array, noise: Array) -> Array:
        """What the denoiser should predict for x_t = q_sample(x_0, y, t, noise)."""
        s = self.schedule
        if self.target == "x0":
            return x_0
        if self.target == "residual":
            return y - x_0
        if self.target == "epsilon":
            return noise
        return s.kappa * _at(s.sqrt_etas, t, x_0) * noise

    def predict_x0(self, output: Array, x_t: Array, y: Array, t: Array) -> Array:
        """The x_0 that a denoiser's output stands for; the inverse of `target_of`."""
        s = self.schedule
        if self.target == "x0":
            x_0 = output
        elif self.target == "residual":
            x_0 = y - output
        else:
            shift = output
            if self.target == "epsilon":
                shift = s.kappa * _at(s.sqrt_etas, t, x_t) * output
            eta = _at(s.etas, t, x_t)
            x_0 = (x_t - shift - eta * y) / (1 - eta)
        return jnp.clip(x_0, -1, 1) if self.in_pixels else x_0

    def denoised(self, denoise: Denoiser, x_t: Array, y: Array, t: Array) -> Array:
        """The denoiser's prediction of x_0 at step t, its input scaled and its t as in training."""
        timestep = jnp.asarray(self.schedule.timesteps, jnp.int32)[t]
        output = denoise(self.scale_input(x_t, t), jnp.broadcast_to(timestep, x_t.shape[:1]))
        return self.predict_x0(output.astype(x_t.dtype), x_t, y, t)

    def sample(
        self,
        denoise: Denoiser,
        y: Array,
        key: Array | None = None,
        *,
        noise: NoiseSource | None = None,
    ) -> Array:
        """x_0 given y: the whole reverse chain as one scan.

        Args:
            denoise: (scaled x_t, t of shape (B,) in the training schedule) -> prediction.
            y: the degraded image's latent, (B, ...), float.
            key: a key, or B keys, from which `gaussian_noise` is drawn.
            noise: the noise itself instead of a key, e.g. `lambda k: stored[k]`.
        """
        return self._run(denoise, y, key, noise, keep=False)[0]

    def trajectory(
        self,
        denoise: Denoiser,
        y: Array,
        key: Array | None = None,
        *,
        noise: NoiseSource | None = None,
    ) -> Trajectory:
        """As `sample`, giving all that the chain went through."""
        _, x_T, (samples, pred_x0) = self._run(denoise, y, key, noise, keep=True)
        return Trajectory(x_T, samples, pred_x0)

    def _run(self, denoise, y, key, noise, keep):
        if (key is None) == (noise is None):
            raise ValueError("sample: give either a key or a noise source")
        draw = noise if key is None else gaussian_noise(key, y.shape)

        def step(x_t, t):
            x_0 = self.denoised(denoise, x_t, y, t)
            mean, variance = self.posterior(x_0, x_t, t)
            # The variance at t = 0 is 0: the last step adds no noise.
            x_t = mean + jnp.sqrt(variance) * draw(last - t + 1).astype(y.dtype)
            return x_t, (x_t, x_0) if keep else None

        last = self.schedule.num_steps - 1
        x_T = self.prior_sample(y, draw(0).astype(y.dtype))
        x_0, kept = jax.lax.scan(step, x_T, jnp.arange(last, -1, -1))
        return x_0, x_T, kept


def make_chain(config: ChainConfig, *, in_pixels: bool, sampling_steps: int | None = None) -> Chain:
    """The chain of a configuration, with all of its steps or `sampling_steps` of them."""
    return Chain(make_schedule(config, sampling_steps), config.target, in_pixels)


def _at(coefficients: NDArray, t: ArrayLike, like: Array) -> Array:
    """coefficients[t] in like's dtype, shaped to broadcast over like's trailing axes."""
    value = jnp.asarray(coefficients, like.dtype)[jnp.asarray(t)]
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
