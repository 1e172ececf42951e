"""Why Redis cannot be used, and whether waiting may cure it, by what is really at its address."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventstore.connection import clients
from eventstore.connection.clients import Client
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import LogUnreachable, MusterError, ServerUnsuitable
from gateway.wire.limiter import stop_accepting
from muster.fallback import standby
from tests.certificates import Certificates
from tests.conftest import MakeServer
from tests.process import free_port
from tests.servers import RedisServer


async def refusal(url: str) -> MusterError | None:
    """None where the server answers."""
    async with Client(url) as client:
        try:
            await inspect(client)
        except MusterError as error:
            return error
    return None


@contextlib.asynccontextmanager
async def answering(text: bytes) -> AsyncIterator[int]:
    """A server of another kind, which answers all in the same way, at this port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.write(text)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    await stop_accepting(server)


async def require_unsuitable(url: str, why: str) -> None:
    """Waiting does not help."""
    error = await refusal(url)
    assert isinstance(error, ServerUnsuitable), error
    assert why in str(error)


async def test_tls_that_does_not_fit_is_refused_in_words(
    redis_server: MakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "ATTEMPT_SECONDS", 20.0)
    made, port = Certificates(tmp_path), free_port()
    server = redis_server(RedisServer, options=made.options(port))
    tls, trusted = f"rediss://localhost:{port}", f"ssl_ca_certs={made.authority}"
    assert await refusal(f"{tls}?{trusted}") is None
    silent = f"rediss://localhost:{server.port}"
    await require_unsuitable(tls, "its certificate is not accepted")
    await require_unsuitable(f"rediss://127.0.0.1:{port}?{trusted}", "not valid for '127.0.0.1'")
    await require_unsuitable(f"{tls}?ssl_ca_certs=/no.pem", "ssl_ca_certs: /no.pem does not exist")
    await require_unsuitable(f"{tls}?ssl_ca_certs={tmp_path}", "is a folder")
    await require_unsuitable(f"{tls}?ssl_ca_certs={made.key}", "no certificate")
    await require_unsuitable(f"{tls}?{trusted}&ssl_certfile=/no", "ssl_certfile: /no does not")
    await require_unsuitable(f"redis://localhost:{port}", "expects TLS: use rediss://")
    for mistake in (tls, f"redis://localhost:{port}"):
        assert await standby.unreachable_reason(mistake, timeout_seconds=0) == ""
    monkeypatch.setattr(clients, "SOCKET_SECONDS", 0.3)  # all of it passes
    await require_unsuitable(silent, "no TLS at this port")
    assert await standby.unreachable_reason(silent, timeout_seconds=0) == ""


async def test_a_client_without_the_certificate_that_a_server_wants_is_refused(
    redis_server: MakeServer, tmp_path: Path
) -> None:
    made, port = Certificates(tmp_path), free_port()
    redis_server(RedisServer, options=made.options(port, clients="yes"))
    url = f"rediss://localhost:{port}?ssl_ca_certs={made.authority}"
    await require_unsuitable(url, "a certificate of the client: ssl_certfile")


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "it speaks HTTP"), (b"N", "it speaks PostgreSQL")],
)
async def test_another_program_at_the_port_is_named(answer: bytes, why: str) -> None:
    async with answering(answer) as port:
        for scheme in ("redis", "rediss"):
            error = await refusal(f"{scheme}://127.0.0.1:{port}")
            assert isinstance(error, ServerUnsuitable)
        await require_unsuitable(f"redis://127.0.0.1:{port}", why)


async def test_what_is_no_socket_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    await require_unsuitable(f"unix://{file}", "is no socket")
    await require_unsuitable(f"unix://{tmp_path}", "is no socket")


async def test_a_cluster_is_refused(redis_server: MakeServer) -> None:
    bus = str(free_port())  # else it is the other one plus 10,000: one that anyone may have
    server = redis_server(options={"cluster-enabled": "yes", "cluster-port": bus})
    async with Client(server.url) as client:
        info = await inspect(client)
    with pytest.raises(ServerUnsuitable, match="cluster-enabled yes"):
        require_suitable(info)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://no.invalid", "'no.invalid' does not resolve"),
        ("redis://127.0.0.1:{port}", "connection refused"),
        ("unix:///no/socket", "no such file"),
    ],
)
async def test_what_may_still_come_is_waited_for(url: str, why: str) -> None:
    error = await refusal(url.format(port=free_port()))
    assert isinstance(error, LogUnreachable)
    assert why in str(error)


async def test_a_server_that_closes_connections_is_waited_for() -> None:
    """As one does that ends; nothing says that it is another program."""
    async with answering(b"") as port:
        assert isinstance(await refusal(f"redis://127.0.0.1:{port}"), LogUnreachable)
