"""The command `resshift`: the name of a command and its arguments in, its exit code out."""

import argparse
import sys
from importlib import import_module

import resshift_jax

COMMANDS = {
    "restore": "restore photographs, or fill holes in them",
    "train": "train a model on photographs",
    "convert": "convert weights from the published form, and back",
    "export": "write a trained model as one file",
}
"""Name -> what it does. Each is a module of this folder, imported when it is chosen. Its main(argv)
returns the exit code; where more is to be done to end the process, it has end(code).
"""


def parser() -> argparse.ArgumentParser:
    """For what comes before a command's name, and for no or an unknown one."""
    listed = "\n".join(f"  {name:9} {does}" for name, does in COMMANDS.items())
    found = argparse.ArgumentParser(
        prog="resshift",
        description=resshift_jax.__doc__.splitlines()[0] if resshift_jax.__doc__ else None,
        epilog=f"commands:\n{listed}\n\nexample:\n  resshift restore -i photos -o results\n\n"
        f"`resshift COMMAND --help` has the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"resshift-jax {resshift_jax.__version__}"
    found.add_argument("--version", action="version", version=version)
    found.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    found.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="of the command")
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs a command. The exit code is 0, or what says why not; 2 where it makes no sense."""
    args = parser().parse_args(argv)
    command = import_module(f"resshift_jax.cli.{args.command}")
    code: int = command.main(args.arguments)
    if hasattr(command, "end"):
        command.end(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
