"""Requests that are not HTTP: each is a problem, and nothing of it is repeated."""

from tests.integration.gateway.raw_connections import GET, POST, SPAWN, connection
from tests.integration.gateway.stage import logged

SECRET = b"do-not-repeat-me"
LENGTH = b"Content-Length: %d\r\n" % len(SPAWN)
MALFORMED = {
    "a length and chunks": POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + SPAWN,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + SPAWN,
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\n" + SPAWN,
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + SPAWN,
    "lengths with a comma": POST + b"Content-Length: 5, 5\r\n\r\n12345",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a signed length": POST + b"Content-Length: +5\r\n\r\n12345",
    "a length beyond all limits": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\n12345",
    "another coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": GET + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a chunk's size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "a chunk's size beyond all limits": POST
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
    "an unknown method": GET.replace(b"GET", b"BREW") + b"\r\n",
    "a port beyond all limits": GET.replace(b"/healthz", b"http://localhost:99999/") + b"\r\n",
    "an address without end": GET.replace(b"/healthz", b"http://[::1/") + b"\r\n",
    "U+0000": GET + b"X-Request-Id: a\x00b\r\n\r\n",
    "a carriage return": GET + b"X-Request-Id: a\rSet-Cookie: b\r\n\r\n",
    "colours": GET + b"X-Request-Id: \x1b[31m\r\n\r\n",
}


async def test_a_malformed_request_is_a_problem_and_one_quiet_line(stage, subtests):
    """Two servers that read it differently would each see another request: it is refused."""
    before = await stage.heads()
    for name, request in MALFORMED.items():
        with subtests.test(name):
            async with logged() as lines, connection(stage) as client:
                await client.send(request)
                answer = await client.answer()
                assert (answer.status, answer.kind) == (400, "malformed-http")
                assert "set-cookie" not in answer.headers
                assert await client.closed()
            written = [line for line in lines if line["event"] != "gateway.answered"]
            assert [(line["event"], line["log_level"]) for line in written] == [
                ("gateway.request_malformed", "info")
            ]
    assert (await stage.get("/healthz")).status == 200
    assert await stage.heads() == before


WITH_SECRET = [
    GET + b"Authorization: Bearer " + SECRET + b"\x01\r\n\r\n",
    GET + b"Authorization: Bearer\r\n " + SECRET + b"\r\n\r\n",
    GET.replace(b"/healthz", b"http://x:" + SECRET + b"@h:99999/") + b"\r\n",
    SECRET + b"\r\n\r\n",
    b"GET /?token=" + SECRET + b"\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    GET + SECRET + b"\r\n\r\n",
]


async def test_nothing_of_a_malformed_request_is_repeated(stage):
    """It may contain a token; neither the answer nor the log has it."""
    for request in WITH_SECRET:
        async with logged() as lines, connection(stage) as client:
            await client.send(request)
            answer = await client.answer()
        assert answer.status == 400
        assert SECRET not in answer.body
        assert SECRET.decode() not in repr(lines)


async def test_an_expectation_that_cannot_be_met_is_a_problem(stage):
    async with connection(stage) as client:
        await client.send(POST + b"Expect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}")
        answer = await client.answer()
        assert (answer.status, answer.kind) == (417, "http-error")
