"""Pools, hosts and tokens: the fold of the catalogue.

The catalogue is a small log of its own that every process follows. `Catalogue` is its fold. A
change is decided on that fold, and committed only if the subject's version is unchanged. A snapshot
is the fold at one position: what is before it can be trimmed.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from eventstore.language import events, tokens
from eventstore.language.pool_config import (
    PoolConfig,
    earlier_defaults,
    read_config,
    write_config,
)
from eventstore.language.replacement import Replacement, ReplacementStatus
from eventstore.language.tokens import Token

FORMAT: Final = 1
"""Of snapshots. One of a later format is refused."""


class Pool(Struct, frozen=True, kw_only=True):
    """A pool in the catalogue. A deleted one stays there until its log is archived and old."""

    pool_name: str
    role_type: str
    config: PoolConfig = PoolConfig()
    unknown: dict[str, object] = {}
    """Settings that a newer version of Muster recorded: retained, and ignored."""
    deleted: bool = False
    replacement: Replacement | None = None
    """The last one of its workers."""
    version: int = 0
    created_seq: int = 0
    """The catalogue's `seq` of its creation: distinguishes it from an earlier pool of that name."""
    created_ms: int = 0
    changed_ms: int = 0

    @property
    def config_version(self) -> tuple[int, int]:
        """Later settings of a pool of this name have a higher one."""
        return self.created_seq, self.version


class Host(Struct, frozen=True, kw_only=True):
    """A host and whether new workers may be placed there."""

    host: str
    hostname: str
    pid: int = 0
    status: str = "joined"  # joined | cordoned | left
    reason: str = ""
    version: int = 0
    last_event_id: str = ""
    """The cause of its next event."""
    joined_ms: int = 0
    changed_ms: int = 0


class Catalogue(Struct, frozen=True, kw_only=True):
    """All pools, hosts and tokens, at one position of the catalogue."""

    pools: dict[str, Pool] = {}
    hosts: dict[str, Host] = {}
    tokens: dict[str, Token] = {}
    """By the subject of their events."""
    earlier_defaults: dict[str, tuple[str, ...]] = {}
    """By pool: settings with a default that an earlier version recorded. They are ignored."""
    generation: int = 0
    seq: int = 0
    stream_id: str = "0"

    def live_pools(self) -> dict[str, Pool]:
        return {name: pool for name, pool in self.pools.items() if not pool.deleted}

    def live_pool(self, name: str) -> Pool | None:
        """None if there is none, or it was deleted."""
        pool = self.pools.get(name)
        return None if pool is None or pool.deleted else pool

    def cause_of(self, body: events.AnyBody, subject: str) -> str:
        """The event that a change follows from; empty where that is a request."""
        if isinstance(body, events.HostCordoned | events.HostLeft | events.HostRemoved):
            return self.hosts[subject].last_event_id
        if isinstance(body, events.PoolReplacementFinished | events.PoolReplacementStopped):
            replacement = self.pools[subject].replacement
            return replacement.replacement_id if replacement else ""
        return ""

    def version_of(self, subject: str) -> int:
        """How often a name was changed; a pool and a host of the same name are counted together.

        The log stores that number by name, and every change is checked against it.
        """
        named: tuple[Pool | Host | Token | None, ...] = (
            self.pools.get(subject),
            self.hosts.get(subject),
            self.tokens.get(subject),
        )
        return max((entry.version for entry in named if entry is not None), default=0)


def encode_snapshot(catalogue: Catalogue) -> bytes:
    """The fold as JSON, with the settings of pools as events record them."""
    pools = [
        {**asdict(pool), "config": write_config(pool.config, pool.unknown), "unknown": {}}
        for pool in catalogue.pools.values()
    ]
    hosts = list(catalogue.hosts.values())
    fields = {**asdict(catalogue), "pools": pools, "hosts": hosts, "format": FORMAT}
    return msgspec.json.encode(fields)


def decode_snapshot(data: bytes) -> Catalogue:
    """The inverse. Raises `ValueError`, `TypeError` or `KeyError`."""
    fields = msgspec.json.decode(data, type=dict[str, Any])
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, this version reads {FORMAT}")
    pools: dict[str, Pool] = {}
    for raw in fields["pools"]:
        config, unknown = read_config(msgspec.json.encode(raw["config"]))
        pool = msgspec.convert({**raw, "config": {}}, Pool)
        pools[pool.pool_name] = replace(pool, config=config, unknown=unknown)
    hosts = {host.host: host for host in msgspec.convert(fields["hosts"], list[Host])}
    return msgspec.convert({**fields, "pools": pools, "hosts": hosts}, Catalogue)


def copy_of(catalogue: Catalogue) -> Catalogue:
    """One to which events may be folded, while the other stays as it is."""
    copied = ("pools", "hosts", "tokens", "earlier_defaults")
    return replace(catalogue, **{name: dict(getattr(catalogue, name)) for name in copied})


def evolve(catalogue: Catalogue, event: events.Event) -> Catalogue:
    """Fold an event into the catalogue, whose pools, hosts and tokens are changed in place.

    A copy for each event would make many quadratic: see `copy_of`. Nothing is changed if it raises
    `ValueError`, `TypeError` or `KeyError`.
    """
    name, generation = event.subject, catalogue.generation
    pools, hosts, earlier = catalogue.pools, catalogue.hosts, catalogue.earlier_defaults
    version = catalogue.version_of(name) + 1
    changed: dict[str, Any] = {"version": version, "changed_ms": event.ts}
    match event.body:
        case events.PoolCreated() | events.PoolChanged() as body:
            config, unknown = read_config(body.config)
            changed |= {"config": config, "unknown": unknown}
            if isinstance(body, events.PoolCreated):
                changed |= {"created_seq": event.seq, "created_ms": event.ts}
                pools[name] = Pool(pool_name=name, role_type=body.role_type, **changed)
            else:
                pools[name] = replace(pools[name], **changed)
            earlier[name] = earlier_defaults(body.config)
        case events.PoolReplacementStarted() as body:
            started = Replacement(
                replacement_id=event.event_id,
                actor=event.actor,
                started_at=event.ts,
                **{name: getattr(body, name) for name in body.__struct_fields__},
            )
            pools[name] = replace(pools[name], replacement=started, **changed)
        case events.PoolReplacementFinished() | events.PoolReplacementStopped() as body:
            ended = _end(pools[name].replacement, body, event.ts)
            pools[name] = replace(pools[name], replacement=ended, **changed)
        case events.PoolDeleted():
            pools[name] = replace(pools[name], deleted=True, **changed)
        case events.PoolRemoved():
            del pools[name]
            earlier.pop(name, None)
        case events.HostRemoved():
            del hosts[name]
        case events.HostJoined() as body:
            changed |= {"last_event_id": event.event_id, "joined_ms": event.ts}
            hosts[name] = Host(host=name, hostname=body.hostname, pid=body.pid, **changed)
        case events.HostCordoned() | events.HostLeft() as body:
            status = "cordoned" if isinstance(body, events.HostCordoned) else "left"
            changed |= {"last_event_id": event.event_id, "reason": body.reason}
            hosts[name] = replace(hosts[name], status=status, **changed)
        case events.TokenCreated() | events.TokenRotated():
            catalogue.tokens[name] = tokens.evolve(catalogue.tokens.get(name), event)
        case events.TokenRevoked():
            del catalogue.tokens[name]
        case events.LogRecovered() as body:
            generation = body.generation
        case _:
            raise TypeError(f"{event.type} is not an event of the catalogue")
    stream_id = event.stream_id or catalogue.stream_id
    return replace(catalogue, generation=generation, seq=event.seq, stream_id=stream_id)


def _end(
    replacement: Replacement | None,
    body: events.PoolReplacementFinished | events.PoolReplacementStopped,
    at_ms: int,
) -> Replacement:
    if replacement is None:
        raise ValueError(f"{body.type} without a replacement")
    if isinstance(body, events.PoolReplacementStopped):
        status, detail = ReplacementStatus.STOPPED, body.reason
    else:
        status, detail = ReplacementStatus.FINISHED, ""
    return replace(replacement, status=status, detail=detail, ended_at=at_ms)
