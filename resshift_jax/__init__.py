"""ResShift in JAX: a low-quality image in, a restored one out.

    import resshift_jax
    model = resshift_jax.load()  # or load("resshift_realsrx4_s15_v2.pth")
    high = model(low)  # (H, W, 3) uint8 -> (4H, 4W, 3) uint8

The parts are pure functions: `restore`, the chain in `chain`, the networks in `nn`.
"""

from resshift_jax.chain import Chain, make_chain
from resshift_jax.config import ChainConfig, ModelConfig, UNetConfig, VQConfig
from resshift_jax.inference.model import Model, load
from resshift_jax.restore import restore

__all__ = [
    "Chain",
    "ChainConfig",
    "Model",
    "ModelConfig",
    "UNetConfig",
    "VQConfig",
    "load",
    "make_chain",
    "restore",
]
