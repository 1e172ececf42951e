"""Pools and hosts: the fold of the catalogue.

The catalogue is a log of its own, small and read whole by every process. `Catalogue` is its fold;
who wants to change it decides against that fold and commits only if the subject's version is
still the one that was read.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from eventstore.agent import RestartPolicy
from eventstore.events import (
    Event,
    HostCordoned,
    HostJoined,
    HostLeft,
    LogRecovered,
    PoolChanged,
    PoolCreated,
    PoolDeleted,
)

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=0, le=10_000)]


class PoolConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a pool. Times are in seconds."""

    agents_per_worker: Annotated[int, Meta(ge=1, le=1_000)] = 10
    min_workers: Count = 0
    max_workers: Annotated[int, Meta(ge=1, le=10_000)] = 100
    empty_worker_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 300.0
    backlog_limit: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    restart_limit: Annotated[int, Meta(ge=0, le=100)] = 5
    restart_window_seconds: Seconds = 600.0
    backoff_min_seconds: Seconds = 1.0
    backoff_max_seconds: Seconds = 60.0
    start_timeout_seconds: Seconds = 60.0
    stop_grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    drain_seconds: Seconds = 25.0
    launch_seconds: Seconds = 30.0
    lease_seconds: Annotated[float, Meta(ge=1, le=600)] = 10.0
    renew_seconds: Annotated[float, Meta(ge=0.1, le=200)] = 3.0
    loop_stall_seconds: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    suspicion_window_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 600.0
    max_alone_workers: Annotated[int, Meta(ge=1, le=10_000)] = 10

    def __post_init__(self) -> None:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) must not be above max_workers"
                f" ({self.max_workers})"
            )
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"renew_seconds ({self.renew_seconds:g}) must be at most half of lease_seconds"
                f" ({self.lease_seconds:g})"
            )
        if self.backoff_min_seconds > self.backoff_max_seconds:
            raise ValueError(
                f"backoff_min_seconds ({self.backoff_min_seconds:g}) must not be above"
                f" backoff_max_seconds ({self.backoff_max_seconds:g})"
            )

    @property
    def restart_policy(self) -> RestartPolicy:
        return RestartPolicy(
            limit=self.restart_limit,
            window_ms=int(self.restart_window_seconds * 1000),
            backoff_min_ms=int(self.backoff_min_seconds * 1000),
            backoff_max_ms=int(self.backoff_max_seconds * 1000),
        )

    @property
    def alone_limit(self) -> int:
        """How many workers may be taken by agents that run alone: half of them at most, but one."""
        return min(self.max_alone_workers, max(self.max_workers // 2, 1))


class Pool(Struct, frozen=True, kw_only=True):
    """A pool as the catalogue tells it. A deleted one stays known, so that it may come back."""

    pool_name: str
    role_type: str
    config: PoolConfig = PoolConfig()
    unknown: dict[str, object] = {}
    """Settings that a newer version of Muster recorded: kept, and passed over."""
    version: int = 0
    deleted: bool = False
    created_seq: int = 0
    """The catalogue's `seq` of its creation: tells it from an earlier pool of the same name."""
    created_ms: int = 0
    changed_ms: int = 0


class Host(Struct, frozen=True, kw_only=True):
    """A host and whether new workers may be placed there."""

    host: str
    hostname: str
    pid: int = 0
    status: str = "joined"  # joined | cordoned | left
    reason: str = ""
    version: int = 0
    joined_ms: int = 0
    changed_ms: int = 0


class Catalogue(Struct, frozen=True, kw_only=True):
    """All pools and hosts, at one position of the catalogue."""

    pools: dict[str, Pool] = {}
    hosts: dict[str, Host] = {}
    generation: int = 0
    seq: int = 0
    stream_id: str = "0"

    def live_pools(self) -> dict[str, Pool]:
        return {name: pool for name, pool in self.pools.items() if not pool.deleted}

    def version_of(self, subject: str) -> int:
        """How often what bears a name was changed: a pool and a host of one name count together.

        The log keeps that number by name, and every change is checked against it.
        """
        held: tuple[Pool | Host | None, ...] = (self.pools.get(subject), self.hosts.get(subject))
        return max((one.version for one in held if one is not None), default=0)


def read_config(raw: msgspec.Raw | bytes) -> tuple[PoolConfig, dict[str, object]]:
    """A recorded configuration, and the settings in it that only a newer version knows."""
    known = set(PoolConfig.__struct_fields__)
    fields = msgspec.json.decode(raw, type=dict[str, object])
    unknown = {name: fields.pop(name) for name in fields.keys() - known}
    return msgspec.convert(fields, PoolConfig), dict(sorted(unknown.items()))


def write_config(
    config: PoolConfig, unknown: Mapping[str, object] = MappingProxyType({})
) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode({**msgspec.to_builtins(config), **unknown}))


def evolve(catalogue: Catalogue, event: Event) -> Catalogue:
    """What an event makes of the catalogue."""
    pools, hosts, name = catalogue.pools, catalogue.hosts, event.subject
    generation = catalogue.generation
    version = catalogue.version_of(name) + 1
    match event.body:
        case PoolCreated() as body:
            config, unknown = read_config(body.config)
            pool = Pool(
                pool_name=name,
                role_type=body.role_type,
                config=config,
                unknown=unknown,
                version=version,
                created_seq=event.seq,
                created_ms=event.ts,
                changed_ms=event.ts,
            )
            pools = {**pools, name: pool}
        case PoolChanged() as body:
            config, unknown = read_config(body.config)
            changed = replace(
                pools[name],
                config=config,
                unknown=unknown,
                version=version,
                changed_ms=event.ts,
            )
            pools = {**pools, name: changed}
        case PoolDeleted():
            changed = replace(pools[name], deleted=True, version=version, changed_ms=event.ts)
            pools = {**pools, name: changed}
        case HostJoined() as body:
            host = Host(
                host=name,
                hostname=body.hostname,
                pid=body.pid,
                version=version,
                joined_ms=event.ts,
                changed_ms=event.ts,
            )
            hosts = {**hosts, name: host}
        case HostCordoned() | HostLeft() as body:
            status = "cordoned" if isinstance(body, HostCordoned) else "left"
            gone = replace(
                hosts[name],
                status=status,
                reason=body.reason,
                version=version,
                changed_ms=event.ts,
            )
            hosts = {**hosts, name: gone}
        case LogRecovered() as body:
            generation = body.generation
        case _:
            raise TypeError(f"{event.type} is not an event of the catalogue")
    return Catalogue(
        pools=pools,
        hosts=hosts,
        generation=generation,
        seq=event.seq,
        stream_id=event.stream_id or catalogue.stream_id,
    )
