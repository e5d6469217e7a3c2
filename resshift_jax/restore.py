"""Restoration: a low-quality image in, a high-quality image out, as one compiled function.

z_y = encode(bicubic(lq));  z_0 = chain.sample(denoise, z_y, noise);  image = decode(z_0)
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, UInt32

from resshift_jax.chain import canvas_noise
from resshift_jax.latent_model import LatentModel, Params


def restore(
    model: LatentModel,
    params: Params,
    lq: Float[Array, "b h w 3"],
    keys: Key[Array, "b"],
    mask: Float[Array, "b h w 1"] | None = None,
    origins: UInt32[Array, "b 2"] | None = None,
    *,
    sampling_steps: int | None = None,
    sampler: str | None = None,
) -> Float[Array, "b H W 3"]:
    """The high-quality image of a low-quality one.

    Args:
        model: what is computed; it is no array, so close over it to compile this.
        params: {"unet": tree, "first_stage": tree}.
        lq: (B, h, w, 3) float32 in [-1, 1], h and w multiples of config.pad_multiple.
        keys: (B,) keys, one an image; the tiles of an image share its key.
        mask: for inpainting, (B, h, w, 1) float32 in [0, 1], 1 where to fill.
        origins: (B, 2) uint32, for tiles: row and column of the first latent pixel of each within
            the latent of its whole image. Tiles of one key agree on the noise where they overlap.
        sampling_steps: fewer steps than the chain was trained with; None: those of the model.
        sampler: one of `chain.SAMPLERS`; None: that of the model.

    Returns:
        (B, scale h, scale w, 3) float32 in [-1, 1].

    Raises:
        ValueError: shapes that do not fit the model, or steps that the sampler cannot take.
    """
    chain = model.chain(sampling_steps, sampler)
    cond = model.condition(lq, mask)

    with model.precision():
        z_y = model.encode_lq(params, cond)
        noise = canvas_noise(keys, origins, z_y.shape)
        z_0 = chain.sample(model.denoiser(params, cond), z_y, noise=noise)
        image = model.decode(params, z_0)

    image = jnp.clip(image, -1, 1)
    return image if mask is None else image * mask + lq * (1 - mask)
