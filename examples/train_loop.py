"""A training loop of one's own: python examples/train_loop.py PHOTOS OUT.safetensors [key=value].

`resshift train` does this, too, with checkpoints, validation and a log; change here what you like.
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import resshift_jax as rs


def main(photos: str, path: str, *settings: str) -> None:
    config = rs.read_config(rs.find_config("tiny"), settings)
    data = replace(config.data, sources=(rs.SourceConfig(photos),))
    loader = rs.Loader(data, config.model.scale, seed=config.seed, batch_size=config.batch_size)

    mesh, model = rs.make_mesh(jax.devices()), rs.LatentModel(config.model)
    state, frozen = rs.sharded_init(config, mesh), rs.load_frozen(config)
    make_pairs, train_step = rs.make_prepare(config, mesh), rs.make_step(config, model, mesh)

    for step, batch in zip(range(config.train_steps), loader.batches(), strict=False):
        images = rs.to_global(mesh, {name: batch[name] for name in batch if name != "record"})
        pairs = make_pairs(np.int32(step), images)  # the hq crops, and their lq versions
        state, metrics = train_step(state, frozen, pairs)  # consumes the state it is given
        print(f"step {step + 1}  loss {float(metrics.loss):.4f}")

    params = {"unet": state.ema, "first_stage": frozen["first_stage"]}
    rs.write_model(Path(path), config.model, params)
    lq = np.asarray(pairs.lq[0] / 2 + 0.5)
    print(f"{path}: restores {lq.shape} to {rs.load(path)(lq).shape}")


if __name__ == "__main__":
    main(*sys.argv[1:])
