"""A web server on this machine that serves some bytes, well or badly, as a test tells it to."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and how.

    Attributes:
        address: "http://127.0.0.1:PORT".
        files: path -> content.
        ranges: whether parts are served.
        etag: of every file.
        ignores_etag: serve a part whatever the version that was asked for.
        breaks: for each answer to come, the bytes after which the connection closes; None for all.
        statuses: for each answer to come, what it is instead of the file.
        content_range: said instead of what is sent.
        without_length: close the connection at the end instead of saying where that is.
        pause: seconds before each answer's content.
        requests: the headers of each request so far, with its path under "path".
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str = ""
    ignores_etag: bool = False
    breaks: deque[int | None] = field(default_factory=deque)
    statuses: deque[int] = field(default_factory=deque)
    content_range: str = ""
    without_length: bool = False
    pause: float = 0.0
    requests: list[dict[str, str]] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [request["path"] for request in self.requests]


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    server = FileServer(files=files)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self):  # the name that http.server calls
            server.requests.append({"path": self.path, **dict(self.headers)})
            if server.statuses:
                return self.answer(server.statuses.popleft(), b"sorry")
            if self.path not in server.files:
                return self.answer(404, b"")
            content = server.files[self.path]
            asked = self.headers["Range"]
            same = server.ignores_etag or self.headers["If-Range"] in (None, server.etag)
            if not (server.ranges and asked and same):
                return self.answer(200, content)
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.answer(416, b"", f"bytes */{len(content)}")
            last = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], server.content_range or last)

        def answer(self, status: int, content: bytes, content_range: str = "") -> None:
            self.send_response(status)
            if not server.without_length:
                self.send_header("Content-Length", str(len(content)))
            if content_range:
                self.send_header("Content-Range", content_range)
            if server.etag:
                self.send_header("ETag", server.etag)
            self.end_headers()
            stop = server.breaks.popleft() if server.breaks else None
            if server.pause:
                threading.Event().wait(server.pause)
            with suppress(ConnectionError):  # the other side may have had enough
                self.wfile.write(content[:stop])

        def log_message(self, *args):
            pass

    return Handler
