"""How long agents and jobs waited until they ran, as they report it themselves.

They send it over UDP, measured by the clock that all processes of a machine share. Nothing here has
an event loop, which would come between the clock and the question.
"""

import itertools
import socket
import time
from urllib.parse import urlsplit

import msgspec

from tests.bench.muster_system import MeasuredSystem, body


class Reports:
    """Receives how long each agent or job waited."""

    def __enter__(self) -> "Reports":
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.port: int = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def received(self) -> int:
        """How many have come by now."""
        self._socket.setblocking(False)
        for count in itertools.count():
            try:
                self._socket.recv(64)
            except BlockingIOError:
                return count
        raise AssertionError("it counts for ever")

    def next_ms(self) -> float:
        return int(self._socket.recv(64)) / 1e6


class Requests:
    """One connection to the gateway, without an event loop between it and the clock."""

    def __init__(self, system: MeasuredSystem) -> None:
        self._address = urlsplit(system.url)

    def __enter__(self) -> "Requests":
        assert self._address.hostname is not None
        self._socket = socket.create_connection((self._address.hostname, self._address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def spawn(self, port: int, **more: object) -> None:
        """Ask for an agent that reports to a port when it runs."""
        asked = {"asked_ns": time.monotonic_ns(), "port": port, **more}
        content = msgspec.json.encode(body("reports", input=asked))
        head = (
            f"POST /api/v1/agents/spawn HTTP/1.1\r\nHost: {self._address.netloc}\r\n"
            "Content-Type: application/json\r\nPrefer: respond-async\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + content)
        answer = self._socket.recv(65536)
        assert answer.startswith(b"HTTP/1.1 202"), answer
