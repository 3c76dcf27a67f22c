"""Something that answers like a head's dashboard, and remembers what it was asked."""

from __future__ import annotations

import json
import platform
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "canary-token-77aa01"


class Dashboard:
    """Answers like a head's dashboard, or like something else, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, token
        self.ray, self.python = ray.__version__, platform.python_version()
        self.locked, self.elsewhere = True, ""
        self.out_of_order = 0  # the HTTP status that it answers everything with
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, token: str | None) -> tuple[int, object]:
        if self.out_of_order:
            return self.out_of_order, "no"
        if self.elsewhere:
            return 307, None
        if self.locked and token is None:
            return 401, "Unauthorized"
        if self.locked and token != f"Bearer {TOKEN}":
            return 403, "Forbidden"
        answers: dict[str, object] = {
            "/api/jobs/": [],
            "/api/version": {"ray_version": self.ray},
            "/api/v0/cluster_metadata": {"data": {"pythonVersion": self.python}},
        }
        return (200, answers[path]) if path in answers else (404, "no")


@contextmanager
def served(dashboard: Dashboard) -> Iterator[Dashboard]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization")
            dashboard.asked.append((self.command, self.path, token))
            status, body = dashboard.answer(self.path, token)
            content = json.dumps(body).encode()
            self.send_response(status)
            if dashboard.elsewhere:
                self.send_header("Location", dashboard.elsewhere)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET  # noqa: N815  # the names that the server calls

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    dashboard.port = server.server_address[1]
    try:
        yield dashboard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
