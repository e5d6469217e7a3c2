"""What a run shows, on a terminal and elsewhere."""

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from resshift_jax.cli.progress import Report
from resshift_jax.console import show
from resshift_jax.image_io.folders import File
from resshift_jax.inference.files import Outcome


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Called within a test, as pytest sets the streams anew before it."""

    def terminal():
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(sys, "stdout", screen)
        return screen

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


def plain(screen):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())


def done(name, *notices):
    return Outcome(File(Path(name), Path("out") / name), ((5, 7), (10, 14)), None, notices)


def failed(name):
    return Outcome(File(Path(name), Path("out") / name), error=f"{name}: spoilt")


def programs(count=0, found=0):
    return SimpleNamespace(count=count, found=found, seconds=2.5)


def test_a_terminal_has_a_bar_below_the_lines(terminal):
    screen = terminal()
    with Report(3, Path("out")) as report:
        report.announce("compiling [red] for 1 tile")
        report._bar.refresh()
        report.announce("")
        long = "x" * 150
        for name in ("[red]a[b].png", f"{long}.png"):
            for _ in range(4):
                report.advance(0.25)
            report(done(name))
        report.advance(1)
        report(failed(":smile:[/b].png"))
    lines = [line.strip() for line in plain(screen).replace("\r", "\n").splitlines()]
    assert "[red]a[b].png -> out/[red]a[b].png  5x7 -> 10x14" in lines
    assert f"{long}.png -> out/{long}.png  5x7 -> 10x14" in lines  # for copying, on one line
    assert "error: :smile:[/b].png: spoilt" in lines
    assert any(line.startswith("compiling [red] for 1 tile") for line in lines)
    assert re.search(r"━ 3/3 .*images?/?s?.* 0:00:00 left$", lines[-1])


def test_the_bar_counts_what_is_done_with_and_never_goes_back(terminal):
    terminal()
    with Report(4, Path("out")) as report:
        (task,) = report._bar.tasks
        seen = []

        def see():
            seen.append((round(task.completed, 6), task.fields["done"]))

        for _ in range(4):
            report.advance(0.5)
            see()
        report(done("a.png"))  # the two are written by and by
        see()
        report(failed("b.png"))
        see()
        report(failed("c.png"))  # given up without a share
        see()
        report.advance(1)
        report(done("d.png"))
        see()
    assert seen == [(0.5, 0), (1, 0), (1.5, 0), (2, 0), (2, 1), (2, 2), (3, 3), (4, 4)]


def test_lines_for_a_file_are_not_drawn_into_the_bar(terminal, monkeypatch):
    screen = terminal()
    log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    with Report(1, Path("out")) as report:
        report(done("a.png"))
        print("from elsewhere")
    assert log.getvalue() == "a.png -> out/a.png  5x7 -> 10x14\nfrom elsewhere\n"
    assert "a.png" not in screen.getvalue()


def test_elsewhere_there_is_no_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Report(2, Path("out")) as report:
        report.announce("compiling")
        report.advance(1)
        report(done("[b]a.png", "8 bits", "no alpha"))
        report(done("b.png", "8 bits"))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "[b]a.png -> out/[b]a.png  5x7 -> 10x14",
        "b.png -> out/b.png  5x7 -> 10x14",
    ]
    assert printed.err.splitlines() == [
        "note: [b]a.png: 8 bits (said once)",
        "note: [b]a.png: no alpha (said once)",
    ]


def test_the_summary(capsys):
    report = Report(105, Path("out"), skipped=7, name="process 2 of 3")
    report(done("a.png"))
    for i in range(103):
        report(failed(f"{i}.png"))
    lines = report.summary(programs(count=3, found=2), interrupted=True).splitlines()
    assert re.fullmatch(r"process 2 of 3: 1 of 105 images restored to out in \d+\.\d s", lines[0])
    assert lines[1:6] == [
        "  of which 2.5 s for compiling 1 program and loading 2 programs of an earlier run, one "
        "for each shape of tiles",
        "  7 more left as they are, their results are there",
        "  103 failed:",
        "    0.png: spoilt",
        "    1.png: spoilt",
    ]
    assert lines[103:] == [
        "    99.png: spoilt",
        "    and 3 more, named above",
        "  interrupted: the same command with --skip-existing goes on",
    ]


def test_the_summary_of_one_image_does_not_repeat_what_was_just_said(capsys):
    report = Report(1, Path("out"))
    report(failed("a.png"))
    assert report.summary(programs()).splitlines()[1:] == ["  1 failed"]


def test_what_a_stream_cannot_show_is_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show("naïve\n\x1b[31m\udcff", stream)
    assert stream.buffer.getvalue() == b"na\\xefve\n\\x1b[31m\\udcff\n"


def test_a_log_that_is_full_stops_nothing():
    with open("/dev/full", "w") as full:
        for _ in range(3):
            show("line", full)


def test_what_is_said_of_a_file_names_flags_but_not_in_its_name(capsys):
    flags = {"seed": "--seed", "chop_size": "--chop_size"}
    report = Report(1, Path("out"), flags=flags)
    file = File(Path("seed=3.png"), Path("out/seed=3.png"))
    report(Outcome(file, error="seed=3.png: out of memory, try chop_size=64"))
    assert capsys.readouterr().err == "error: seed=3.png: out of memory, try --chop_size 64\n"
