"""The client of a thread, at a server that answers in pieces, late, or not at all."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from eventstore.connection.address import Address
from eventstore.connection.clients import open_sockets
from eventstore.connection.reply_parser import packed
from eventstore.connection.thread_client import ThreadClient
from eventstore.redis_errors import (
    AuthenticationError,
    InvalidResponse,
    NoScriptError,
    ReadOnlyError,
    RedisConnectionError,
    RedisError,
    RedisTimeoutError,
)

GREETED = b"+OK\r\n+OK\r\n"
REPLY = b"*2\r\n$1\r\nx\r\n:7\r\n"
LOST = b""
Serve: TypeAlias = Callable[[list[bytes]], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give each connection these pieces, and then wait for its end, or lose it."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen()

    def answer(pieces: list[bytes]) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                while pieces[-1] != LOST and connection.recv(65536):
                    pass

    def start(pieces: list[bytes]) -> str:
        threading.Thread(target=answer, args=(pieces,), daemon=True).start()
        return f"unix://{tmp_path / 's'}"

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def ask(url: str) -> Any:
    client = ThreadClient(url, timeout_seconds=1)
    try:
        return client.call("EVALSHA", "digest", 0)
    finally:
        client.close()


def test_a_reply_may_come_byte_by_byte(serve: Serve) -> None:
    assert ask(serve([bytes([one]) for one in GREETED + REPLY])) == [b"x", 7]


def test_a_connection_may_be_lost_at_every_byte(serve: Serve) -> None:
    pieces: list[bytes] = []
    url = serve(pieces)
    for length in range(len(GREETED + REPLY)):
        pieces[:] = [(GREETED + REPLY)[:length], LOST]
        with pytest.raises(RedisConnectionError):
            ask(url)
        assert -1 not in open_sockets()


def test_a_connection_may_be_lost_at_every_byte_of_the_request(tmp_path: Path) -> None:
    """The server has read so many, and no more."""
    length, lost = 0, threading.Event()

    def read_some(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    assert len(connection.recv(length, socket.MSG_WAITALL)) == length
                lost.set()

    greeting = packed(Address("redis://h").greeting())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        threading.Thread(target=read_some, args=(listening,), daemon=True).start()
        for length in range(len(greeting)):  # noqa: B007  # the thread reads it
            lost.clear()
            with pytest.raises(RedisConnectionError):
                ask(f"unix://{tmp_path / 's'}")
            assert lost.wait(5)
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("reply", "error", "stays"),
    [
        (b"-NOSCRIPT none\r\n", NoScriptError, True),
        (b"-READONLY a replica\r\n", ReadOnlyError, False),
        (b"HTTP/1.1 400 Bad Request\r\n", InvalidResponse, False),
    ],
)
def test_a_refusal_is_raised(
    serve: Serve, reply: bytes, error: type[RedisError], stays: bool
) -> None:
    client = ThreadClient(serve([GREETED + reply]), timeout_seconds=1)
    with pytest.raises(error):
        client.call("PING")
    assert (client.fileno() != -1) == stays
    client.close()


def test_a_refused_login_is_raised_and_one_for_our_name_is_not(serve: Serve) -> None:
    pieces = [b"-WRONGPASS no\r\n", GREETED, LOST]
    url = serve(pieces)
    with pytest.raises(AuthenticationError):
        ask(f"{url}?password=x")
    pieces[:] = [b"+OK\r\n-ERR unknown\r\n-ERR unknown\r\n", REPLY]
    assert ask(f"{url}?password=x") == [b"x", 7]


def test_a_server_that_does_not_answer_in_time_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        client = ThreadClient(f"unix://{tmp_path / 's'}", timeout_seconds=0.05)
        with pytest.raises(RedisTimeoutError):
            client.call("PING")
        assert client.fileno() == -1
    with pytest.raises(RedisConnectionError, match="Error connecting to"):
        client.call("PING")


def test_the_certificate_of_a_server_is_checked_unless_the_address_says_otherwise() -> None:
    assert Address("redis://h").tls_context() is None
    for query, verified, named in (
        ("", ssl.CERT_REQUIRED, True),
        ("?ssl_check_hostname=no", ssl.CERT_REQUIRED, False),
        ("?ssl_cert_reqs=optional", ssl.CERT_OPTIONAL, True),
        ("?ssl_cert_reqs=none", ssl.CERT_NONE, False),
    ):
        context = Address(f"rediss://h{query}").tls_context()
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (verified, named)
    with pytest.raises(OSError, match="No such file"):
        Address("rediss://h?ssl_ca_certs=/nowhere").tls_context()
