"""What older versions left behind: data folders and a log, as `tests/samples/README.md` describes.

Nothing here is imported from Muster, and the samples name nothing of its code: files, keys, columns
and answers are what any version has to understand.
"""

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).parent / "samples" / "data"
ENVELOPE = (
    "pool", "stream_id", "type", "version", "seq", "event_id", "subject", "incarnation",
    "worker_id", "epoch", "correlation_id", "causation_id", "traceparent", "actor", "ts",
)  # fmt: skip
NUMBERS = ("version", "seq", "incarnation", "epoch", "ts")
Events = dict[tuple[str, int], dict[str, Any]]
"""Events as clients receive them, by pool and seq."""


def facts(name: str) -> dict[str, Any]:
    """What was answered at the end of a recorded life."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def unpack(name: str, folder: Path, *members: str) -> None:
    """A user's folder with its configuration, its agents and Muster's data; or some of that."""
    archive = FOLDER / f"{name}.tar.gz"
    subprocess.run(["tar", "-xzf", archive, "-C", folder, "--no-same-owner", *members], check=True)


def archived(views: Path) -> Events:
    """The archive of a database, by plain SQL."""
    connection = sqlite3.connect(views)
    connection.row_factory = sqlite3.Row
    try:
        rows = connection.execute("SELECT * FROM events ORDER BY pool, seq").fetchall()
    finally:
        connection.close()
    return {(row["pool"], row["seq"]): _as_shown(row["pool"], dict(row)) for row in rows}


# ---- a log ---------------------------------------------------------------------------------------


def dump(url: str) -> list[dict[str, Any]]:
    """Every key of a server with a log, with its type and content."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return [_dump(client, key) for key in sorted(client.scan_iter("*", count=1000))]


def _dump(client: Any, key: str) -> dict[str, Any]:
    one: dict[str, Any] = {"key": key, "type": client.type(key)}
    if (left := client.pttl(key)) > 0:
        one["expires in ms"] = left
    match one["type"]:
        case "hash":
            one["fields"] = client.hgetall(key)
        case "string":
            one["value"] = client.get(key)
        case "set":
            one["members"] = sorted(client.smembers(key))
        case "zset":
            one["scores"] = dict(client.zrange(key, 0, -1, withscores=True))
        case "list":
            one["items"] = client.lrange(key, 0, -1)
        case "stream":
            one |= _dump_stream(client, key)
        case other:
            raise AssertionError(f"{key} is a {other}")
    return one


def _dump_stream(client: Any, key: str) -> dict[str, Any]:
    about = client.xinfo_stream(key)
    groups = {}
    for group in client.xinfo_groups(key):
        name = group["name"]
        pending = client.xpending_range(key, name, "-", "+", 1000)
        groups[name] = {
            "last id": group["last-delivered-id"],
            "consumers": [known["name"] for known in client.xinfo_consumers(key, name)],
            "pending": [[entry["message_id"], entry["consumer"]] for entry in pending],
        }
    return {
        "last id": about["last-generated-id"],
        "added": about["entries-added"],
        "entries": [list(entry) for entry in client.xrange(key)],
        "groups": groups,
    }


def keys(name: str) -> list[dict[str, Any]]:
    """A recorded log, as `dump` returned it."""
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def streamed(recorded: list[dict[str, Any]]) -> Events:
    """The events of a recorded log."""
    found = {}
    for one in recorded:
        name = one["key"]
        if name == "muster:catalogue" or name.endswith(":events"):
            pool = "" if name == "muster:catalogue" else name.split("{")[1].split("}")[0]
            for stream_id, fields in one["entries"]:
                event = _as_shown(pool, {**fields, "stream_id": stream_id})
                found[pool, event["seq"]] = event
    return found


def load(recorded: list[dict[str, Any]], url: str) -> None:
    """Restore it to a server, with plain commands."""
    with redis.Redis.from_url(url) as client:
        for one in recorded:
            _load(client, one["key"], one)
            if "expires in ms" in one:
                client.pexpire(one["key"], one["expires in ms"])


def _load(client: Any, key: str, one: dict[str, Any]) -> None:
    match one["type"]:
        case "hash":
            client.hset(key, mapping=one["fields"])
        case "string":
            client.set(key, one["value"])
        case "set":
            client.sadd(key, *one["members"])
        case "zset":
            client.zadd(key, one["scores"])
        case "list":
            client.rpush(key, *one["items"])
        case "stream":
            _load_stream(client, key, one)
        case other:
            raise AssertionError(f"{key} is a {other}")


def _load_stream(client: Any, key: str, one: dict[str, Any]) -> None:
    """Also one that is empty has its last id, its groups and what they were delivered."""
    for stream_id, fields in one["entries"]:
        client.xadd(key, fields, id=stream_id)
    if not one["entries"]:
        client.xgroup_create(key, "passing", mkstream=True)
        client.xgroup_destroy(key, "passing")
    client.execute_command("XSETID", key, one["last id"], "ENTRIESADDED", one["added"])
    for group, known in one["groups"].items():
        client.xgroup_create(key, group, known["last id"])
        for consumer in known["consumers"]:
            client.xgroup_createconsumer(key, group, consumer)
        for stream_id, consumer in known["pending"]:
            client.xclaim(key, group, consumer, 0, [stream_id], force=True, justid=True)


def _as_shown(pool: str, fields: dict[str, Any]) -> dict[str, Any]:
    event = {"pool": pool, **{name: fields[name] for name in ENVELOPE if name != "pool"}}
    event |= {name: int(event[name] or 0) for name in NUMBERS}
    return {**event, "data": json.loads(fields["data"])}
