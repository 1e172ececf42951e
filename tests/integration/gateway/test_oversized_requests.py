"""Requests that are too large: refused as soon as that can be known."""

import asyncio
import gzip
import time

import pytest

from tests.integration.gateway.raw_connections import GET, POST, connection
from tests.integration.gateway.stage import QUICK

TOO_MUCH = {
    "a body that is announced": POST + b"Content-Length: 9999999999\r\n\r\n",
    "a body in one chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n40000\r\n" + b" " * 0x40000,
    "chunks without end": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"4\r\n    \r\n" * 50_000,
}


@pytest.mark.parametrize("request_", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_body_too_large_is_refused_at_once(stage, request_):
    """Before all of it has come, and before its time is over."""
    async with connection(stage) as client:
        sending = asyncio.ensure_future(client.send(request_))
        started = time.monotonic()
        answer = await client.answer()
        assert (answer.status, answer.kind) == (413, "body-too-large")
        assert time.monotonic() - started < QUICK.body_seconds / 2
        sending.cancel()


async def test_nothing_is_decompressed(stage):
    """Ten megabytes in ten kilobytes stay ten kilobytes."""
    bomb = gzip.compress(b'{"input": "' + b"0" * 10_000_000)
    for coding in (b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"x-unknown"):
        async with connection(stage) as client:
            head = POST + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (
                coding,
                len(bomb),
            )
            await client.send(head + bomb)
            answer = await client.answer()
            assert (answer.status, answer.kind) == (415, "unsupported-media-type")
            assert answer.headers["accept-encoding"] == "identity"


HEADS = {
    "an address": GET.replace(b"/healthz", b"/" + b"x" * 9_000) + b"\r\n",
    "a header": GET + b"X: " + b"x" * 9_000 + b"\r\n\r\n",
    "a header's name": GET + b"x" * 9_000 + b": x\r\n\r\n",
    "a header without end": GET + b"X: " + b"x" * 1_000_000,
}


async def test_a_head_too_large_is_refused(stage, subtests):
    for name, request in HEADS.items():
        with subtests.test(name):
            async with connection(stage) as client:
                await client.send(request)
                answer = await client.answer()
                assert (answer.status, answer.kind) == (431, "head-too-large")
