"""The sampler and the degradation lower for TPU and CUDA, from abstract arrays of full size."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resshift_jax.config import ModelConfig
from resshift_jax.degradation.config import TEST_SET, MixtureConfig, RealEsrganConfig
from resshift_jax.degradation.faces import FacesConfig, degrade_faces
from resshift_jax.degradation.masks import MaskConfig, draw_mask
from resshift_jax.degradation.real_esrgan import degrade, degrade_mixed
from resshift_jax.inference.programs import Tiles, restore_tiles
from resshift_jax.latent_model import (
    LatentModel,
    backbone_shapes,
    first_stage_shapes,
    unflatten,
)
from resshift_jax.nn.lpips import LPIPS
from resshift_jax.platform import Compute
from resshift_jax.weights.bundled import bundled_config
from resshift_jax.weights.zoo import released_config

ITEM_BYTES = {"f64": 8, "i64": 8, "ui64": 8, "f32": 4, "i32": 4, "ui32": 4, "bf16": 2, "f16": 2}


def abstract_params(config: ModelConfig) -> dict:
    def tree(shapes):
        return unflatten({k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()})

    return {
        "unet": tree(backbone_shapes(config.unet)),
        "first_stage": tree(first_stage_shapes(config.first_stage)),
    }


def lower(config: ModelConfig, platform: str, dtype, steps: int | None = None) -> str:
    """The StableHLO of the restoration of one tile of the training size."""
    side = config.unet.cond_size
    abstract = jax.ShapeDtypeStruct
    mask = abstract((1, side, side, 1), jnp.float32) if config.unet.cond_mask else None
    tiles = Tiles(
        lq=abstract((1, side, side, 3), jnp.float32),
        crc=abstract((1,), jnp.uint32),
        origin=abstract((1, 2), jnp.uint32),
        mask=mask,
    )
    arguments = abstract_params(config), abstract((), jnp.uint32), tiles
    model = LatentModel(config, Compute(np.dtype(dtype)))
    function = partial(restore_tiles, model, sampling_steps=steps)
    exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
    (out,) = exported.out_avals
    assert out.shape == (1, config.scale * side, config.scale * side, 3)
    assert out.dtype == jnp.float32
    return exported.mlir_module()


def largest_constant(module: str) -> int:
    """Bytes of the largest constant that is not one value repeated."""
    sizes = [0]
    for value, dims, kind in re.findall(
        r"stablehlo\.constant dense<([^>]*)> : tensor<((?:\d+x)*)(\w+)>", module
    ):
        if value.startswith(("[", '"')):
            count = 1
            for dim in dims.split("x")[:-1]:
                count *= int(dim)
            sizes.append(count * ITEM_BYTES.get(kind, 1))
    return max(sizes)


def assert_lean(module: str) -> None:
    """No float64, no way back to the host, no large array inside the program."""
    assert not re.search(r"x?f64>", module), "float64 in the program"
    assert "callback" not in module
    assert largest_constant(module) <= 2**20


@pytest.mark.parametrize(
    ("task", "version", "platform", "dtype"),
    [
        ("realsrx4", "v2", "tpu", jnp.bfloat16),
        ("realsrx4", "v2", "cuda", jnp.float32),
        ("inpaint_imagenet", None, "tpu", jnp.float32),
        ("faceir", None, "cuda", jnp.bfloat16),
    ],
)
def test_sampler_lowers(task, version, platform, dtype):
    module = lower(released_config(task=task, version=version), platform, dtype)
    assert_lean(module)
    assert "complex<" not in module


@pytest.mark.parametrize(("platform", "dtype"), [("tpu", jnp.bfloat16), ("cuda", jnp.float32)])
def test_the_bundled_model_lowers(platform, dtype):
    assert_lean(lower(bundled_config(), platform, dtype))


def test_steps_are_a_loop():
    config = released_config(task="realsrx4", version="v2")
    few, many = (lower(config, "tpu", jnp.bfloat16, steps) for steps in (2, 15))
    assert few.count("stablehlo.convolution") == many.count("stablehlo.convolution") > 50


KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 64))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize(
    ("function", "side", "sides"),
    [
        (partial(degrade, config=RealEsrganConfig()), 256, [64]),
        (partial(degrade, config=TEST_SET), 256, [64]),
        (partial(degrade_mixed, config=MixtureConfig()), 256, [64]),
        (partial(degrade_faces, config=FacesConfig()), 512, [512, 512]),
    ],
    ids=["training", "test set", "mixture", "faces"],
)
def test_degradation_lowers(function, side, sides, platform):
    images = jax.ShapeDtypeStruct((64, side, side, 3), jnp.uint8)
    with jax.default_matmul_precision("default"):
        exported = jax.export.export(jax.jit(function), platforms=[platform])(KEYS, images)
    assert [out.shape for out in exported.out_avals] == [(64, n, n, 3) for n in sides]
    module = exported.mlir_module()
    assert_lean(module)
    # All images of a batch go together: no branch is left but the choice of the platform, which
    # each of the two parts of the mixture has.
    parts = 2 if function.func is degrade_mixed else 1
    assert module.count("stablehlo.case") <= 2 * parts
    assert "stablehlo.scatter" not in module
    products = [line for line in module.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all(line.count("HIGHEST") == 2 for line in products)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_masks_and_lpips_lower(platform):
    masks = jax.vmap(partial(draw_mask, size=(256, 256), config=MaskConfig()))
    exported = jax.export.export(jax.jit(masks), platforms=[platform])(KEYS)
    assert exported.out_avals[0].shape == (64, 256, 256, 1)
    assert_lean(exported.mlir_module())

    images = jax.ShapeDtypeStruct((8, 256, 256, 3), jnp.float32)
    module = LPIPS("vgg", Compute(np.dtype(jnp.bfloat16)))
    variables = jax.eval_shape(module.init, jax.random.key(0), images, images)
    gradient = jax.grad(lambda x, v, y: module.apply(v, x, y).sum())
    exported = jax.export.export(jax.jit(gradient), platforms=[platform])(images, variables, images)
    assert exported.out_avals[0].shape == images.shape
    assert_lean(exported.mlir_module())


def test_constants_are_measured():
    dense = "stablehlo.constant dense<[1.0, 2.0]> : tensor<1024x1024xf32>"
    assert largest_constant(dense) == 4 * 2**20
    assert largest_constant("stablehlo.constant dense<0.0> : tensor<1024x1024xf32>") == 0
