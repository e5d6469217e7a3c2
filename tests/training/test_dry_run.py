"""What a dry run tells, against what is counted by hand."""

import jax
import numpy as np
from runs import SMALLEST, TINY

from resshift_jax.latent_model import backbone_shapes
from resshift_jax.training.config_file import read_config
from resshift_jax.training.dry_run import describe


def test_what_a_dry_run_tells():
    config = read_config(TINY, SMALLEST)
    text = describe(config, jax.devices()[:1])
    told = dict(line.split(":", 1) for line in text.split("\n\n")[1].splitlines())
    count = sum(int(np.prod(shape)) for shape in backbone_shapes(config.model.unet).values())
    assert told["parameters"].strip() == f"{count:,} trained, 0 frozen"
    assert told["batch"].strip() == "hq 4x32x32x3, lq 4x8x8x3; 4 a device, in 1 part"
    state = 16 * count / 2**30  # parameters, EMA and two moments
    assert f"{state:.2f} GiB of state a device" in told["memory"]
    assert "1 data x 1 fsdp" in told["devices"]
    assert "b2: 0.999" in text.split("\n\n")[0]  # the defaults, too
