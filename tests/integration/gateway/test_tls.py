"""A gateway that speaks TLS itself: its certificate, a later one, and connections that fail."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from eventstore.errors import ConfigurationError
from gateway.server.certificate import Certificate
from gateway.server.listener import Gateway
from tests.certificates import Certificates
from tests.integration.gateway.stage import AGENTS, QUICK, GatewayStage, gateway_stage, options
from tests.waiting import until


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("renewed"))


@asynccontextmanager
async def secure_stage(
    redis_url: str, folder: Path, files: Certificates, **changes: Any
) -> AsyncIterator[tuple[GatewayStage, Certificates]]:
    """A gateway with copies of these files; `session` asks it over TLS."""
    own = object.__new__(Certificates)
    own.certificate, own.key = folder / "cert.pem", folder / "key.pem"
    install(own, files)
    named = {"tls_cert": str(own.certificate), "tls_key": str(own.key), **changes}
    async with gateway_stage(redis_url, f"sqlite:///{folder / 'v.db'}", **named) as stage:
        await stage.session.close()
        stage.session = session(stage, files)
        yield stage, own


def install(own: Certificates, files: Certificates) -> None:
    """Replace the files as a renewal does, one after the other."""
    for source, target in ((files.certificate, own.certificate), (files.key, own.key)):
        shutil.copy(source, target.with_suffix(".new"))
        target.with_suffix(".new").rename(target)


def session(stage: GatewayStage, files: Certificates) -> aiohttp.ClientSession:
    trusted = ssl.create_default_context(cafile=str(files.authority))
    url = stage.gateway.url.replace("127.0.0.1", "localhost")
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=trusted))


async def test_a_gateway_serves_https_with_its_certificate(redis_url, tmp_path, files):
    async with secure_stage(redis_url, tmp_path, files) as (stage, _):
        assert stage.gateway.url.startswith("https://127.0.0.1:")
        assert (await stage.get(AGENTS)).json == {"agents": [], "next": None}
        spawned = await stage.pending(input={"text": "x" * 60_000})
        answer = await stage.get(f"{AGENTS}/{spawned}")
        assert len(answer.json["input"]["text"]) == 60_000


async def test_a_certificate_is_read_again_when_its_files_change(
    redis_url, tmp_path, files, renewed, monkeypatch
):
    monkeypatch.setattr("gateway.server.certificate.CHECK_SECONDS", 0.05)
    async with secure_stage(redis_url, tmp_path, files) as (stage, own):
        assert (await stage.get(AGENTS)).status == 200
        install(own, renewed)
        async with session(stage, renewed) as later:

            async def trusted() -> bool:
                try:
                    async with later.get(AGENTS) as response:
                        return response.status == 200
                except aiohttp.ClientConnectorCertificateError:
                    return False

            await until(trusted)
        assert (await stage.get(AGENTS)).status == 200  # on the connection that is open


def test_files_that_do_not_fit_leave_the_certificate_in_use(tmp_path, files, renewed):
    own = object.__new__(Certificates)
    own.certificate, own.key = tmp_path / "cert.pem", tmp_path / "key.pem"
    install(own, files)
    certificate = Certificate(str(own.certificate), str(own.key))
    first = certificate._latest
    shutil.copy(renewed.certificate, own.certificate)  # its key follows later
    certificate.reload()
    assert certificate._latest is first
    shutil.copy(renewed.key, own.key)
    certificate.reload()
    assert certificate._latest is not first


async def test_what_is_no_tls_and_who_does_not_finish_a_handshake_is_cut_off_and_forgotten(
    redis_url, tmp_path, files, monkeypatch
):
    monkeypatch.setattr("gateway.wire.connections.HANDSHAKE_MARGIN_SECONDS", 0.1)
    limits = replace(QUICK, head_seconds=0.2, connections_max=3)
    async with secure_stage(redis_url, tmp_path, files, limits=limits) as (stage, _):
        address = ("127.0.0.1", int(stage.gateway.url.rpartition(":")[2]))
        for sent in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", b"\x16\x03\x01"):
            for _ in range(2):  # more than there may be connections
                reader, writer = await asyncio.open_connection(*address)
                writer.write(sent)
                await asyncio.wait_for(reader.read(), 5)
                writer.close()

        async def served() -> bool:
            try:
                return (await stage.get(AGENTS)).status == 200
            except aiohttp.ClientError:  # its handshake took too long
                return False

        await until(served)


async def test_one_connection_too_many_is_answered_over_tls_too(redis_url, tmp_path, files):
    limits = replace(QUICK, connections_max=1)
    async with secure_stage(redis_url, tmp_path, files, limits=limits) as (stage, _):
        assert (await stage.get(AGENTS)).status == 200  # it stays open
        async with session(stage, files) as other, other.get(AGENTS) as response:
            assert (response.status, response.headers["Connection"]) == (503, "close")


async def test_a_gateway_with_files_that_cannot_be_used_does_not_start(
    redis_url, tmp_path, files, renewed, subtests
):
    empty, encrypted = tmp_path / "empty.pem", files.encrypted_key(tmp_path / "encrypted.pem")
    empty.write_text("")
    cert, key = str(files.certificate), str(files.key)
    for given, expected in (
        ((str(tmp_path / "none.pem"), ""), "tls_cert: .*none.pem cannot be read: No such file"),
        ((cert, str(tmp_path / "none.key")), "tls_key: .*none.key cannot be read: No such file"),
        ((str(tmp_path), ""), "tls_cert: .* cannot be read: Is a directory"),
        ((cert, ""), "has not both a certificate and its key in PEM form"),
        ((cert, str(empty)), "empty.pem has no private key in PEM form"),
        ((cert, str(renewed.key)), "is not the key of the certificate"),
        ((cert, str(encrypted)), "is encrypted with a password; store it without one"),
        ((key, key), "no certificate"),
    ):
        with subtests.test(expected):
            database = f"sqlite:///{tmp_path / 'v.db'}"
            named = options(redis_url, database, tls_cert=given[0], tls_key=given[1])
            gateway = Gateway(named)
            with pytest.raises(ConfigurationError, match=expected):
                await gateway.start()
            await gateway.stop()


async def test_a_file_may_have_both(redis_url, tmp_path, files):
    both = tmp_path / "both.pem"
    both.write_text(files.certificate.read_text() + files.key.read_text())
    own = {"tls_cert": str(both), "tls_key": ""}
    async with secure_stage(redis_url, tmp_path, files, **own) as (stage, _):
        assert (await stage.get(AGENTS)).status == 200
