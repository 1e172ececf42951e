"""Clients that are slow, greedy, broken or hostile: each costs little, and gets the reason."""

import asyncio
import contextlib
import gc
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from gateway.fallback import FALLBACK_HEADER, Fallback
from gateway.server.middleware import SECURITY_HEADERS
from tests.integration.gateway.stage import AGENTS, QUICK, asked, gateway_stage, logged
from tests.integration.projector.stage import POOL
from tests.waiting import timed, until

SPAWN = json.dumps(asked()).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /api/v1/agents/spawn HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=0\r\n"
    b"Content-Type: application/json\r\n"
)
SECRET = b"do-not-repeat-me"


@pytest.fixture
async def stage(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as shown:
        yield shown


@asynccontextmanager
async def impatient(redis_url, tmp_path, **limits) -> AsyncIterator[tuple]:
    """A gateway with bounds of fractions of a second, and what it logs."""
    shorter = type(QUICK)(
        **{
            "catch_up_seconds": 0.2,
            "linger_seconds": 0.2,
            "stream_heartbeat_seconds": 0.05,
            **limits,
        }
    )
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(redis_url, database, limits=shorter) as shown:
        yield shown, lines


class Said(NamedTuple):
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        assert self.headers["content-type"].startswith("application/problem+json"), self
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return str(problem["type"])


class Wire:
    """A connection on which anything can be said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def answer(self) -> Said:
        """The next answer; its body by its length."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Said(int(first.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        return await asyncio.wait_for(self._reader.read(), 10)

    async def closed(self) -> bool:
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True


def speaking(stage, content: bytes) -> socket.socket:
    """A connection on which something was said before the gateway can know of it."""
    where = urlsplit(stage.gateway.url)
    client = socket.create_connection((where.hostname, where.port))
    client.sendall(content)
    client.setblocking(False)
    return client


@asynccontextmanager
async def wire(stage, sock: socket.socket | None = None) -> AsyncIterator[Wire]:
    where = urlsplit(stage.gateway.url)
    address = (where.hostname, where.port) if sock is None else (None, None)
    reader, writer = await asyncio.open_connection(*address, sock=sock)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


# ---- slow ones -------------------------------------------------------------------------------


async def test_a_head_that_dribbles_is_cut_off(redis_url, tmp_path):
    """However often a byte comes, and on a connection that was used before, too.

    What still comes then does not take the answer back.
    """
    async with (
        impatient(redis_url, tmp_path, head_seconds=0.3, linger_seconds=5.0) as (stage, _),
        wire(stage) as client,
    ):
        await client.say(GET + b"\r\n")
        assert (await client.answer()).status == 200
        for byte in (GET * 2)[:40]:
            await client.say(bytes([byte]))
            await asyncio.sleep(0.02)
        said = await client.answer()
        assert (said.status, said.kind) == (408, "head-too-slow")
        assert said.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_a_head_in_time_and_a_long_wait_are_not_mistaken_for_a_slow_one(redis_url, tmp_path):
    """The time for a head begins with its first byte and ends with its last."""
    async with (
        impatient(redis_url, tmp_path, head_seconds=0.3) as (stage, _),
        wire(stage) as client,
    ):
        waiting = POST.replace(b"wait=0", b"wait=1")
        await client.say(waiting + b"Content-Length: %d\r\n\r\n%s" % (len(SPAWN), SPAWN))
        await until(lambda: len(stage.backend.waiters) == 1)
        await client.say(GET[:10])  # the next one begins while this one waits
        assert (await client.answer()).status == 202
        await client.say(GET[10:] + b"\r\n")
        assert (await client.answer()).status == 200


async def test_a_body_that_comes_after_its_answer_is_not_mistaken_for_a_slow_head(
    redis_url, tmp_path
):
    """The connection is idle afterwards, and stays open for the next request."""
    async with (
        impatient(redis_url, tmp_path, head_seconds=0.2, linger_seconds=5.0) as (stage, _),
        wire(stage) as client,
    ):
        await client.say(GET + b"Content-Length: 4\r\n\r\n")
        assert (await client.answer()).status == 200
        for byte in b"body":
            await client.say(bytes([byte]))
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        await client.say(GET + b"\r\n")
        assert (await client.answer()).status == 200


async def test_a_connection_that_sends_nothing_is_closed_silently(redis_url, tmp_path):
    bounds = {"idle_seconds": 0.3}
    async with (
        impatient(redis_url, tmp_path, **bounds) as (stage, _),
        wire(stage) as silent,
        wire(stage, sock=speaking(stage, GET + b"\r\n")) as used,
    ):
        await used.answer()
        assert await silent.closed()
        assert await used.closed()


async def test_a_body_that_dribbles_or_never_ends_is_cut_off(redis_url, tmp_path):
    async with impatient(redis_url, tmp_path, body_seconds=0.3) as (stage, _):
        for framing in (
            b"Content-Length: 100\r\n\r\n{",
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ):
            async with wire(stage) as client:
                await client.say(POST + framing)
                said = await client.answer()
                assert (said.status, said.kind) == (408, "body-too-slow")
                assert await client.closed()


async def test_a_client_that_does_not_read_its_answer_is_cut_off(redis_url, tmp_path):
    """A stream and a long answer alike: what waits to be sent does not wait for ever."""
    bounds = {"unread_seconds": 0.3, "stream_queue": 100_000}
    async with impatient(redis_url, tmp_path, **bounds) as (stage, lines):
        await spawned(stage, 40)
        before = connections(stage)
        for path in (b"/api/v1/events?after=0", b"/api/v1/agents?limit=1000"):
            with deaf(stage) as client:
                for _ in range(8):
                    client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda: connections(stage) > before)
                await until(lambda: connections(stage) == before)
        await until(lambda: len(stage.backend.subscriptions) == 0)
        assert (await stage.get("/healthz")).status == 200
    assert {line["log_level"] for line in lines} <= {"debug", "info"}


async def spawned(stage, count: int) -> None:
    """Agents whose rows are long."""
    for _ in range(count):
        await stage.pending(input={"x": "y" * 60_000})
    await stage.stage.settle()


def deaf(stage, buffer: int = 1_024) -> socket.socket:
    """A client that takes next to nothing of what is sent to it."""
    where = urlsplit(stage.gateway.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect((where.hostname, where.port))
    return client


def connections(stage) -> int:
    return stage.gateway._runner.server.connections.__len__()


async def test_a_client_that_reads_slowly_is_served_to_the_end(redis_url, tmp_path):
    async with impatient(redis_url, tmp_path, unread_seconds=0.3) as (stage, _):
        await spawned(stage, 40)
        with deaf(stage) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(
                client,
                b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            )
            got, started = 0, time.monotonic()
            while piece := await loop.sock_recv(client, 65_536):
                got += len(piece)
                if time.monotonic() - started < 1.0:  # longer than one who reads nothing has
                    await asyncio.sleep(0.02)
            assert got > 2_400_000


# ---- too much --------------------------------------------------------------------------------

TOO_MUCH = {
    "a body that is announced": POST + b"Content-Length: 9999999999\r\n\r\n",
    "a body in one chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n40000\r\n" + b" " * 0x40000,
    "chunks without end": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"4\r\n    \r\n" * 50_000,
}


@pytest.mark.parametrize("request_", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_body_too_large_is_refused_at_once(stage, request_):
    """Not only when all of it has come, or when its time is over."""
    async with wire(stage) as client:
        saying = asyncio.ensure_future(client.say(request_))
        started = time.monotonic()
        said = await client.answer()
        assert (said.status, said.kind) == (413, "body-too-large")
        assert time.monotonic() - started < QUICK.body_seconds / 2
        saying.cancel()


async def test_nothing_is_decompressed(stage):
    """Ten megabytes in ten kilobytes stay ten kilobytes."""
    bomb = gzip.compress(b'{"input": "' + b"0" * 10_000_000)
    for coding in (b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"x-unheard-of"):
        async with wire(stage) as client:
            head = POST + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (
                coding,
                len(bomb),
            )
            await client.say(head + bomb)
            said = await client.answer()
            assert (said.status, said.kind) == (415, "unsupported-media-type")
            assert said.headers["accept-encoding"] == "identity"


HEADS = {
    "an address": GET.replace(b"/healthz", b"/" + b"x" * 9_000) + b"\r\n",
    "a header": GET + b"X: " + b"x" * 9_000 + b"\r\n\r\n",
    "a header's name": GET + b"x" * 9_000 + b": x\r\n\r\n",
    "a header without end": GET + b"X: " + b"x" * 1_000_000,
}


async def test_a_head_too_large_is_refused(stage, subtests):
    for name, request in HEADS.items():
        with subtests.test(name):
            async with wire(stage) as client:
                await client.say(request)
                said = await client.answer()
                assert (said.status, said.kind) == (431, "head-too-large")


async def test_pipelined_requests_are_answered_in_their_order(stage):
    """Two hundred at once, far more than are read ahead; then one that breaks the line."""
    async with wire(stage) as client:
        ids = [b"n-%d" % n for n in range(200)]
        heads = b"".join(GET + b"X-Request-Id: " + each + b"\r\n\r\n" for each in ids)
        saying = asyncio.ensure_future(client.say(heads))
        answers = [await client.answer() for _ in ids]
        await saying
        assert [said.headers["x-request-id"].encode() for said in answers] == ids
        await client.say(b"NONSENSE\r\n\r\n")
        assert (await client.answer()).kind == "malformed-http"
        assert await client.closed()


async def test_a_thousand_idle_connections_shut_out_no_client(stage):
    """And when they go their places are free again."""
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(1_000):
            await opened.enter_async_context(wire(stage))
        for asking, status in (
            (stage.get("/healthz"), 200),
            (stage.spawn(prefer="respond-async"), 202),
        ):
            seconds, answer = await timed(asking)
            assert (answer.status, seconds < 0.5) == (status, True)
        assert connections(stage) >= 1_000
    await until(lambda: connections(stage) <= 1)


async def test_a_connection_too_many_gets_the_reason(redis_url, tmp_path):
    """Logged once; a connection that is free again is used again."""
    async with impatient(redis_url, tmp_path, connections_max=5) as (stage, lines):
        async with contextlib.AsyncExitStack() as opened:
            for _ in range(5):
                client = await opened.enter_async_context(wire(stage))
                await client.say(GET + b"\r\n")
                assert (await client.answer()).status == 200
            for _ in range(3):
                async with wire(stage) as one_more:
                    said = await one_more.answer()
                    assert (said.status, said.kind) == (503, "too-many-connections")
                    assert said.headers["retry-after"] == "5"
                    wanted = {name.lower(): value for name, value in SECURITY_HEADERS.items()}
                    assert said.headers.items() >= wanted.items()
                    assert await one_more.closed()
        await until(lambda: stage.gateway._runner.server.connections == [])
        assert (await stage.get("/healthz")).status == 200
    assert [line["event"] for line in lines].count("gateway.full") == 1


async def test_of_many_connections_at_once_no_more_are_let_in(redis_url, tmp_path):
    async with impatient(redis_url, tmp_path, connections_max=5) as (stage, _):
        async with contextlib.AsyncExitStack() as opened:
            comings = [opened.enter_async_context(wire(stage)) for _ in range(50)]
            clients = await asyncio.gather(*comings)
            await asyncio.gather(*(client.say(GET + b"\r\n") for client in clients))
            said = await asyncio.gather(*(client.answer() for client in clients))
        assert sorted(one.status for one in said) == [200] * 5 + [503] * 45


# ---- what is no HTTP -------------------------------------------------------------------------

LENGTH = b"Content-Length: %d\r\n" % len(SPAWN)
BROKEN = {
    "a length and chunks": POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + SPAWN,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + SPAWN,
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\n" + SPAWN,
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + SPAWN,
    "lengths with a comma": POST + b"Content-Length: 5, 5\r\n\r\n12345",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a signed length": POST + b"Content-Length: +5\r\n\r\n12345",
    "a length past all bounds": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\n12345",
    "another coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": GET + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a chunk's size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "a chunk's size past all bounds": POST
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"f" * 20
    + b"\r\n",
    "a chunk longer than it says": POST
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}{}\r\n0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bytes": bytes(range(256)) + b"\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "an unheard-of method": GET.replace(b"GET", b"BREW") + b"\r\n",
    "a port past all bounds": GET.replace(b"/healthz", b"http://localhost:99999/") + b"\r\n",
    "an address without end": GET.replace(b"/healthz", b"http://[::1/") + b"\r\n",
    "colours": GET + b"X-Request-Id: \x1b[31m\r\n\r\n",
}


async def test_what_is_no_http_is_a_problem_and_one_quiet_line(stage, subtests):
    """Two servers that read it differently would each see another request: it is refused."""
    for name, request in BROKEN.items():
        with subtests.test(name):
            async with logged() as lines, wire(stage) as client:
                await client.say(request)
                said = await client.answer()
                assert (said.status, said.kind) == (400, "malformed-http")
                assert await client.closed()
            written = [line for line in lines if line["event"] != "gateway.answered"]
            assert [(line["event"], line["log_level"]) for line in written] == [
                ("gateway.request_malformed", "info")
            ]
    assert (await stage.get("/healthz")).status == 200
    assert await stage.events() == []


SECRETIVE = [
    GET + b"Authorization: Bearer " + SECRET + b"\x01\r\n\r\n",
    GET + b"Authorization: Bearer\r\n " + SECRET + b"\r\n\r\n",
    GET.replace(b"/healthz", b"http://x:" + SECRET + b"@h:99999/") + b"\r\n",
    SECRET + b"\r\n\r\n",
    b"GET /?token=" + SECRET + b"\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    GET + SECRET + b"\r\n\r\n",
]


async def test_nothing_of_what_is_no_http_is_repeated(stage):
    """It may hold a token; neither the answer nor the log has it."""
    for request in SECRETIVE:
        async with logged() as lines, wire(stage) as client:
            await client.say(request)
            said = await client.answer()
        assert said.status == 400
        assert SECRET not in said.body
        assert SECRET.decode() not in repr(lines)


async def test_answers_without_a_handler_say_that_a_fallback_serves(redis_url, tmp_path):
    """As every answer does: too many connections, a slow head, no HTTP, and too long a head."""
    wanted = {
        n.lower(): v for n, v in {**SECURITY_HEADERS, FALLBACK_HEADER: "single-process"}.items()
    }
    fallback = Fallback(
        mode="single-process", reason="unreachable", primary="redis://real", since_ms=1
    )
    limits = type(QUICK)(head_seconds=0.3, connections_max=3)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with (
        gateway_stage(redis_url, database, limits=limits, fallback=fallback) as stage,
        contextlib.AsyncExitStack() as opened,
    ):
        clients = [await opened.enter_async_context(wire(stage)) for _ in range(3)]
        said = []
        for client in clients:
            await client.say(GET + b"\r\n")
            said.append(await client.answer())
        async with wire(stage) as one_more:
            said.append(await one_more.answer())
        for client, request in zip(
            clients, (GET, b"NONSENSE\r\n\r\n", HEADS["a header"]), strict=True
        ):
            await client.say(request)
            said.append(await client.answer())
    assert [one.status for one in said] == [200, 200, 200, 503, 408, 400, 431]
    for one in said:
        assert one.headers.items() >= wanted.items(), one.status


async def test_a_body_that_breaks_off_is_nobodys_fault_but_the_clients(stage):
    """A client that goes in the middle leaves no error in the log, and no agent."""
    async with logged() as lines:
        for framing in (
            b"Content-Length: 100\r\n\r\n{",
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ):
            async with wire(stage) as client:
                await client.say(POST + framing)
                await until(lambda: connections(stage) >= 1)
        await until(lambda: connections(stage) == 0)
        await until(lambda: sum(line["event"] == "gateway.answered" for line in lines) == 2)
    assert {line["log_level"] for line in lines} <= {"debug", "info"}
    assert await stage.events() == []


async def test_an_expectation_that_cannot_be_met_is_a_problem(stage):
    async with wire(stage) as client:
        await client.say(POST + b"Expect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}")
        said = await client.answer()
        assert (said.status, said.kind) == (417, "http-error")


# ---- other sites -----------------------------------------------------------------------------


ELSEWHERE = [
    b"GET http://evil.example/api/v1/agents HTTP/1.1\r\nHost: localhost\r\n",
    b"GET http://localhost/api/v1/agents HTTP/1.1\r\nHost: evil.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost.evil.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: evil.example:localhost\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost@evil.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: evil.example\tlocalhost\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: 127.0.0.1.nip.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: 0x7f.1\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost:\r\n",
    b"GET /api/v1/agents HTTP/1.0\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: evil.example\r\n",
]


async def test_another_name_of_the_project_is_refused_anywhere(stage, subtests):
    for head in ELSEWHERE:
        with subtests.test(head.decode()):
            async with wire(stage) as client:
                await client.say(head + b"X-Forwarded-Host: localhost\r\n\r\n")
                said = await client.answer()
                assert (said.status, said.kind) == (421, "wrong-host")


async def test_our_own_names_are_accepted_in_every_form(stage):
    for address in (b"", b"http://localhost", b"http://[::1]:80"):
        async with wire(stage) as client:
            head = b"GET " + address + b"/api/v1/agents HTTP/1.1\r\nHost: LOCALHOST.:80\r\n\r\n"
            await client.say(head)
            assert (await client.answer()).status == 200


FORMS = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "text/plain; application/json",
    "application/jsonp",
)


async def test_a_page_elsewhere_can_send_nothing_that_does_anything(stage):
    """What a form or script may send without being asked first is refused; nothing allows more."""
    for kind in FORMS:
        headers = {"Origin": "http://evil.example", "Content-Type": kind}
        answer = await stage.ask("POST", f"{AGENTS}/spawn", data=SPAWN, headers=headers)
        assert (answer.status, answer.kind) == (415, "unsupported-media-type")
        assert not allowances(answer)
    asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "DELETE"}
    preflight = await stage.ask("OPTIONS", f"{AGENTS}/pools/{POOL}", headers=asking)
    assert (preflight.status, allowances(preflight)) == (405, [])


def allowances(answer) -> list[str]:
    return [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("turns", range(5))
async def test_a_client_that_comes_while_the_gateway_stops_is_let_go(stage, turns):
    """However far its connection had come: it is closed (a warning fails the test)."""
    with socket.create_connection(("127.0.0.1", urlsplit(stage.gateway.url).port), 5) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        seconds, _ = await timed(stage.gateway.stop())
        assert seconds < 3
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.to_thread(client.recv, 1) == b""
    gc.collect()
