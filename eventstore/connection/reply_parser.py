"""How commands are written and replies are read, on whatever connection."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from hiredis import Reader, pack_command

from eventstore.redis_errors import InvalidResponse, RedisError, error_of

Argument: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Argument]
CLOSED: Final = "Connection closed by server."
TIMED_OUT: Final = "Timeout reading from Redis"
INCOMPLETE: Final = object()
"""What the parser returns if a reply is not complete."""


def packed(commands: Iterable[Command]) -> bytes:
    """Commands as they are sent."""
    return b"".join(pack_command(tuple(command)) for command in commands)  # type: ignore[arg-type]


def new_parser() -> Any:
    """For one connection: `feed` it what came, and get replies; errors are replies too."""
    return Reader(protocolError=InvalidResponse, replyError=error_of, notEnoughData=INCOMPLETE)


def unreadable(error: Exception) -> RedisError:
    """What a parser has raised, such as for bytes that are no text: there is no way to read on."""
    return error if isinstance(error, RedisError) else InvalidResponse(str(error))
