"""Downloads from a server on this machine: whole ones, broken ones, and what is said of them."""

import errno
import io
import logging
import resource
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from file_server import serving

from resshift_jax.weights import fetch as module
from resshift_jax.weights.fetch import FetchError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
fetch = partial(module.fetch, timeout=5, pause=0.01)


@pytest.fixture
def server():
    with serving({"/model.pth": CONTENT}) as server:
        yield server


@pytest.fixture
def url(server):
    return f"{server.address}/model.pth"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "model.pth"


@pytest.fixture
def part(target):
    """Where what has come so far stays."""
    target.parent.mkdir()
    return target.parent / "model.pth.part"


def assert_whole(target, content=CONTENT):
    assert target.read_bytes() == content
    assert [p.name for p in target.parent.iterdir()] == [target.name]  # and nothing else


def ranges(server):
    return [request.get("Range") for request in server.requests]


def message(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_comes_whole_with_one_line(server, url, target, capsys, caplog):
    with caplog.at_level(logging.INFO, "resshift_jax"):
        fetch(url, target)
    assert_whole(target)
    assert caplog.messages == [f"fetching {url}"]
    assert capsys.readouterr() == ("", "")
    assert len(server.requests) == 1


def test_a_terminal_sees_a_bar(url, target, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    fetch(url, target)
    assert "model.pth" in screen.getvalue()
    assert "2.9/2.9 MiB" in screen.getvalue()


def test_what_is_there_is_left_as_it_is(server, url, part, target, caplog):
    target.write_bytes(b"mine")
    with caplog.at_level(logging.INFO, "resshift_jax"):
        fetch(url, target)
    assert_whole(target, b"mine")
    assert server.requests == []
    assert caplog.messages == []


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_download_that_breaks_off_goes_on_by_itself(server, url, target, with_ranges):
    server.ranges, server.breaks = with_ranges, deque([1_000_000])
    fetch(url, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=1000000-"]


def test_what_breaks_off_again_and_again_goes_on_too(server, url, target):
    server.breaks = deque([1000] * 4)
    fetch(url, target)
    assert_whole(target)
    assert ranges(server)[1:] == [f"bytes={1000 * i}-" for i in range(1, 5)]


def test_what_always_breaks_off_is_kept_for_the_next_run(server, url, part, target):
    server.breaks = deque([1 << 20, 1 << 19])
    with pytest.raises(FetchError) as caught:
        fetch(url, target, tries=2)
    for words in ("model.pth: ", url, "broke off at 1.5 of 2.9 MiB", "run again to go on"):
        assert words in message(caught)
    assert not target.exists()
    assert part.read_bytes() == CONTENT[: 3 << 19]

    fetch(url, target)
    assert_whole(target)
    assert ranges(server)[-1] == f"bytes={3 << 19}-"


def test_an_interrupt_keeps_what_came(server, url, part, target, monkeypatch):
    read = module._read

    def interrupted(response):
        if part.exists() and part.stat().st_size:
            raise KeyboardInterrupt
        return read(response)

    monkeypatch.setattr(module, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(url, target)
    came = part.stat().st_size
    assert 0 < came < len(CONTENT)
    monkeypatch.undo()
    fetch(url, target)
    assert_whole(target)
    assert ranges(server) == [None, f"bytes={came}-"]


def test_a_part_that_is_complete_is_finished(server, url, part, target):
    part.write_bytes(CONTENT)
    fetch(url, target)
    assert_whole(target)
    assert ranges(server) == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_too_long_is_begun_anew(server, url, part, target):
    part.write_bytes(CONTENT + b"more")
    fetch(url, target)
    assert_whole(target)
    assert ranges(server) == [f"bytes={len(CONTENT) + 4}-", None]


@pytest.mark.parametrize("said", ["bytes 0-2999999/3000000", "bytes 7-2999999/3000000", "none"])
def test_an_answer_with_another_part_is_not_glued_on(server, url, part, target, said):
    part.write_bytes(CONTENT[:1000])
    server.content_range = said
    fetch(url, target)
    assert_whole(target)
    assert ranges(server) == ["bytes=1000-", None]


def test_a_part_of_another_version_is_not_gone_on_with(server, url, target):
    server.etag, server.breaks = '"old"', deque([1000])
    with pytest.raises(FetchError):
        fetch(url, target, tries=1)
    server.etag, server.files["/model.pth"] = '"new"', CONTENT[::-1]
    fetch(url, target)
    assert_whole(target, CONTENT[::-1])
    assert server.requests[-1]["If-Range"] == '"old"'


def test_a_server_that_sends_another_version_all_the_same(server, url, target):
    server.etag, server.breaks = '"old"', deque([1000])
    with pytest.raises(FetchError):
        fetch(url, target, tries=1)
    server.etag, server.files["/model.pth"] = '"new"', CONTENT[::-1]
    server.ignores_etag = True
    fetch(url, target)
    assert_whole(target, CONTENT[::-1])
    assert ranges(server) == [None, "bytes=1000-", None]


def test_the_same_version_is_gone_on_with(server, url, target):
    server.etag, server.breaks = '"one"', deque([1000])
    fetch(url, target)
    assert_whole(target)
    assert [r.get("If-Range") for r in server.requests] == [None, '"one"']


def test_a_weak_version_is_not_asked_for(server, url, target):
    server.etag, server.breaks = 'W/"one"', deque([1000])
    fetch(url, target)
    assert_whole(target)
    assert "If-Range" not in server.requests[1]


def test_a_file_of_unknown_length(server, url, target):
    server.without_length = True
    fetch(url, target)
    assert_whole(target)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(server, url, target, status):
    server.statuses = deque([status, status])
    fetch(url, target)
    assert_whole(target)
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_named(server, url, target):
    server.statuses = deque([503] * 9)
    with pytest.raises(FetchError, match="503 Service Unavailable") as caught:
        fetch(url, target, tries=3)
    assert url in message(caught)
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden")])
def test_what_is_not_there_is_asked_for_once(server, url, target, status, reason):
    server.statuses = deque([status] * 9)
    with pytest.raises(FetchError) as caught:
        fetch(url, target)
    assert message(caught) == f"model.pth: {url} answers {status} {reason}"
    assert len(server.requests) == 1
    assert list(target.parent.iterdir()) == []


def test_a_server_that_is_not_there(target):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/model.pth"
        with pytest.raises(FetchError) as caught:
            fetch(url, target, pause=60)  # and does not wait for it
    assert f"model.pth: {url} is not reachable (" in message(caught)
    assert "refused" in message(caught)


def test_a_server_that_falls_silent(server, url, target):
    server.pause = 3
    with pytest.raises(FetchError, match="timed out"):
        fetch(url, target, timeout=0.2, tries=2)
    assert len(server.requests) == 2


def test_a_damaged_file_is_removed(server, url, target):
    def check(path):
        assert path.read_bytes() == CONTENT
        assert not target.exists()
        raise ValueError("it is\nno model")

    with pytest.raises(FetchError) as caught:
        fetch(url, target, check=check)
    for words in ("model.pth", url, "damaged (it is no model)", "removed", "run again"):
        assert words in message(caught)
    assert list(target.parent.iterdir()) == []


def test_two_at_once_fetch_once(server, url, target, caplog):
    server.pause = 0.3
    start = threading.Barrier(4)

    def one(_):
        start.wait()
        fetch(url, target)
        return target.read_bytes() == CONTENT

    with caplog.at_level(logging.INFO, "resshift_jax"), ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(4)))
    assert len(server.requests) == 1
    assert_whole(target)
    assert "held by another process, waiting" in caplog.text


def test_the_next_one_goes_on_where_the_first_fails(server, url, target):
    server.pause, server.breaks = 0.3, deque([1000, None])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, url, target, tries=1)
        while not server.requests:
            time.sleep(0.01)
        second = pool.submit(fetch, url, target, tries=1)
        with pytest.raises(FetchError):
            first.result()
        second.result()
    assert_whole(target)
    assert ranges(server) == [None, "bytes=1000-"]


def test_a_lock_that_its_last_holder_took_away_is_taken_anew(tmp_path, monkeypatch):
    path, lock, tries = tmp_path / "lock", module._lock, []

    def late(file):
        if not tries:
            path.unlink()
        tries.append(file)
        return lock(file)

    monkeypatch.setattr(module, "_lock", late)
    with module._locked(path):
        assert path.exists()
    assert len(tries) == 2
    assert not path.exists()


def test_a_file_system_without_locks(url, target, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", none)
    fetch(url, target)
    assert_whole(target)


def test_a_disk_that_is_full_is_named_and_gone_on_with(server, url, part, target):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match=r"written after 1\.0 MiB, File too large") as e:
            fetch(url, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message(e).startswith(f"{part}: ")
    assert not isinstance(e.value, FetchError)
    assert len(server.requests) == 1
    fetch(url, target)
    assert_whole(target)


def test_a_folder_that_cannot_be_is_named(url, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=f"^{tmp_path}/cache: cannot be written, File exists"):
        fetch(url, tmp_path / "cache" / "model.pth")
