"""Blur: a random kernel, and an image filtered with it.

Kernels are those of Real-ESRGAN (arXiv 2107.10833, section 3.2 and appendix A.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from resshift_jax.degradation.config import BlurConfig, Range, SincConfig
from resshift_jax.degradation.ops.canvas import Canvas
from resshift_jax.degradation.ops.draws import Numbers, around_one, choice, happens, odd, uniform

# Kinds of kernels, as BlurConfig has them, and the sinc.
ISOTROPIC, ANISOTROPIC = 0, 1
GENERALIZED_ISOTROPIC, GENERALIZED_ANISOTROPIC = 2, 3
PLATEAU_ISOTROPIC, PLATEAU_ANISOTROPIC = 4, 5
SINC = 6


class Kernel(NamedTuple):
    """What a kernel is made from, scalars but for sigma.

    Attributes:
        used: whether the image is filtered at all, bool.
        kind: one of the kinds above, int32.
        size: its side, odd, int32.
        sigma: (2,), along the axes of the rotated kernel, in pixels.
        rotation: in radians.
        shape: the exponent b of generalised and plateau kernels.
        cutoff: of a sinc, in radians a pixel.
    """

    used: Array
    kind: Array
    size: Array
    sigma: Array
    rotation: Array
    shape: Array
    cutoff: Array


def draw_blur(u: Numbers, config: BlurConfig) -> Kernel:
    """The kernel of a blur; the order in which it draws is part of the result."""
    kind = jnp.where(happens(u, config.sinc), SINC, choice(u, config.kinds))
    size = odd(u, config.sizes)
    sigma, rotation = _draw_axes(u, config.sigma, _is_anisotropic(kind))
    generalized = (kind == GENERALIZED_ISOTROPIC) | (kind == GENERALIZED_ANISOTROPIC)
    generalized_shape = around_one(u, config.generalized_shape)
    plateau_shape = around_one(u, config.plateau_shape)
    cutoff_wide, cutoff = uniform(u, config.sinc_cutoff_wide), uniform(u, config.sinc_cutoff)
    used = happens(u, config.prob)
    return Kernel(
        used=used,
        kind=kind,
        size=size,
        sigma=sigma,
        rotation=rotation,
        shape=jnp.where(generalized, generalized_shape, plateau_shape),
        cutoff=jnp.where(size >= config.wide, cutoff_wide, cutoff),
    )


def draw_sinc(u: Numbers, config: SincConfig) -> Kernel:
    """The kernel of a sinc filter."""
    used, size, cutoff = happens(u, config.prob), odd(u, config.sizes), uniform(u, config.cutoff)
    return Kernel(
        used=used,
        kind=jnp.int32(SINC),
        size=size,
        sigma=jnp.ones(2, jnp.float32),
        rotation=jnp.float32(0),
        shape=jnp.float32(1),
        cutoff=cutoff,
    )


def draw_gaussian(u: Numbers, size: int, sigma: Range, anisotropic: float) -> Kernel:
    """A Gaussian kernel, anisotropic with a probability."""
    kind = jnp.where(happens(u, anisotropic), ANISOTROPIC, ISOTROPIC)
    sigma_xy, rotation = _draw_axes(u, sigma, kind == ANISOTROPIC)
    return Kernel(
        used=jnp.bool_(True),
        kind=kind,
        size=jnp.int32(size),
        sigma=sigma_xy,
        rotation=rotation,
        shape=jnp.float32(1),
        cutoff=jnp.float32(np.pi),
    )


def _is_anisotropic(kind: Array) -> Array:
    return (kind == ANISOTROPIC) | (kind == GENERALIZED_ANISOTROPIC) | (kind == PLATEAU_ANISOTROPIC)


def _draw_axes(u: Numbers, sigma: Range, turned: Array) -> tuple[Array, Array]:
    """Sigma of both axes and the rotation: equal and none where a kernel is not turned."""
    first, second, rotation = uniform(u, sigma), uniform(u, sigma), uniform(u, (-np.pi, np.pi))
    axes = jnp.stack([first, jnp.where(turned, second, first)])
    return axes, jnp.where(turned, rotation, 0)


def kernel_values(kernel: Kernel, side: int) -> Float[Array, "k k"]:
    """(side, side) float32 of sum 1, zero outside the kernel's own size; side odd.

    With d = (column, row) from the centre, r its length and Q = d' S^-1 d: exp(-Q/2),
    exp(-Q^b / 2), 1 / (1 + Q^b), and the sinc c J_1(c r) / (2 pi r).
    """
    offset = jnp.arange(side, dtype=jnp.float32) - side // 2
    x, y = offset[None, :], offset[:, None]
    cos, sin = jnp.cos(kernel.rotation), jnp.sin(kernel.rotation)
    q = ((cos * x + sin * y) / kernel.sigma[0]) ** 2 + ((cos * y - sin * x) / kernel.sigma[1]) ** 2
    powered = q**kernel.shape
    values = jnp.select(
        [kernel.kind <= ANISOTROPIC, kernel.kind <= GENERALIZED_ANISOTROPIC, kernel.kind < SINC],
        [jnp.exp(-q / 2), jnp.exp(-powered / 2), 1 / (1 + powered)],
        _sinc(jnp.hypot(x, y), kernel.cutoff),
    )
    half = kernel.size // 2
    values = jnp.where((jnp.abs(x) <= half) & (jnp.abs(y) <= half), values, 0)
    return values / values.sum()


def _sinc(r: Array, cutoff: Array) -> Array:
    centre = cutoff**2 / (4 * np.pi)
    return jnp.where(r == 0, centre, cutoff * bessel_j1(cutoff * r) / (2 * np.pi * r))


def bessel_j1(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """J_1(x) for x from 0 to 60, within 3e-7: Abramowitz and Stegun 9.4.4 and 9.4.6.

    jax.scipy.special.bessel_jn is a recurrence that gives NaN for large arguments.
    """
    small = jnp.minimum(x, 3.0)
    near = small * _polynomial(
        (small / 3) ** 2,
        (0.5, -0.56249985, 0.21093573, -0.03954289, 0.00443319, -0.00031761, 0.00001109),
    )
    large = jnp.maximum(x, 3.0)
    amplitude = _polynomial(
        3 / large,
        (0.79788456, 0.00000156, 0.01659667, 0.00017105, -0.00249511, 0.00113653, -0.00020033),
    )
    phase = large + _polynomial(
        3 / large,
        (-2.35619449, 0.12499612, 0.00005650, -0.00637879, 0.00074348, 0.00079824, -0.00029166),
    )
    return jnp.where(x <= 3, near, amplitude * jnp.cos(phase) / jnp.sqrt(large))


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    return jnp.polyval(jnp.asarray(coefficients[::-1], jnp.float32), x)


def blur(canvas: Canvas, kernel: Kernel, side: int) -> Canvas:
    """The image filtered with a kernel, if that is used; `side` is the greatest size it may have.

    The same shape and size; edges are reflected, their pixels not repeated.
    """
    blurred: Canvas = jax.lax.cond(
        kernel.used,
        lambda: canvas._replace(planes=filter2d(canvas, kernel_values(kernel, side))),
        lambda: canvas,
    )
    return blurred


def filter2d(canvas: Canvas, kernel: Float[Array, "k k"]) -> Float[Array, "3 H W"]:
    """The planes (3, H, W) of an image, correlated with a kernel (k, k), k odd, by Fourier.

    Edges are reflected, their pixels not repeated.
    """
    height, width = canvas.planes.shape[1:]
    radius = kernel.shape[0] // 2
    rows = _reflected(height, canvas.height, radius)
    columns = _reflected(width, canvas.width, radius)
    padded = canvas.planes[:, rows][:, :, columns]
    shape = (_fast_length(height + 2 * radius), _fast_length(width + 2 * radius))
    spectrum = jnp.fft.rfft2(padded, shape) * jnp.fft.rfft2(kernel[None], shape).conj()
    return jnp.fft.irfft2(spectrum, shape)[:, :height, :width]


def _reflected(length: int, valid: Array, radius: int) -> Array:
    """Which of the first `valid` of `length` pixels stand in the padded canvas, (length + 2r,)."""
    period = jnp.maximum(2 * (valid - 1), 1)
    index = jnp.abs(jnp.arange(-radius, length + radius)) % period
    return jnp.minimum(jnp.minimum(index, period - index), valid - 1)


def _fast_length(length: int) -> int:
    """The least length from `length` on that has no prime factor above 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
