"""Converts weights: resshift convert resshift_realsrx4_s15_v2.pth realsr.safetensors.

From a released .pth to one safetensors file that holds its configuration, and back:

  resshift convert resshift_realsrx4_s15_v2.pth --info
  resshift convert realsr.safetensors realsr.pth --to-torch --first-stage autoencoder.pth
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resshift_jax.cli.errors import describe_error, log_to_stderr
from resshift_jax.config import ModelConfig
from resshift_jax.console import show
from resshift_jax.settings import to_dict
from resshift_jax.weights import store
from resshift_jax.weights.load import load_weights
from resshift_jax.weights.mapping import ConversionError, FlatParams, released_state_dict
from resshift_jax.weights.torch import file as torch_file
from resshift_jax.weights.zoo import ALIASES, TASKS

FLAGS = {
    "first_stage": "--first-stage",
    "task": "--task",
    "version": "--version",
    "dtype": "--dtype",
}
"""Parameter of the library -> the flag that sets it."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="resshift convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("source", type=Path, help="a released .pth, or our .safetensors")
    add("target", type=Path, nargs="?", help="the file to write")
    add("--first-stage", type=Path, metavar="PTH",
        help="autoencoder to embed; with --to-torch, where to write the embedded one")  # fmt: skip
    add(
        "--task",
        choices=[*TASKS, *ALIASES],
        help="what the .pth is for, if its file name does not tell",
    )
    add("--version", help="which release of the task, e.g. v3")
    add("--set", action="append", default=[], metavar="KEY=VALUE", type=_setting,
        help="a setting that no name tells, e.g. chain.num_timesteps=8")  # fmt: skip
    add("--dtype", choices=store.STORAGE_DTYPES, default="float32", help="of the stored values")
    add("--info", action="store_true", help="print what the source is, write nothing")
    add("--to-torch", action="store_true",
        help="write the released names and layout, as .pth or .safetensors")  # fmt: skip
    return found


def main(argv: list[str] | None = None) -> int:
    """Converts one file. The exit code: 0, or 1 after an error."""
    command = parser()
    args = command.parse_args(argv)
    if (args.target is None) != args.info:
        command.error("give a source and a target, or a source and --info")
    with log_to_stderr(FLAGS):
        try:
            run(args)
        except (OSError, ValueError) as e:
            show(f"error: {describe_error(e, FLAGS)}", sys.stderr)
            return 1
    return 0


def run(args: argparse.Namespace) -> None:
    written = [args.target, args.first_stage] if args.to_torch else [args.target]
    suffixes = [".pth", ".safetensors"] if args.to_torch else [".safetensors"]
    for path in written:
        if path is not None and path.suffix not in suffixes:
            raise ValueError(f"{path}: cannot be written, name a {' or '.join(suffixes)} file")
    if args.to_torch and args.target == args.first_stage:
        raise ValueError(f"{args.target}: given twice, the first stage needs a file of its own")
    config, params = load_weights(
        args.source,
        first_stage=None if args.to_torch else args.first_stage,
        task=args.task,
        version=args.version,
        overrides=dict(args.set),
        need_first_stage=False,
    )
    if args.info:
        show(describe(config, params), sys.stdout)
    elif args.to_torch:
        try:
            to_torch(config, params, args.target, args.first_stage)
        except ConversionError as e:
            raise ConversionError(f"{args.source}: {e}") from e
    else:
        store.save(args.target, config, params, store.STORAGE_DTYPES[args.dtype])
        show(f"{args.target}: {describe(config, params)}", sys.stdout)


def to_torch(
    config: ModelConfig, params: dict[str, FlatParams], target: Path, stage_target: Path | None
) -> None:
    """Writes the released form of the network, and of the first stage if it has a target."""
    states = released_state_dict(config, params)
    if stage_target is not None and not states["first_stage"]:
        raise ValueError(f"{stage_target}: the source has no first stage embedded")
    _write_torch(target, states["unet"])
    show(f"{target}: {len(states['unet'])} tensors", sys.stdout)
    if stage_target is not None:
        _write_torch(stage_target, states["first_stage"])
        show(f"{stage_target}: {len(states['first_stage'])} tensors", sys.stdout)


def _write_torch(path: Path, state: dict[str, np.ndarray]) -> None:
    state = {k: v if v.dtype.kind == "i" else v.astype(np.float32) for k, v in state.items()}
    if path.suffix == ".pth":
        torch_file.write(path, state)
    else:
        store.write_tensors(path, state)


def describe(config: ModelConfig, params: dict[str, FlatParams]) -> str:
    """A few lines: the task, the sizes, and the whole configuration."""
    lines = [f"{config.task}, scale {config.scale}, {config.chain.num_timesteps} steps"]
    for part, flat in params.items():
        if flat:
            count = sum(value.size for value in flat.values())
            dtypes = ", ".join(sorted({str(value.dtype) for value in flat.values()}))
            lines.append(f"  {part}: {count:,} parameters, {dtypes}")
    if not params["first_stage"] and config.first_stage.has_params:
        lines.append(f"  first_stage: not embedded, needs {config.first_stage.name}.pth")
    for key, value in to_dict(config).items():
        lines.append(f"  {key}: {json.dumps(value)}")
    return "\n".join(lines)


def _setting(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: KEY=VALUE needed")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
