"""With PyTorch at hand: its files, and an independent reference of the networks in it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_reference as reference  # noqa: E402
from conftest import (  # noqa: E402
    MINI_UNET,
    MINI_UNET_MASK,
    MINI_VQ,
    MINI_VQ_F8,
    assert_close,
    jit,
    rules_and_shapes,
    stand_in,
    stored,
    variables_of,
)

from resshift_jax.chain import make_chain  # noqa: E402
from resshift_jax.config import UNetConfig, VQConfig  # noqa: E402
from resshift_jax.nn.autoencoder import VQAutoencoder  # noqa: E402
from resshift_jax.nn.unet import SwinUNet  # noqa: E402
from resshift_jax.resize import upsample_bicubic  # noqa: E402
from resshift_jax.weights import torch_file, zoo  # noqa: E402
from resshift_jax.weights.mapping import torch_shapes  # noqa: E402


def weights(config: UNetConfig | VQConfig) -> tuple[dict, dict]:
    """The same weights in the released layout and as our variables."""
    rules, shapes = rules_and_shapes(config)
    state = stand_in.state_dict(torch_shapes(rules, shapes))
    return state, variables_of(stored(state), config)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def compare_unet(config: UNetConfig, height: int, width: int, tolerance: float) -> None:
    state, variables = weights(config)
    factor = 2**config.num_halvings
    x_t = noise(1, 2, height, width, config.latent_channels)
    lq = np.tanh(noise(2, 2, height * factor, width * factor, 3))
    mask = np.sign(noise(3, *lq.shape[:3], 1)) if config.cond_mask else None
    t = np.array([3, 0])
    expected = reference.unet(
        state, x_t, t, lq, mask, window=config.window_size, image_size=config.image_size,
        head_dim=config.head_channels,
    )  # fmt: skip
    assert_close(jit(SwinUNet(config).apply)(variables, x_t, t, lq, mask), expected, tolerance)


@pytest.mark.parametrize("size", [(16, 16), (16, 48), (48, 32)])
@pytest.mark.parametrize("config", [MINI_UNET, MINI_UNET_MASK], ids=["plain", "mask"])
def test_mini_unet_at_other_sizes(config, size):
    compare_unet(config, *size, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "size"),
    [("bicsrx4", (64, 128)), ("inpaint_face", (64, 64)), ("faceir", (64, 64)),
     ("realsrx2", (64, 64))],
)  # fmt: skip
def test_full_unets(task, size):
    compare_unet(zoo.released_config(task=task).unet, *size, tolerance=2e-5)


@pytest.mark.parametrize(
    "config",
    [MINI_VQ, MINI_VQ_F8, pytest.param(zoo.VQ_F8_FACE, marks=pytest.mark.slow)],
    ids=lambda config: config.name,
)
def test_autoencoders_on_an_oblong(config):
    state, variables = weights(config)
    stage = VQAutoencoder(config)
    image = np.tanh(noise(4, 1, 64, 96, 3))
    z = reference.encode(state, image)
    ours = jit(lambda v, x: stage.apply(v, x, method="encode"))(variables, image)
    assert_close(ours, z, 2e-5)
    decoded = jit(lambda v, x: stage.apply(v, x, method="decode"))(variables, z)
    assert_close(decoded, reference.decode(state, z), 2e-5)


@pytest.mark.slow
def test_last_latent_of_the_full_chain():
    """Fifteen steps of the full network, from a latent and noise that no golden holds."""
    config = zoo.released_config(task="realsrx4", version="v2")
    state, variables = weights(config.unet)
    z_y, lq = noise(5, 1, 64, 64, 3), np.tanh(noise(6, 1, 64, 64, 3))
    draws = noise(7, 16, 1, 64, 64, 3)
    samples, _ = reference.sample_chain(
        lambda x, t: reference.unet(state, x, t, lq, window=8, image_size=64),
        z_y, draws, steps=15, min_noise=0.04,
    )  # fmt: skip
    chain, unet = make_chain(config.chain, in_pixels=False), SwinUNet(config.unet)

    @jit
    def sample(variables, z_y, draws):
        denoise = lambda x_t, t: unet.apply(variables, x_t, t, lq)  # noqa: E731
        return chain.sample(denoise, z_y, noise=lambda k: draws[k])

    assert_close(sample(variables, z_y, jnp.asarray(draws)), samples[-1], 1e-4)


def test_bicubic():
    image = noise(8, 2, 13, 7, 3)
    for scale in (2, 3, 4):
        assert_close(upsample_bicubic(image, scale), reference.bicubic(image, scale), 2e-6)


def test_torch_reads_what_we_write(tmp_path: Path):
    arrays = {
        "a.weight": noise(9, 3, 4, 5), "a.bias": noise(10, 3), "index": np.arange(6).reshape(2, 3),
        "half": noise(11, 4).astype(np.float16), "scalar": np.float32(2.5).reshape(()),
    }  # fmt: skip
    torch_file.write(tmp_path / "ours.pth", arrays)
    state = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert list(state) == list(arrays)
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])
        assert tensor.numpy().dtype == arrays[name].dtype


def test_we_read_what_torch_writes(tmp_path: Path):
    base = torch.from_numpy(noise(12, 6, 8))
    module = torch.nn.Linear(4, 2)
    state = {
        "plain": base, "transposed": base.t(), "slice": base[2:4, ::2], "half": base.half(),
        "bfloat16": base.bfloat16(), "long": torch.arange(5), "bool": base > 0,
        "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(base), **module.state_dict(),
    }  # fmt: skip
    prefixed = {f"module._orig_mod.{name}": value for name, value in state.items()}
    torch.save({"state_dict": prefixed, "step": 3, "rate": 0.1}, tmp_path / "theirs.pth")
    read = torch_file.read(tmp_path / "theirs.pth")
    assert set(read) == set(state)
    for name, tensor in read.items():
        expected = state[name].detach()
        if expected.dtype == torch.bfloat16:
            expected, loaded = expected.float(), tensor.load().astype(np.float32)
        else:
            loaded = tensor.load()
        np.testing.assert_array_equal(loaded, expected.numpy())
