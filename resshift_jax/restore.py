"""Restoration: a low-quality image in, a high-quality image out, as one compiled function.

z_y = encode(bicubic(lr));  z_0 = chain.sample(denoise, z_y, key);  image = decode(z_0)
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from resshift_jax.chain import canvas_noise, make_chain
from resshift_jax.config import ModelConfig
from resshift_jax.nn.autoencoder import first_stage
from resshift_jax.nn.unet import SwinUNet
from resshift_jax.platform import matmul_precision
from resshift_jax.resize import upsample_bicubic


def restore(
    params: dict,
    lr: Array,
    keys: Array,
    mask: Array | None = None,
    origins: Array | None = None,
    *,
    config: ModelConfig,
    sampling_steps: int | None = None,
    dtype: DTypeLike = np.float32,
) -> Array:
    """The high-quality image of a low-quality one.

    Args:
        params: {"unet": tree, "first_stage": tree}.
        lr: (B, h, w, 3) float32 in [-1, 1], h and w multiples of config.pad_multiple.
        keys: (B,) keys, one an image; the tiles of an image share its key.
        mask: for inpainting, (B, h, w, 1) float32 in [0, 1], 1 where to fill.
        origins: (B, 2) uint32, for tiles: row and column of the first latent pixel of each within
            the latent of its whole image. Tiles of one key agree on the noise where they overlap.
        sampling_steps: fewer steps than the chain was trained with; None for all of them.
        dtype: of the networks' computation; the chain itself is float32.

    Returns:
        (B, scale h, scale w, 3) float32 in [-1, 1].
    """
    unet, stage = SwinUNet(config.unet, dtype), first_stage(config.first_stage, dtype)
    chain = make_chain(
        config.chain, in_pixels=config.first_stage.in_pixels, sampling_steps=sampling_steps
    )
    weights = {"params": params["first_stage"]}
    encode = partial(stage.apply, weights, method="encode")
    decode = partial(stage.apply, weights, method="decode")

    known, fill = known_part(lr, mask)

    def denoise(x_t: Array, t: Array) -> Array:
        return unet.apply({"params": params["unet"]}, x_t, t, known, fill)

    with jax.default_matmul_precision(matmul_precision(dtype)):
        z_y = encode(upsample_bicubic(known, config.scale))
        z_0 = chain.sample(denoise, z_y, noise=canvas_noise(keys, origins, z_y.shape))
        image = decode(z_0)

    image = jnp.clip(image, -1, 1)
    return image if mask is None else image * mask + lr * (1 - mask)


def known_part(lr: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """An image as a model may see it, -1 where to fill, and the mask as its network has it, +-1."""
    if mask is None:
        return lr, None
    return lr * (1 - mask) - mask, 2 * mask - 1
