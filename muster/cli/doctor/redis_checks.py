"""Checks of Redis for storing the log, by its `INFO`, `CONFIG GET` and clock.

The judgements are pure functions of the server's answers. A server that hides its configuration,
as hosted ones do, is judged only by its `INFO`.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from eventstore.connection.calls import UNREACHABLE, AsyncClient
from eventstore.connection.clients import Client
from eventstore.connection.requirements import inspect, require_suitable, server_version
from eventstore.durability.capability import assess, configuration
from eventstore.errors import LogError, ServerUnsuitable
from muster.cli.doctor.checks import Check, Level, check
from muster.settings.addresses import redacted
from muster.terminal.render import duration, size

AREA = "redis"
SETTINGS = ("timeout", "maxclients", "min-replicas-max-lag")
ROUND_TRIPS = 20
SLOW_SECONDS = 0.005
CLOCK_SECONDS = 1.0
Info = Mapping[str, Any]
Config = Mapping[str, str]


async def check_redis(url: str) -> list[Check]:
    """All checks of one server."""
    try:
        client = Client(url)
    except ValueError as error:
        return [Check(AREA, "address", Level.FAIL, f"{redacted(url)}: {error}", "correct it")]
    try:
        return await _examine(client, url)
    except (LogError, ServerUnsuitable) as error:
        change = "start it, or name another with --redis-url or MUSTER_REDIS_URL"
        return [Check(AREA, "reachable", Level.FAIL, f"{redacted(url)}: {error}", change)]
    finally:
        await client.aclose()


async def _examine(client: AsyncClient, url: str) -> list[Check]:
    info = await inspect(client)
    config = await configuration(client, *SETTINGS)
    return [
        check(AREA, "reachable", redacted(url)),
        suitable(info),
        *persistence(info, config),
        *memory(info),
        *clients(info, config),
        *replicas(info, config),
        *durability(info, config),
        *await times(client),
    ]


async def times(client: AsyncClient) -> list[Check]:
    """Round trip and clock, from the fastest of some calls."""
    best, ahead = float("inf"), 0.0
    for _ in range(ROUND_TRIPS):
        started, started_wall = time.perf_counter(), time.time()
        try:
            seconds, micros = (int(part) for part in await client.execute_command("TIME"))
        except UNREACHABLE as error:
            raise LogError(f"Redis does not answer: {error}") from error
        elapsed = time.perf_counter() - started
        if elapsed < best:
            best, ahead = elapsed, seconds + micros / 1e6 - (started_wall + elapsed / 2)
    move = "move it nearer: a start needs several round trips" if best > SLOW_SECONDS else ""
    skewed = abs(ahead) > CLOCK_SECONDS
    adjust = "synchronise the clocks by NTP: times in logs and events differ" if skewed else ""
    return [
        check(AREA, "round trip", f"{best * 1e3:.2f} ms", move),
        check(AREA, "clock", f"{ahead * 1e3:+.0f} ms against this host", adjust),
    ]


def suitable(info: Info) -> Check:
    """The kind, version and eviction policy that Muster requires."""
    kind, version = server_version(dict(info))
    found = f"{kind} {'.'.join(map(str, version))}"
    try:
        require_suitable(dict(info))
    except ServerUnsuitable as error:
        return Check(AREA, "suitable", Level.FAIL, found, str(error))
    return check(AREA, "suitable", f"{found}, maxmemory-policy noeviction")


def persistence(info: Info, config: Config) -> Iterator[Check]:
    if not int(info.get("aof_enabled", 0)):
        change = "CONFIG SET appendonly yes, and in redis.conf: a restart loses the log without it"
        yield Check(AREA, "append-only file", Level.FAIL, "off", change)
        return
    yield check(AREA, "append-only file", "on")
    if info.get("aof_last_write_status", "ok") != "ok":
        change = "free disk space, or read the server's log: writes are being refused"
        yield Check(AREA, "last write", Level.FAIL, "failed", change)
    policy = config.get("appendfsync", "")
    changes = {
        "no": "CONFIG SET appendfsync everysec: a crash may lose half a minute",
        "everysec": "",
        "always": "",
    }
    change = changes.get(policy, "make sure that appendfsync is everysec or always")
    what = {"everysec": "everysec (a crash may lose a second)", "": "not shown by the server"}
    yield check(AREA, "appendfsync", what.get(policy, policy), change)


def memory(info: Info) -> list[Check]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    change, level = "", Level.WARN
    if most:
        share = used / most
        found = f"{size(used)} of {size(most)} ({share:.0%})"
        if share > 0.8:
            change = "raise maxmemory: spawns are refused when it is reached"
        level = Level.FAIL if share >= 1 else Level.WARN
    else:
        found, total = f"{size(used)} used, no maxmemory", int(info.get("total_system_memory", 0))
        if total and used > 0.7 * total:
            change = "set maxmemory, or give the host more: it may be killed"
    ratio = float(info.get("mem_fragmentation_ratio", 1.0))
    wasteful = ratio > 1.5 and int(info.get("mem_fragmentation_bytes", 0)) > 256 * 1024**2
    restart = "CONFIG SET activedefrag yes, or restart it at a quiet time"
    return [
        check(AREA, "memory", found, change, level),
        check(AREA, "fragmentation", f"{ratio:.2f}", restart if wasteful else ""),
    ]


def clients(info: Info, config: Config) -> Iterator[Check]:
    now = int(info.get("connected_clients", 0))
    most = int(info.get("maxclients") or config.get("maxclients") or 0)
    crowded = most and now > 0.8 * most
    change = "CONFIG SET maxclients higher: each worker has a few connections" if crowded else ""
    yield check(AREA, "clients", f"{now} of {most}" if most else str(now), change)
    if "timeout" in config:
        idle = int(config["timeout"])
        change = "CONFIG SET timeout 0: it cuts readers that wait for events" if idle else ""
        found = f"closes idle connections after {duration(idle)}" if idle else "0"
        yield check(AREA, "timeout", found, change)


def replicas(info: Info, config: Config) -> Iterator[Check]:
    """Whether there are enough of them: with fewer than required, Redis refuses all writes."""
    if info.get("role", "master") != "master":
        change = "use the address of its primary: a replica accepts no writes"
        yield Check(AREA, "role", Level.FAIL, "a replica", change)
        return
    count = int(info.get("connected_slaves", 0))
    required = int(config.get("min-replicas-to-write", "0") or 0)
    change = (
        "CONFIG SET min-replicas-to-write 1: else a primary that was cut off accepts"
        " writes that a failover loses"
    )
    found = f"primary with {count} replicas" if count else "primary without replicas"
    yield check(AREA, "role", found, change if count and not required else "")
    if not required:
        return
    lag, good = config.get("min-replicas-max-lag", "10"), info.get("min_slaves_good_slaves", count)
    found = f"writes need {required} of {count} replicas, no more than {lag} s behind"
    change, level = "", Level.WARN
    if int(good) < required:
        change = f"restart replicas: {good} are good, so all writes are refused and leases lapse"
        level = Level.FAIL
    elif count == required:
        change = (
            "add one more: when one restarts, all writes stop, and workers whose lease lapses end"
        )
    yield check(AREA, "min-replicas-to-write", found, change, level)


def durability(info: Info, config: Config) -> list[Check]:
    """The levels that a command may request. A missing level is OK: it may not be needed."""
    count = int(info.get("connected_slaves", 0))
    capability = assess(info, config, wanted_replicas=max(count, 1))
    why_not = capability.no_fsync_reason
    replicated = f"by up to {count}" if count else f"no: {capability.no_replicas_reason}"
    return [
        check(AREA, "level fsynced", f"no: {why_not}" if why_not else "with every reply"),
        check(AREA, "level replicated", replicated),
    ]
