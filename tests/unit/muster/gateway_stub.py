"""A gateway with answers by the test, and the requests that reached it."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

AGENT = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
OTHER = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3f"
ERROR = {"type": "ValueError", "message": "no\nluck", "traceback": "Traceback\nValueError: no"}
API = "/api/v1/agents"


def agent(agent_id: str = AGENT, **fields: Any) -> dict[str, Any]:
    """An agent's row."""
    known = {"pool_name": "night", "role_type": "developer", "project_id": "demo", "incarnation": 1}
    return {"agent_id": agent_id, "status": "running", "created_at": 1, **known, **fields}


POOL = {
    "pool_name": "night",
    "role_type": "developer",
    "status": "active",
    "process_count": 2,
    "total_capacity": 20,
    "used_capacity": 15,
    "agent_count": 15,
    "utilization": 0.75,
    "config": {"max_workers": 4, "lease_seconds": 10.0},
}


def problem(status: int, detail: str, **fields: Any) -> dict[str, Any]:
    return {"type": "x", "title": "t", "status": status, "detail": detail, **fields}


class Request:
    """A request as it reached the gateway."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.method, self.path, self.headers = handler.command, parts.path, handler.headers
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(handler.headers.get("Content-Length") or 0)
        self.body = json.loads(handler.rfile.read(length)) if length else None

    @property
    def call(self) -> str:
        return f"{self.method} {self.path.removeprefix(API)}"


class GatewayStub:
    """A gateway: `answers` by call are a body, (status, body) or a function of the request."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"GET /pools/night": POOL}
        self.headers: dict[str, str] = {}
        """Headers of every answer."""
        self.requests: list[Request] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                request = Request(self)
                stub.requests.append(request)
                status, body = stub.answer(request)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in stub.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  (the standard library's names)

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 64  # as many calls may come at once

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: Request) -> tuple[int, Any]:
        found = self.answers.get(request.call, (404, problem(404, "there is nothing here")))
        found = found(request) if callable(found) else found
        return found if isinstance(found, tuple) else (200, found)
