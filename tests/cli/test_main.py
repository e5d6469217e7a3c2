"""The command `resshift`: its commands, and how it passes on what the library says."""

import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import resshift_jax
from resshift_jax.cli.errors import as_flags, describe_error, log_to_stderr
from resshift_jax.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]


def exit_of(argv, capsys):
    """(exit code, stdout, stderr) of a command that ends by itself."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return caught.value.code, *capsys.readouterr()


def test_help_lists_the_commands_with_a_line_each(capsys):
    code, out, _ = exit_of(["--help"], capsys)
    assert code == 0
    lines = [line.split(maxsplit=1) for line in out.splitlines() if line.strip()]
    for name, does in COMMANDS.items():
        assert [name, does] in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name, capsys):
    code, out, _ = exit_of([name, "--help"], capsys)
    assert code == 0
    assert out.startswith(f"usage: resshift {name} ")
    assert f": resshift {name} " in out or f"  resshift {name} " in out


@pytest.mark.parametrize("argv", [[], ["deblur"], ["--restore"]])
def test_no_command_and_an_unknown_one_are_answered_with_the_list(argv, capsys):
    code, _, err = exit_of(argv, capsys)
    assert code == 2
    if argv == ["deblur"]:
        assert all(name in err for name in ("deblur", *COMMANDS))


def test_the_version(capsys):
    assert exit_of(["--version"], capsys)[:2] == (0, f"resshift-jax {resshift_jax.__version__}\n")


def test_a_command_gets_its_arguments_and_its_exit_code_comes_back(tmp_path, capsys):
    argv = ["convert", str(tmp_path / "absent.pth"), str(tmp_path / "out.safetensors")]
    assert main(argv) == 1
    assert "absent.pth: nothing there" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_that_errors_name_are_those_of_the_command(name):
    command = import_module(f"resshift_jax.cli.{name}")
    text = command.parser().format_help()
    assert all(f"{flag} " in text or f"{flag}\n" in text for flag in command.FLAGS.values())


@pytest.mark.parametrize(
    "command",
    [["-m", "resshift_jax"], [str(ROOT / "sample.py")], ["-m", "resshift_jax", "restore"]],
)
def test_as_a_process(command):
    run = subprocess.run(
        [sys.executable, *command, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "usage: resshift" in run.stdout
    assert run.stderr == ""


FLAGS = {"task": "--task", "batch_size": "--bs", "distributed": "--distributed"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task=x: unknown, one of y", "--task x: unknown, one of y"),
        ("a.pth: its task is y, task=x given", "a.pth: its task is y, --task x given"),
        ("memory, try batch_size=1 (9 GiB", "memory, try --bs 1 (9 GiB"),
        ("distributed=True: no others", "--distributed: no others"),
        ("photos/task=3.png: task=x", "photos/task=3.png: --task x"),
        ("subtask=3, my-task=3, first.task=3", "subtask=3, my-task=3, first.task=3"),
        ("the task x", "the task x"),
    ],
)
def test_parameters_become_flags(text, expected):
    assert as_flags(text, FLAGS) == expected
    assert describe_error(ValueError(text), FLAGS) == expected
    assert as_flags(text, {}) == text


def test_an_error_without_words_is_named():
    assert describe_error(MemoryError(), FLAGS) == "MemoryError"


def test_notices_go_to_stderr_while_a_command_runs_and_nowhere_else(capsys):
    logger = logging.getLogger("resshift_jax.weights.load")
    logger.info("before")
    with log_to_stderr(FLAGS):
        logger.info("weights: %s", "a.pth")
        logger.warning("try task=x")
        logger.debug("not meant")
    logger.warning("after")
    assert capsys.readouterr() == ("", "weights: a.pth\ntry --task x\n")
