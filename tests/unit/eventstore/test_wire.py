"""A connection at which replies arrive in pieces, or not at all."""

import asyncio
import itertools
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import redis_errors
from eventstore.connection.calls import UNREACHABLE
from eventstore.connection.wire import NotSent, Wire
from eventstore.redis_errors import error_of

REPLIES = b"+OK\r\n$3\r\na\r\n\r\n:7\r\n*2\r\n$1\r\nx\r\n-ERR inner\r\n-NOSCRIPT none\r\n$-1\r\n"
CALLS = 6


class Transport:
    """Remembers what was written, and is lost when it is aborted."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.written = wire, b""
        wire.connection_made(cast("Any", self))

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.wire.connection_lost, None)


async def outcomes(pieces: list[bytes], *, seconds: float = 5.0) -> list[Any]:
    """What six calls get if these pieces arrive, and then the connection is lost."""
    wire = Wire(seconds)
    transport = Transport(wire)
    calls = [wire.call(("GET", f"{n}")) for n in range(CALLS)]
    await asyncio.sleep(0)
    assert transport.written.count(b"GET") == CALLS
    for piece in pieces:
        wire.data_received(piece)
    transport.abort()
    return await asyncio.gather(*calls, return_exceptions=True)


def check(found: list[Any], complete: int) -> None:
    expected = [b"OK", b"a\r\n", 7, None, None, None]
    for number, one in enumerate(found):
        if number >= complete:
            assert isinstance(one, redis_errors.RedisConnectionError)
            assert not isinstance(one, NotSent), "it was sent: its outcome is unknown"
        elif number == 3:
            assert one[0] == b"x"
            assert str(one[1]) == "inner"
        elif number == 4:
            assert isinstance(one, redis_errors.NoScriptError)
        else:
            assert one == expected[number]


@given(st.lists(st.integers(0, len(REPLIES)), max_size=8))
def test_replies_may_be_split_anywhere(cuts: list[int]) -> None:
    ends = sorted({0, *cuts, len(REPLIES)})
    pieces = [REPLIES[a:b] for a, b in itertools.pairwise(ends)]
    check(asyncio.run(outcomes(pieces)), CALLS)


@pytest.mark.parametrize("length", range(len(REPLIES)))
async def test_a_connection_may_be_lost_at_every_byte_of_the_replies(length: int) -> None:
    ends = [REPLIES.index(end) + len(end) for end in (b"OK\r\n", b"a\r\n\r\n", b":7\r\n")]
    ends += [REPLIES.index(end) + len(end) for end in (b"inner\r\n", b"none\r\n", b"$-1\r\n")]
    check(await outcomes([REPLIES[:length]]), sum(end <= length for end in ends))


async def test_what_was_not_written_is_known_not_to_be_sent() -> None:
    wire = Wire(5)
    transport = Transport(wire)
    sent = wire.call(("SET", "a", "1"))
    await asyncio.sleep(0)
    unsent = [wire.call(("SET", "b", "1")), wire.call_all([("SET", "c", "1"), ("GET", "c")])]
    wire.connection_lost(ConnectionResetError("reset"))
    found = await asyncio.gather(sent, *unsent, return_exceptions=True)
    assert [isinstance(one, NotSent) for one in found] == [False, True, True]
    assert b"b" not in transport.written
    with pytest.raises(NotSent):
        await wire.call(("GET", "a"))


async def test_a_stall_of_the_loop_is_no_time_without_a_reply() -> None:
    """However long: what was called has not been sent yet, or its reply not been read."""
    wire = Wire(0.2)
    Transport(wire)
    call = wire.call(("GET", "a"))
    for _ in range(4):
        time.sleep(0.25)
        await asyncio.sleep(0)
    wire.data_received(b"+OK\r\n")
    assert await call == b"OK"
    assert wire.usable


async def test_a_call_without_a_reply_ends_the_connection_in_time() -> None:
    wire = Wire(0.02)
    Transport(wire)
    calls = [wire.call(("GET", "a")), wire.call(("GET", "b"))]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, redis_errors.RedisTimeoutError) for one in found)


async def test_the_watchdog_of_a_call_that_may_block_ends_with_it() -> None:
    """It wakes the loop after that time at the earliest: never, while all is well."""
    wire = Wire(65, block_seconds=60)
    Transport(wire)
    for _ in range(2):
        call = wire.call(("BLPOP", "a", "60"))
        assert wire._watchdog is not None
        assert wire._watchdog.when() - asyncio.get_running_loop().time() > 60
        wire.data_received(b"+OK\r\n")
        assert await call == b"OK"
        assert wire._watchdog is None


async def test_a_call_that_may_block_has_that_time_too() -> None:
    wire = Wire(0.05, block_seconds=0.03)
    Transport(wire)
    began = time.monotonic()
    with pytest.raises(redis_errors.RedisTimeoutError):
        await wire.call(("BLPOP", "a", "0.03"))
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400\r\n", b"\x15\x03\x01", b"+one too many\r\n"])
async def test_what_no_redis_sends_ends_the_connection(garbage: bytes) -> None:
    wire = Wire(5)
    Transport(wire)
    call = wire.call(("GET", "a"))
    await asyncio.sleep(0)
    wire.data_received(b"+OK\r\n" + garbage if garbage.startswith(b"+") else garbage)
    await asyncio.wait_for(wire.closed, 1)
    assert not wire.usable
    if garbage.startswith(b"+"):
        assert await call == b"OK"
    else:
        with pytest.raises(UNREACHABLE):
            await call


async def test_an_aborted_connection_takes_no_more_calls() -> None:
    wire = Wire(5)
    Transport(wire)
    wire.abort()
    assert not wire.usable
    await asyncio.wait_for(wire.closed, 1)


async def test_a_retired_connection_ends_with_its_last_reply() -> None:
    wire = Wire(5)
    Transport(wire)
    call = wire.call(("GET", "a"))
    await asyncio.sleep(0)
    wire.retire()
    assert not wire.usable
    wire.data_received(b"+late\r\n")
    assert await call == b"late"
    await asyncio.wait_for(wire.closed, 1)


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ("LOADING Redis is loading", redis_errors.BusyLoadingError, "Redis is loading"),
        ("READONLY You can't", redis_errors.ReadOnlyError, "You can't"),
        ("WRONGTYPE Operation", redis_errors.ResponseError, "WRONGTYPE Operation"),
        ("MISCONF cannot save", redis_errors.TransientError, "MISCONF cannot save"),
        ("ERR unknown command", redis_errors.ResponseError, "unknown command"),
        ("ERR max number of clients reached", redis_errors.RedisConnectionError, "max number of"),
        ("NOAUTH Authentication required.", redis_errors.AuthenticationError, "Authentication"),
    ],
)
def test_errors_have_the_classes_of_redis_py(reply: str, kind: type[Exception], text: str) -> None:
    error = error_of(reply)
    assert type(error) is kind
    assert str(error).startswith(text)
