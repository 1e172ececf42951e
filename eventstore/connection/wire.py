"""One connection to Redis that any number of calls share.

What is called in one turn of the loop goes out in one write, and callers get their replies in the
order of their calls. A caller that is cancelled leaves at once: its reply is read and dropped, so
that no other call gets it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from eventstore import redis_errors
from eventstore.connection.reply_parser import (
    CLOSED,
    INCOMPLETE,
    TIMED_OUT,
    Command,
    new_parser,
    packed,
    unreadable,
)
from eventstore.ticks import until_tick

TICKS: Final = 3
"""In so many parts the time of a call is counted, from the first that begins after it."""


class NotSent(redis_errors.RedisConnectionError):
    """Nothing was sent: Redis is known to be unreachable, or the client was closed."""


class _Call:
    """One command, or some whose replies are returned together."""

    __slots__ = ("future", "replies", "wanted")

    def __init__(self, future: "asyncio.Future[Any]", wanted: int) -> None:
        self.future = future
        self.wanted = wanted
        """How many replies are returned as a list; 0: the only one is returned itself."""
        self.replies: list[Any] = []


class Wire(asyncio.Protocol):
    """A connection, lost if a call is not answered within `timeout_seconds`, or two fifths more.

    `block_seconds`: for so long of that time a call may wait in the server. Such a connection has
    one call after the other, each with a watchdog of its own, which wakes no loop if all is well.
    """

    def __init__(self, timeout_seconds: float, *, block_seconds: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick_seconds = (timeout_seconds - (block_seconds or 0.0)) / TICKS
        self._block_seconds = block_seconds
        self._oldest: _Call | None = None
        self._ticks = 0
        self._parser = new_parser()
        self._transport: Any = None
        self._calls: deque[_Call] = deque()
        self._unsent: list[bytes] = []
        """One for each of the last calls, until the loop's next turn."""
        self._watchdog: asyncio.TimerHandle | None = None
        self._reason: Exception | None = None
        self._retired = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._retired

    def fileno(self) -> int:
        """The socket's descriptor; -1 if it is closed."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return int(sock.fileno()) if sock else -1

    def call(self, command: Command) -> "asyncio.Future[Any]":
        """The command's reply; an error's is raised. Raises `NotSent` at once."""
        return self._add(packed([command]), 0)

    def call_all(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        """The replies to commands that follow each other, errors as replies too."""
        return self._add(packed(commands), len(commands))

    def retire(self) -> None:
        """Take no more calls, and close as soon as nothing waits for a reply."""
        self._retired = True
        if not self._calls:
            self.abort()

    def abort(self, reason: Exception | None = None) -> None:
        """Close now: what waits for a reply fails."""
        self._reason = self._reason or reason
        self._retired = True
        if self._transport:
            self._transport.abort()
        elif not self.closed.done():
            self.closed.set_result(None)

    def _add(self, written: bytes, wanted: int) -> "asyncio.Future[Any]":
        if self._transport is None:
            raise NotSent("the connection is closed")
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(written)
        future = self._loop.create_future()
        self._calls.append(_Call(future, wanted))
        if self._watchdog is None:
            self._watch_on(self._block_seconds or 0.0)
        return future

    def _flush(self) -> None:
        if self._transport and self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _watch_on(self, block_seconds: float = 0.0) -> None:
        pause = until_tick(self._tick_seconds, after=block_seconds)
        self._watchdog = self._loop.call_later(pause, self._watch)

    def _watch(self) -> None:
        """Give up the connection whose oldest call has waited for all ticks of its time.

        Not by the clock: a loop that was stalled has neither written nor read meanwhile.
        """
        self._watchdog = None
        if not self._calls:
            return
        if self._calls[0] is not self._oldest:
            self._oldest, self._ticks = self._calls[0], 0
        self._ticks += 1
        if self._ticks > TICKS:
            self.abort(redis_errors.RedisTimeoutError(TIMED_OUT))
        else:
            self._watch_on()

    # ---- what the transport calls --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._retired:
            self.abort()

    def data_received(self, data: bytes) -> None:
        next_reply = self._parser.gets
        try:
            self._parser.feed(data)
            while (reply := next_reply()) is not INCOMPLETE:
                self._settle(reply)
        except Exception as error:  # noqa: BLE001  whatever came
            self.abort(unreadable(error))

    def _settle(self, reply: Any) -> None:
        if not self._calls:  # such as: too many clients
            error = isinstance(reply, Exception)
            raise reply if error else redis_errors.InvalidResponse("a reply to nothing")
        call = self._calls[0]
        if call.wanted:
            call.replies.append(reply)
            if len(call.replies) < call.wanted:
                return
            reply = call.replies
        self._calls.popleft()
        if self._block_seconds is not None and self._watchdog is not None and not self._calls:
            self._watchdog.cancel()
            self._watchdog = None
        if not call.future.done():
            if isinstance(reply, Exception):
                call.future.set_exception(reply)
            else:
                call.future.set_result(reply)
        if self._retired and not self._calls:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._watchdog is not None:
            self._watchdog.cancel()
        reason = self._reason or redis_errors.RedisConnectionError(str(error) if error else CLOSED)
        sent = len(self._calls) - len(self._unsent)
        for number, call in enumerate(self._calls):
            if not call.future.done():
                lost = type(reason)(*reason.args) if number < sent else NotSent(str(reason))
                lost.__cause__ = error
                call.future.set_exception(lost)
        self._calls.clear()
        self._unsent.clear()
        if not self.closed.done():
            self.closed.set_result(None)
