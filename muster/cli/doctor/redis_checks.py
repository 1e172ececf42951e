"""Checks of Redis for storing the log, by its `INFO`, `CONFIG GET` and clock.

The judgements are pure functions of the server's answers. A server that hides its configuration,
as hosted ones do, is judged only by its `INFO`.
"""

import time
from collections.abc import Mapping
from typing import Any

from eventstore.connection.calls import UNREACHABLE, AsyncClient, execute
from eventstore.connection.clients import connect
from eventstore.connection.requirements import inspect, require_suitable, server_version
from eventstore.durability.capability import assess, configuration
from eventstore.errors import LogError, ServerUnsuitable
from muster.cli.doctor.checks import Check, Level, check
from muster.settings.addresses import redacted
from muster.terminal.render import duration, size

AREA = "redis"
SETTINGS = ("timeout", "maxclients", "min-replicas-max-lag")
ROUND_TRIPS = 20
SLOW_MS = 5.0
CLOCK_MS = 1_000.0
Info = Mapping[str, Any]
Config = Mapping[str, str]


async def check_redis(url: str) -> list[Check]:
    """All checks of one server."""
    try:
        client = connect(url, max_connections=1)
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
    checks = [check(AREA, "reachable", redacted(url)), suitable(info)]
    checks += [*persistence(info, config), *memory(info), *clients(info, config)]
    checks += [*replicas(info, config), *durability(info, config), *await _times(client)]
    return checks


async def _times(client: AsyncClient) -> list[Check]:
    """Round trip and clock, from the fastest of some calls."""
    best, ahead = float("inf"), 0.0
    for _ in range(ROUND_TRIPS):
        started, started_wall = time.perf_counter(), time.time()
        try:
            seconds, micros = (int(part) for part in await execute(client, "TIME"))
        except UNREACHABLE as error:
            raise LogError(f"Redis does not answer: {error}") from error
        elapsed = time.perf_counter() - started
        if elapsed < best:
            best, ahead = elapsed, seconds + micros / 1e6 - (started_wall + elapsed / 2)
    return times(best * 1000, ahead * 1000)


def suitable(info: Info) -> Check:
    """The kind, version and eviction policy that Muster requires."""
    kind, version = server_version(dict(info))
    found = f"{kind} {'.'.join(map(str, version))}"
    try:
        require_suitable(dict(info))
    except ServerUnsuitable as error:
        return Check(AREA, "suitable", Level.FAIL, found, str(error))
    return check(AREA, "suitable", f"{found}, maxmemory-policy noeviction")


def persistence(info: Info, config: Config) -> list[Check]:
    if not int(info.get("aof_enabled", 0)):
        change = "CONFIG SET appendonly yes, and in redis.conf: a restart loses the log without it"
        return [Check(AREA, "append-only file", Level.FAIL, "off", change)]
    checks = [check(AREA, "append-only file", "on")]
    if info.get("aof_last_write_status", "ok") != "ok":
        change = "free disk space, or read the server's log: writes are being refused"
        checks.append(Check(AREA, "last write", Level.FAIL, "failed", change))
    policy = config.get("appendfsync", "")
    changes = {
        "no": "CONFIG SET appendfsync everysec: a crash may lose half a minute",
        "everysec": "",
        "always": "",
    }
    change = changes.get(policy, "make sure that appendfsync is everysec or always")
    what = {"everysec": "everysec (a crash may lose a second)", "": "not shown by the server"}
    return [*checks, check(AREA, "appendfsync", what.get(policy, policy), change)]


def memory(info: Info) -> list[Check]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most:
        share = used / most
        change = "raise maxmemory: spawns are refused when it is reached" if share > 0.8 else ""
        found = f"{size(used)} of {size(most)} ({share:.0%})"
        level = Level.FAIL if share >= 1 else Level.WARN
        checks = [check(AREA, "memory", found, change, level)]
    else:
        total = int(info.get("total_system_memory", 0))
        short = bool(total) and used > 0.7 * total
        change = "set maxmemory, or give the host more: it may be killed" if short else ""
        checks = [check(AREA, "memory", f"{size(used)} used, no maxmemory", change)]
    ratio = float(info.get("mem_fragmentation_ratio", 1.0))
    wasted = int(info.get("mem_fragmentation_bytes", 0))
    change = "CONFIG SET activedefrag yes, or restart it at a quiet time" if (
        ratio > 1.5 and wasted > 256 * 1024**2
    ) else ""  # fmt: skip
    return [*checks, check(AREA, "fragmentation", f"{ratio:.2f}", change)]


def clients(info: Info, config: Config) -> list[Check]:
    now = int(info.get("connected_clients", 0))
    most = int(info.get("maxclients") or config.get("maxclients") or 0)
    change = "CONFIG SET maxclients higher: each worker has a few connections" if (
        most and now > 0.8 * most
    ) else ""  # fmt: skip
    checks = [check(AREA, "clients", f"{now} of {most}" if most else str(now), change)]
    if "timeout" in config:
        idle = int(config["timeout"])
        change = "CONFIG SET timeout 0: it cuts readers that wait for events" if idle else ""
        found = f"closes idle connections after {duration(idle)}" if idle else "0"
        checks.append(check(AREA, "timeout", found, change))
    return checks


def replicas(info: Info, config: Config) -> list[Check]:
    if info.get("role", "master") != "master":
        change = "use the address of its primary: a replica accepts no writes"
        return [Check(AREA, "role", Level.FAIL, "a replica", change)]
    count = int(info.get("connected_slaves", 0))
    required = int(config.get("min-replicas-to-write", "0") or 0)
    change = ""
    if count and not required:
        change = (
            "CONFIG SET min-replicas-to-write 1: else a primary that was cut off accepts"
            " writes that a failover loses"
        )
    found = f"primary with {count} replicas" if count else "primary without replicas"
    checks = [check(AREA, "role", found, change)]
    return [*checks, _min_replicas(info, config, count, required)] if required else checks


def _min_replicas(info: Info, config: Config, count: int, required: int) -> Check:
    """Whether there are enough replicas: with fewer, Redis refuses all writes."""
    lag = config.get("min-replicas-max-lag", "10")
    found = f"writes need {required} of {count} replicas, no more than {lag} s behind"
    good = int(info.get("min_slaves_good_slaves", count))
    if good < required:
        change = f"restart replicas: {good} are good, so all writes are refused and leases lapse"
        return Check(AREA, "min-replicas-to-write", Level.FAIL, found, change)
    change = (
        "add one more: when one restarts, all writes stop, and workers whose lease lapses end"
        if count == required
        else ""
    )
    return check(AREA, "min-replicas-to-write", found, change)


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


def times(round_trip_ms: float, ahead_ms: float) -> list[Check]:
    slow = "move it nearer: a start needs several round trips" if round_trip_ms > SLOW_MS else ""
    skewed = abs(ahead_ms) > CLOCK_MS
    change = "synchronise the clocks by NTP: times in logs and events differ" if skewed else ""
    return [
        check(AREA, "round trip", f"{round_trip_ms:.2f} ms", slow),
        check(AREA, "clock", f"{ahead_ms:+.0f} ms against this host", change),
    ]
