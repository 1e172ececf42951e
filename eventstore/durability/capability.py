"""How safe a command is once it is answered, and which of the levels a server can give.

A level is a statement about one moment: when the answer was given, this much had happened. None of
them makes Redis a consistent store (see docs/reliability.md).

`WAITAOF` is believed only where it is known to tell the truth: under `appendfsync everysec` some
servers answer it before anything was fsynced (Redis 7.4, redis/redis#13793; Valkey 9.1, measured).
So it counts from Redis 8.0 on, and only if the server was seen to withhold it. Everywhere else
`fsynced` needs `appendfsync always`, where the server fsyncs before it replies.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, AsyncClient, execute, unreachable
from eventstore.connection.requirements import server_version
from eventstore.language.durability import Level

WAITAOF_TRUE: Final = {"redis": (8, 0)}
"""From which version on WAITAOF may be believed."""
SETTINGS: Final = ("appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write")


class Fsync(StrEnum):
    """How a server can say that a write is on its disk."""

    NEVER = "never"
    ON_REPLY = "on-reply"
    """With every reply: `appendfsync always`."""
    WAITAOF = "waitaof"


class Capability(Struct, frozen=True, kw_only=True):
    """What a server can give; `no_fsync` and `no_replicas`: why it cannot, and what to change."""

    run_id: str = ""
    appendfsync: str = ""
    """Empty where the server does not tell."""
    fsync: Fsync = Fsync.NEVER
    no_fsync_reason: str = ""
    replicas: int = 0
    """How many follow it now."""
    min_replicas: int = 0
    """`min-replicas-to-write`; 0 also where the server does not tell."""
    good_replicas: int | None = None
    """How many count for that; None where it is off."""
    no_replicas_reason: str = ""

    @property
    def no_writes_reason(self) -> str:
        """Why the server takes no writes at the moment; empty if it does."""
        if self.good_replicas is None or self.good_replicas >= max(self.min_replicas, 1):
            return ""
        return (
            f"{self.good_replicas} replicas follow it closely enough, and min-replicas-to-write"
            f" demands {max(self.min_replicas, 1)}"
        )

    def unavailable_reason(self, level: Level) -> str:
        """Why this level cannot be given; empty if it can."""
        match level:
            case Level.FSYNCED:
                return self.no_fsync_reason
            case Level.REPLICATED:
                return self.no_replicas_reason
            case _:
                return ""


async def configuration(client: AsyncClient, *more: str) -> dict[str, str]:
    """The settings that matter here, and `more`; those that the server does not tell are left out.

    Raises `LogUnreachable`.
    """
    found: dict[str, str] = {}
    for name in (*SETTINGS, *more):
        reply = await _execute_or_error(client, "CONFIG", "GET", name)
        if not isinstance(reply, RedisError):
            found.update(pairs(reply))
    return found


def pairs(reply: Any) -> dict[str, str]:
    """The answer to CONFIG GET, in whichever shape it came."""
    items = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {_text(name): _text(value) for name, value in items}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def wait_refusal(client: AsyncClient) -> str:
    """Why WAIT cannot be used on this server; empty if it can."""
    reply = await _execute_or_error(client, "WAIT", 0, 1)
    return str(reply) if isinstance(reply, RedisError) else ""


async def _execute_or_error(client: AsyncClient, *command: str | int) -> Any:
    """A command's reply, or the server's refusal. Raises `LogUnreachable`."""
    try:
        return await execute(client, *command)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except RedisError as error:
        return error


def assess(
    info: Mapping[str, Any],
    config: Mapping[str, str],
    *,
    wanted_replicas: int,
    peak_replicas: int = 0,
    wait_refused: str = "",
    withholds: bool = False,
) -> Capability:
    """What a server can give, from its INFO and CONFIG.

    `seen_replicas`: the most that ever followed it; one that is away for a while does not make a
    level impossible. `no_wait`: why WAIT cannot be used. `withholds`: it was seen not to answer
    WAITAOF before its time.
    """
    fsync, no_fsync_reason = _fsync(info, config, withholds)
    replicas = int(info.get("connected_slaves", 0))
    return Capability(
        run_id=str(info.get("run_id", "")),
        appendfsync=config.get("appendfsync", ""),
        fsync=fsync,
        no_fsync_reason=no_fsync_reason,
        replicas=replicas,
        min_replicas=int(config.get("min-replicas-to-write") or 0),
        good_replicas=info.get("min_slaves_good_slaves"),
        no_replicas_reason=_no_replicas_reason(
            max(replicas, peak_replicas), wanted_replicas, wait_refused
        ),
    )


def may_withhold(info: Mapping[str, Any], config: Mapping[str, str]) -> bool:
    """Whether it is worth to try if WAITAOF tells the truth."""
    kind, version = server_version(dict(info))
    policy = config.get("appendfsync", "")
    minimum = WAITAOF_TRUE.get(kind)
    return (
        bool(int(info.get("aof_enabled", 0)))
        and policy not in {"always", "no"}
        and minimum is not None
        and version >= minimum
    )


def fsyncs_before_reply(config: Mapping[str, str]) -> bool:
    """Whether every reply comes after its fsync."""
    return config.get("appendfsync") == "always" and config.get("no-appendfsync-on-rewrite") == "no"


def _fsync(
    info: Mapping[str, Any], config: Mapping[str, str], withholds: bool
) -> tuple[Fsync, str]:
    policy = config.get("appendfsync", "")
    if not int(info.get("aof_enabled", 0)):
        return Fsync.NEVER, "it has no append-only file; set appendonly yes and appendfsync always"
    if fsyncs_before_reply(config):
        return Fsync.ON_REPLY, ""
    if policy == "always":
        reason = "it does not fsync while it rewrites its file; set no-appendfsync-on-rewrite no"
        return Fsync.NEVER, reason
    if policy == "no":
        return Fsync.NEVER, "appendfsync no leaves it to the system; set appendfsync always"
    if withholds:
        return Fsync.WAITAOF, ""
    state = f"appendfsync is {policy}" if policy else "it does not tell its appendfsync"
    return Fsync.NEVER, f"{state} and its WAITAOF cannot be relied on; set appendfsync always"


def _no_replicas_reason(peak: int, wanted: int, wait_refused: str) -> str:
    if wait_refused:
        return f"it refuses WAIT: {wait_refused}"
    if peak < wanted:
        return f"{peak} replicas follow it, of {wanted} that are wanted; attach more"
    return ""
