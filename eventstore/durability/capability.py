"""Which levels of durability a server supports.

A level says what had happened before a command was answered. None of them makes Redis a consistent
store (see docs/reliability.md).

`fsynced` needs `appendfsync always`, where the server fsyncs before it replies. `WAITAOF` is not
used: servers reply to it before anything was fsynced (decision 0021).
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from eventstore.connection.calls import UNREACHABLE, AsyncClient, execute_many, unreachable
from eventstore.language.durability import Level
from eventstore.log.replies import fields_of
from eventstore.redis_errors import RedisError

FSYNC_SETTINGS: Final = ("appendfsync", "no-appendfsync-on-rewrite")


class Capability(Struct, frozen=True, kw_only=True):
    """What a server supports. `no_..._reason`: why it does not, and what to change; or empty."""

    appendfsync: str = ""
    """Empty if the server hides it."""
    no_fsync_reason: str = ""
    replicas: int = 0
    """How many follow the server now."""
    min_replicas: int = 0
    """`min-replicas-to-write`; 0 also if the server hides it."""
    good_replicas: int | None = None
    """How many count for `min_replicas`; None if that is off."""
    no_replicas_reason: str = ""

    @property
    def no_writes_reason(self) -> str:
        """Why the server accepts no writes now; empty if it does."""
        good, required = self.good_replicas, max(self.min_replicas, 1)
        if good is None or good >= required:
            return ""
        setting = f"min-replicas-to-write requires {required}"
        return f"{good} replicas follow it closely enough, and {setting}"

    def unavailable_reason(self, level: Level) -> str:
        """Why this level is not supported; empty if it is."""
        reasons = {
            Level.FSYNCED: self.no_fsync_reason,
            Level.REPLICATED: self.no_replicas_reason,
        }
        return reasons.get(level, "")


async def configuration(client: AsyncClient, *more: str) -> dict[str, str]:
    """The relevant settings, and `more`; without those that the server hides.

    Raises `LogUnreachable`.
    """
    names = (*FSYNC_SETTINGS, "min-replicas-to-write", *more)
    commands = [("CONFIG", "GET", name) for name in names]
    try:
        replies = await execute_many(client, commands, refusals=True)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    found: dict[str, str] = {}
    for reply in replies:
        found |= {} if isinstance(reply, RedisError) else fields_of(reply)
    return found


async def wait_refusal(client: AsyncClient) -> str:
    """Why WAIT cannot be used on this server; empty if it can be. Raises `LogUnreachable`."""
    try:
        await client.execute_command("WAIT", 0, 1)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except RedisError as error:
        return str(error)
    return ""


def assess(
    info: Mapping[str, str],
    config: Mapping[str, str],
    *,
    wanted_replicas: int,
    peak_replicas: int = 0,
    wait_refused: str = "",
) -> Capability:
    """What a server supports, from its INFO and CONFIG.

    `peak_replicas`: the most that ever followed it, since one that is disconnected for a while may
    return in time. `wait_refused`: why WAIT cannot be used.
    """
    replicas = int(info.get("connected_slaves", 0))
    peak, good = max(replicas, peak_replicas), info.get("min_slaves_good_slaves")
    missing = f"{peak} of {wanted_replicas} replicas follow it; attach more"
    no_replicas_reason = missing if peak < wanted_replicas else ""
    if wait_refused:
        no_replicas_reason = f"it refuses WAIT: {wait_refused}"
    return Capability(
        appendfsync=config.get("appendfsync", ""),
        no_fsync_reason=_no_fsync_reason(info, config),
        replicas=replicas,
        min_replicas=int(config.get("min-replicas-to-write") or 0),
        good_replicas=None if good is None else int(good),
        no_replicas_reason=no_replicas_reason,
    )


def fsyncs_before_reply(config: Mapping[str, str]) -> bool:
    """Whether the server fsyncs before every reply."""
    return config.get("appendfsync") == "always" and config.get("no-appendfsync-on-rewrite") == "no"


def _no_fsync_reason(info: Mapping[str, str], config: Mapping[str, str]) -> str:
    policy = config.get("appendfsync", "")
    if not int(info.get("aof_enabled", 0)):
        return "it has no append-only file; set appendonly yes and appendfsync always"
    if fsyncs_before_reply(config):
        return ""
    if policy == "always":
        return "it does not fsync while it rewrites its file; set no-appendfsync-on-rewrite no"
    state = f"appendfsync is {policy}" if policy else "it hides its appendfsync"
    return f"{state}; set appendfsync always"
