"""The shapes and dtypes that public functions are annotated with, checked while they are used.

In a process of its own, for the annotations are checked in what is imported after the hook: a
restoration, a chain, pairs of every kind, a training step, and the metrics.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys
from jaxtyping import TypeCheckError, install_import_hook

rooms = ("chain", "schedule", "restore", "latent_model", "pixels", "degradation", "evaluation",
         "inference", "training.losses", "training.step", "nn.unet", "nn.autoencoder")
install_import_hook([f"resshift_jax.{room}" for room in rooms], "beartype.beartype")

import jax
import jax.numpy as jnp
import numpy as np
from conftest import TINY, TINY_INPAINTING, save_model
from runs import SMALLEST, TINY as TINY_YAML
import resshift_jax as rs
from resshift_jax.degradation.pairs import DEGRADATIONS
from resshift_jax.evaluation.metrics import METRICS
from resshift_jax.training.step import make_prepare, make_step

image = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
model = rs.load(save_model(__import__("pathlib").Path(sys.argv[1]) / "tiny.safetensors", TINY))
restored = model(image)
for kind in (image[None], image / np.float32(255)):
    assert model(kind).shape[-1] == 3
inpainting = rs.load(save_model(__import__("pathlib").Path(sys.argv[1]) / "m.safetensors",
                                TINY_INPAINTING))
inpainting(image, np.ones((5, 9), np.uint8))

chain = rs.make_chain(TINY.chain, in_pixels=False)
y = jnp.ones((2, 4, 4, 3))
chain.trajectory(lambda x, t: x, y, jax.random.key(0))
for t in (1, jnp.int32(1), jnp.array([0, 1])):
    chain.q_sample(y, y, t, y)

crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
keys = jax.random.split(jax.random.key(0), 2)
for row in DEGRADATIONS.values():
    images = {"hq": jnp.asarray(crops)}
    if row.takes_pairs:
        images["lq"] = images["hq"][:, ::4, ::4]
    config = row.settings()
    jax.eval_shape(lambda k, i: rs.make_pairs(k, i, config), keys, images)

config = rs.read_config(TINY_YAML, [*SMALLEST, "loss.weights.l1=1", "loss.weights.spectrum=1"])
mesh = rs.make_mesh(jax.devices()[:1])
hq = {"hq": jnp.asarray(crops[:, :32, :32].repeat(2, 0))}
pairs = jax.eval_shape(make_prepare(config, mesh), np.int32(0), hq)
state = jax.eval_shape(lambda: rs.sharded_init(config, mesh))
step = make_step(config, rs.LatentModel(config.model), mesh)
jax.eval_shape(step, state, {"first_stage": {}}, pairs)

for name, metric in METRICS.items():
    if metric.network != "vgg":
        assert metric.make(None)([*crops], [*crops]).shape == (2,), name

params = model.params
lq, key = jnp.zeros((1, 8, 8, 3)), keys[:1]
for wrong in (
    lambda: rs.restore(model.latent_model, params, lq[0], key),
    lambda: rs.restore(model.latent_model, params, lq, keys[0]),
    lambda: rs.restore(model.latent_model, params, lq.astype(jnp.int32), key),
    lambda: model.latent_model.encode(params, lq[..., :2]),
    lambda: chain.q_sample(y, y[:1], 1, y),
    lambda: rs.make_pairs(keys, {"hq": jnp.zeros((2, 64, 64))}, DEGRADATIONS["bicubic"].settings()),
    lambda: model(image[..., :2]),
):
    try:
        wrong()
    except TypeCheckError:
        continue
    raise SystemExit("a wrong shape went unnoticed")
print("checked")
"""


def test_annotations_hold(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.stdout.splitlines()[-1:] == ["checked"], process.stderr
