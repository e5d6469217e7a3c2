"""The residual-shifting chain: a denoiser as a plain function in, samples of x_0 out.

Nothing here knows what the denoiser is or what the arrays show. All arrays are float and of one
shape (B, ...); t holds indices of the chain's schedule, int, of shape () or (B,). The letters are
those of the paper, arXiv 2307.12348.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Key, UInt32
from numpy.typing import NDArray

from resshift_jax.schedule import Schedule, ScheduleConfig, make_schedule

Target = Literal["x0", "residual", "epsilon", "epsilon_scale"]
Denoiser = Callable[[Array, Array], Array]
NoiseSource = Callable[[ArrayLike], Array]
Index = Int[Array, ""] | Int[Array, "b"] | int
"""Of time-steps: one for all samples, or one a sample."""


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


def gaussian_noise(key: Key[Array, "..."], shape: tuple[int, ...]) -> NoiseSource:
    """Standard normal noise of shape (B, ...) for each draw k: k = 0 the prior, k = 1..S the steps.

    Args:
        key: one key, folded with each sample's index in the batch, or B keys, one a sample. The
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


def canvas_noise(
    keys: Key[Array, "b"], origins: UInt32[Array, "b 2"] | None, shape: tuple[int, ...]
) -> NoiseSource:
    """Standard normal noise of tiles, cut from one canvas of noise for each draw and key.

    A pixel's noise depends on its key, the draw and its position on the canvas only, so that tiles
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
            pixel_key = jax.random.fold_in(jax.random.fold_in(key, row), column)
            return jax.random.normal(pixel_key, (channels,))

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
        schedule: coefficients of the kept time-steps.
        target: what the denoiser predicts.
        in_pixels: x_0 is made of pixels in [-1, 1]: predictions are clipped to that range, and the
            denoiser's input is scaled by its range instead of its standard deviation.
        sampler: how x_{t-1} follows from x_t; one of SAMPLERS.
    """

    schedule: Schedule
    target: Target = "x0"
    in_pixels: bool = False
    sampler: str = "ancestral"

    def q_sample(
        self,
        x_0: Float[Array, "b *d"],
        y: Float[Array, "b *d"],
        t: Index,
        noise: Float[Array, "b *d"],
    ) -> Float[Array, "b *d"]:
        """x_t ~ q(x_t | x_0, y) = N(x_0 + eta_t (y - x_0), kappa^2 eta_t I)."""
        s = self.schedule
        eta, sqrt_eta = at(s.etas, t, x_0), at(s.sqrt_etas, t, x_0)
        return x_0 + eta * (y - x_0) + s.kappa * sqrt_eta * noise

    def prior_sample(
        self, y: Float[Array, "b *d"], noise: Float[Array, "b *d"]
    ) -> Float[Array, "b *d"]:
        """x_T ~ N(y, kappa^2 eta_T I)."""
        return y + jnp.asarray(self.schedule.kappa * self.schedule.sqrt_etas[-1], y.dtype) * noise

    def posterior(self, x_0: Array, x_t: Array, t: Index) -> tuple[Array, Array]:
        """Mean and variance of q(x_{t-1} | x_t, x_0, y), which does not need y."""
        s = self.schedule
        mean = at(s.posterior_mean_coef_xt, t, x_t) * x_t
        mean += at(s.posterior_mean_coef_x0, t, x_t) * x_0
        return mean, at(s.posterior_variance, t, x_t)

    def scale_input(self, x_t: Array, t: Index) -> Array:
        """x_t as the denoiser is given it: about unit variance, or about [-1, 1] for pixels."""
        s = self.schedule
        if self.in_pixels:
            return x_t / at(3 * s.kappa * s.sqrt_etas + 1, t, x_t)
        return x_t / at((s.kappa**2 * s.etas + 1) ** 0.5, t, x_t)

    def target_of(self, x_0: Array, y: Array, t: Index, noise: Array) -> Array:
        """What the denoiser should predict for x_t = q_sample(x_0, y, t, noise)."""
        s = self.schedule
        if self.target == "x0":
            return x_0
        if self.target == "residual":
            return y - x_0
        if self.target == "epsilon":
            return noise
        return s.kappa * at(s.sqrt_etas, t, x_0) * noise

    def predict_x0(self, output: Array, x_t: Array, y: Array, t: Index) -> Array:
        """`x0_of`, in pixels clipped to their range."""
        x_0 = self.x0_of(output, x_t, y, t)
        return jnp.clip(x_0, -1, 1) if self.in_pixels else x_0

    def x0_of(self, output: Array, x_t: Array, y: Array, t: Index) -> Array:
        """The x_0 that a denoiser's output stands for; the inverse of `target_of`."""
        s = self.schedule
        if self.target == "x0":
            return output
        if self.target == "residual":
            return y - output
        shift = output
        if self.target == "epsilon":
            shift = s.kappa * at(s.sqrt_etas, t, x_t) * output
        eta = at(s.etas, t, x_t)
        return (x_t - shift - eta * y) / (1 - eta)

    def denoised(
        self, denoise: Denoiser, x_t: Float[Array, "b *d"], y: Float[Array, "b *d"], t: Index
    ) -> Float[Array, "b *d"]:
        """The denoiser's prediction of x_0 at step t, its input scaled and its t as in training."""
        timestep = jnp.asarray(self.schedule.timesteps, jnp.int32)[t]
        output = denoise(self.scale_input(x_t, t), jnp.broadcast_to(timestep, x_t.shape[:1]))
        return self.predict_x0(output.astype(x_t.dtype), x_t, y, t)

    def sample(
        self,
        denoise: Denoiser,
        y: Float[Array, "b *d"],
        key: Key[Array, "..."] | None = None,
        *,
        noise: NoiseSource | None = None,
    ) -> Float[Array, "b *d"]:
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
        y: Float[Array, "b *d"],
        key: Key[Array, "..."] | None = None,
        *,
        noise: NoiseSource | None = None,
    ) -> Trajectory:
        """As `sample`, giving all that the chain went through."""
        _, x_T, kept = self._run(denoise, y, key, noise, keep=True)
        assert kept is not None
        return Trajectory(x_T, *kept)

    def _run(
        self,
        denoise: Denoiser,
        y: Array,
        key: Array | None,
        noise: NoiseSource | None,
        *,
        keep: bool,
    ) -> tuple[Array, Array, tuple[Array, Array] | None]:
        if (key is None) == (noise is None):
            raise ValueError("sample: give either a key or a noise source")
        draw = gaussian_noise(key, y.shape) if noise is None and key is not None else noise
        assert draw is not None
        reverse = SAMPLERS[self.sampler].step

        def step(x_t: Array, t: Array) -> tuple[Array, tuple[Array, Array] | None]:
            x_0 = self.denoised(denoise, x_t, y, t)
            x_t = reverse(self, x_0, x_t, y, t, draw(last - t + 1).astype(y.dtype))
            return x_t, (x_t, x_0) if keep else None

        last = self.schedule.num_steps - 1
        x_T = self.prior_sample(y, draw(0).astype(y.dtype))
        x_0, kept = jax.lax.scan(step, x_T, jnp.arange(last, -1, -1))
        return x_0, x_T, kept


def ancestral(chain: Chain, x_0: Array, x_t: Array, y: Array, t: Index, noise: Array) -> Array:
    """The published step: x_{t-1} ~ q(x_{t-1} | x_t, x_0, y)."""
    mean, variance = chain.posterior(x_0, x_t, t)
    # The variance at t = 0 is 0: the last step adds no noise.
    return mean + jnp.sqrt(variance) * noise


def deterministic(chain: Chain, x_0: Array, x_t: Array, y: Array, t: Index, noise: Array) -> Array:
    """DDIM for this chain, k_t x_0 + m_t x_t + j_t y: no noise after x_T (arXiv 2311.14760)."""
    s = chain.schedule
    m, j = at(s.ddim_coef_xt, t, x_t), at(s.ddim_coef_y, t, x_t)
    return (1 - m - j) * x_0 + m * x_t + j * y


def predicted(chain: Chain, x_0: Array, x_t: Array, y: Array, t: Index, noise: Array) -> Array:
    """The prediction itself."""
    return x_0


class Sampler(NamedTuple):
    """A row of SAMPLERS.

    Attributes:
        step: (chain, x_0, x_t, y, t, noise) -> x_{t-1}, given the x_0 predicted from x_t.
        last_only: it runs the last time-step alone.
    """

    step: Callable[[Chain, Array, Array, Array, Array, Array], Array]
    last_only: bool = False


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler(ancestral),
    "deterministic": Sampler(deterministic),
    "one_step": Sampler(predicted, last_only=True),
}


@dataclass(frozen=True)
class ChainConfig(ScheduleConfig):
    """The residual-shifting chain: the settings of `ScheduleConfig`, and these.

    Attributes:
        target: what the network predicts.
        sampler: by which a model of this chain is sampled, unless told otherwise.
        sampling_steps: as many time-steps, unless told otherwise; None: all.
    """

    target: Target = "x0"
    sampler: Annotated[str, SAMPLERS] = "ancestral"
    sampling_steps: int | None = None

    @property
    def is_one_step(self) -> bool:
        """Whether a model of this chain is sampled from its last time-step alone."""
        return SAMPLERS[self.sampler].last_only or self.sampling_steps == 1


def make_chain(
    config: ChainConfig,
    *,
    in_pixels: bool,
    sampling_steps: int | None = None,
    sampler: str | None = None,
) -> Chain:
    """The chain of a configuration.

    sampling_steps, sampler: None: those of the configuration.

    Raises:
        ValueError: an unknown sampler, or steps that the sampler cannot take.
    """
    name = config.sampler if sampler is None else sampler
    if name not in SAMPLERS:
        raise ValueError(f"sampler={name}: unknown, one of {', '.join(SAMPLERS)}")
    if sampling_steps is None and name == config.sampler:
        sampling_steps = config.sampling_steps
    if SAMPLERS[name].last_only:
        if sampling_steps not in (None, 1):
            raise ValueError(f"sampling_steps={sampling_steps}: this model samples in one step")
        sampling_steps = 1
    return Chain(make_schedule(config, sampling_steps), config.target, in_pixels, name)


def at(coefficients: NDArray, t: ArrayLike, like: Array) -> Array:
    """coefficients[t] in like's dtype, shaped to broadcast over like's trailing axes."""
    value = jnp.asarray(coefficients, like.dtype)[jnp.asarray(t)]
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
