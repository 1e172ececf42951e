"""An answer as it is sent: its head, and what becomes of its connection."""

from typing import Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.test_utils import make_mocked_request

from gateway.wire.answer import Answer


class Written:
    """A writer that keeps what it gets."""

    content = b""

    async def write_eof(self, chunk: bytes) -> None:
        self.content += chunk


async def sent(answer: Answer, method: str = "GET", **request: Any) -> bytes:
    writer: Any = Written()
    await answer.prepare(make_mocked_request(method, "/", writer=writer, **request))
    await answer.write_eof()
    return writer.content


async def test_what_it_is_made_of_is_sent_as_json() -> None:
    head, _, body = (await sent(Answer({"a": 1}, status=202))).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ") for field in fields)
    assert (status, body) == ("HTTP/1.1 202 Accepted", b'{"a":1}')
    assert headers.pop("Date").endswith(" GMT")
    assert headers == {"Content-Type": "application/json", "Content-Length": "7"}


async def test_to_a_head_request_no_body_is_sent() -> None:
    content = await sent(Answer(b"text"), "HEAD")
    assert content.endswith(b"\r\n\r\n")
    assert b"Content-Length: 4\r\n" in content


@pytest.mark.parametrize(
    ("version", "closing", "said"),
    [
        (HttpVersion11, False, b""),
        (HttpVersion11, True, b"close"),
        (HttpVersion10, True, b"close"),
    ],
)
async def test_it_says_what_becomes_of_the_connection(version, closing, said) -> None:
    answer = Answer(b"text")
    content = await sent(answer, version=version, closing=closing)
    assert content.partition(b"Connection: ")[2].partition(b"\r\n")[0] == said
    assert answer.keep_alive is not closing


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
async def test_a_header_of_two_lines_is_not_sent(text: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        await sent(Answer(b"", headers={"X": text}))
