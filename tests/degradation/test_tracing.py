"""Every degradation under modes of JAX that a program around it may have switched on."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from resshift_jax.degradation.bicubic import BicubicConfig, reduce_bicubic
from resshift_jax.degradation.config import TEST_SET, RealEsrganConfig
from resshift_jax.degradation.faces import FacesConfig, degrade_faces
from resshift_jax.degradation.masks import MaskConfig, draw_mask
from resshift_jax.degradation.real_esrgan import degrade

KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
FUNCTIONS = {
    "training": partial(degrade, config=RealEsrganConfig()),
    "test set": partial(degrade, config=TEST_SET),
    "faces": partial(degrade_faces, config=FacesConfig()),
    "matlab": lambda _, x: reduce_bicubic(x, BicubicConfig()),
    "opencv": lambda _, x: reduce_bicubic(x, BicubicConfig(method="opencv")),
    "masks": lambda keys, _: jax.vmap(
        partial(draw_mask, size=(64, 64), config=MaskConfig())
    )(keys),
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    "mode", [partial(jax.numpy_rank_promotion, "raise"), partial(jax.enable_x64, True)],
    ids=["no rank promotion", "x64"],
)  # fmt: skip
def test_results_are_float32(mode, function):
    with mode():
        out = jax.eval_shape(function, KEYS, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8))
    for leaf in jax.tree.leaves(out):
        assert leaf.dtype == jnp.float32
        assert leaf.shape[0] == 2
