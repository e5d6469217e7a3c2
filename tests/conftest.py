"""What the tests share: golden arrays, and the small networks of the goldens with their weights."""

import json
import os
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

# Most of the tests' time goes into compiling: less is optimised here and in processes that they
# start, but for what is compared with the goldens (`jit` below).
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resshift_jax.config import ModelConfig, UNetConfig, VQConfig
from resshift_jax.latent_model import backbone_shapes, first_stage_shapes, unflatten
from resshift_jax.nn.autoencoder import VQAutoencoder
from resshift_jax.nn.unet import SwinUNet
from resshift_jax.platform import COMPUTE_DTYPES, Compute, compiler_options
from resshift_jax.weights import stand_in, store, zoo
from resshift_jax.weights.mapping import to_ours, torch_shapes, unet_rules, vq_rules
from resshift_jax.weights.torch import file as torch_file

BFLOAT16 = Compute(COMPUTE_DTYPES["bfloat16"])

FIXTURES = Path(__file__).parent / "fixtures"

# The small networks of mini_manifest.json, by the names there.
MINI_UNET = UNetConfig(
    image_size=16, cond_size=16, base_channels=32, swin_channels=64, head_channels=16,
    window_size=4,
)  # fmt: skip
MINI_UNET_MASK = UNetConfig(
    image_size=16, cond_size=64, base_channels=32, swin_channels=64, head_channels=16,
    window_size=4, latent_channels=4, cond_mask=True,
)  # fmt: skip
MINI_VQ = VQConfig(base_channels=32, codebook_size=256, name="mini_autoencoder")
MINI_VQ_F8 = VQConfig(
    base_channels=32, channel_mult=(1, 1, 2, 2), num_res_blocks=(1, 2, 1, 2), latent_channels=4,
    codebook_size=128, name="mini_autoencoder_f8",
)  # fmt: skip

# Smaller still, for what does not depend on a network's size: it compiles in seconds.
TINY_UNET = UNetConfig(
    image_size=8, cond_size=8, base_channels=32, channel_mult=(1,), num_res_blocks=1,
    swin_channels=32, swin_depth=1, head_channels=16, window_size=4,
)  # fmt: skip
TINY_VQ = VQConfig(
    base_channels=32, channel_mult=(1, 1), num_res_blocks=(1, 1), codebook_size=64,
    name="tiny_autoencoder",
)  # fmt: skip
TINY = ModelConfig(
    task="realsrx2", scale=2, chain=zoo.FOUR_STEPS, unet=TINY_UNET, first_stage=TINY_VQ
)
TINY_INPAINTING = ModelConfig(
    task="inpaint_imagenet", scale=1, chain=zoo.FOUR_STEPS,
    unet=replace(TINY_UNET, cond_size=16, cond_mask=True), first_stage=TINY_VQ,
)  # fmt: skip

# Which network each manifest describes.
MANIFEST_UNETS = {
    "unet": MINI_UNET,
    "unet_mask": MINI_UNET_MASK,
    **{
        name: zoo.released_config(name).unet
        for name in (
            "resshift_realsrx4_s15",
            "resshift_realsrx4_s4_v3",
            "resshift_bicsrx4_s4",
            "resshift_inpainting_imagenet_s4",
            "resshift_inpainting_face_s4",
            "resshift_faceir_s4",
            "resshift_realsrx2_s4",
        )
    },
}
MANIFEST_STAGES = {
    "autoencoder": MINI_VQ,
    "autoencoder_f8": MINI_VQ_F8,
    **{stage.name: stage for stage in (zoo.VQ_F4, zoo.VQ_F4_FACE, zoo.VQ_F8_FACE)},
}

# Of no release, but of the same family.
SMALL = {"image_size": 16, "cond_size": 16, "base_channels": 32, "swin_channels": 64,
         "head_channels": 16, "window_size": 4}  # fmt: skip
OTHER_UNETS = (
    UNetConfig(**SMALL, channel_mult=(2, 2), num_res_blocks=1, swin_depth=3),
    UNetConfig(**SMALL, channel_mult=(1, 3, 1), num_res_blocks=3, swin_depth=1),
    UNetConfig(**SMALL, channel_mult=(2,), mlp_ratio=2, cond_mask=True),
    UNetConfig(**(SMALL | {"cond_size": 128}), channel_mult=(1, 1), latent_channels=5),
    UNetConfig(image_size=128, cond_size=128),  # its deepest window tells 64
)
OTHER_STAGES = (
    VQConfig(base_channels=32, channel_mult=(2, 4), num_res_blocks=(1, 2), name="other"),
    VQConfig(base_channels=32, channel_mult=(1, 1), num_res_blocks=(3, 1), name="other"),
    VQConfig(base_channels=64, channel_mult=(1,), num_res_blocks=(1,), name="other"),
)

# What the file of the mini U-Net does not tell: the widths of its first stage.
MINI_OVERRIDES = {"first_stage.base_channels": 32, "first_stage.codebook_size": 256}

jax.config.update("jax_default_matmul_precision", "highest")  # float32 on GPU and TPU too
AS_SHIPPED = {**compiler_options(), "xla_backend_optimization_level": 3}
jit = partial(jax.jit, compiler_options=AS_SHIPPED)  # as restore.py compiles


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / f"{name}.npz"))


@cache
def manifest(name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Released tensor name -> (shape, dtype), of a released or of a small configuration."""
    minis = json.loads((FIXTURES / "mini_manifest.json").read_text())
    released = json.loads((FIXTURES / "manifests.json").read_text())
    tensors = minis[name]["tensors"] if name in minis else released[name]
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in tensors.items()}


def manifest_state(name: str) -> dict[str, np.ndarray]:
    """The parameters of a manifest, without its buffers, by the recipe of the goldens."""
    return stand_in.state_dict(
        {
            key: shape
            for key, (shape, dtype) in manifest(name).items()
            if dtype == "float32" and not key.endswith("attn_mask")
        }
    )


def write_pth(path: Path, name: str) -> Path:
    """A .pth with the parameters of a manifest."""
    torch_file.write(path, manifest_state(name))
    return path


@cache
def rules_and_shapes(config: UNetConfig | VQConfig):
    if isinstance(config, UNetConfig):
        return unet_rules(config), backbone_shapes(config)
    return vq_rules(config), first_stage_shapes(config)


@dataclass(frozen=True)
class Stored:
    """An array as the converter takes it: a shape, and values on request."""

    value: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def load(self) -> np.ndarray:
        return self.value


def stored(state: dict[str, np.ndarray]) -> dict[str, Stored]:
    return {name: Stored(value) for name, value in state.items()}


def variables_of(state, config: UNetConfig | VQConfig) -> dict:
    """The variables of a network, from a state dict in the released layout."""
    flat = to_ours(state, *rules_and_shapes(config))
    return {"params": unflatten({name: jnp.asarray(value) for name, value in flat.items()})}


def save_model(path: Path, config: ModelConfig) -> Path:
    """One of our files, with the stand-in weights of a configuration."""
    params = {}
    for part, network in (("unet", config.unet), ("first_stage", config.first_stage)):
        params[part] = {}
        if isinstance(network, UNetConfig | VQConfig):
            rules, shapes = rules_and_shapes(network)
            state = stand_in.state_dict(torch_shapes(rules, shapes))
            params[part] = to_ours(stored(state), rules, shapes)
    store.save(path, config, params)
    return path


def assert_close(actual, expected, tolerance: float) -> None:
    """Largest absolute difference at most `tolerance`; `pytest -rP` shows what it was."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    print(f"largest difference {difference:.3g} of {tolerance:g}")
    assert difference <= tolerance


def assert_one_line_error(capsys, *parts: str) -> None:
    """Exactly one line on stderr, an error that has all of `parts` in it."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs of one file are of no use to the next, and fill the memory."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def mini_files(tmp_path_factory) -> dict[str, Path]:
    """A .pth of each small network, by its name in the manifest."""
    folder = tmp_path_factory.mktemp("mini")
    names = ("unet", "unet_mask", "autoencoder", "autoencoder_f8")
    return {name: write_pth(folder / f"mini_{name}.pth", name) for name in names}


@pytest.fixture(scope="session")
def networks(mini_files) -> dict:
    """Name in the manifest -> (module, variables) of each small network."""
    pairs = {}
    for name, path in mini_files.items():
        config = {**MANIFEST_UNETS, **MANIFEST_STAGES}[name]
        module = (SwinUNet if isinstance(config, UNetConfig) else VQAutoencoder)(config)
        pairs[name] = module, variables_of(torch_file.read(path), config)
    return pairs


@pytest.fixture(scope="session")
def apply_unet(networks):
    """(name, x, t, lq, mask) -> output of a small U-Net, compiled once a shape."""
    compiled = {name: jit(module.apply) for name, (module, _) in networks.items()}
    return lambda name, *args: compiled[name](networks[name][1], *args)
