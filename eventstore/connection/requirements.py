"""The requirements on a server: what it must be, and when it must rewrite its append-only file.

If the disk was full, the last write may be incomplete. If the file was created by a rewrite since
the server's start, later writes then leave a gap of zeros in it: the server has all data, but
cannot read the file at its next start (Redis 7.0.15 and Valkey 9.1.2, with `appendfsync everysec`;
with `always` it exits instead). A rewrite makes an intact file.
"""

from collections.abc import Mapping

from eventstore.connection.calls import UNREACHABLE, AsyncClient, ask
from eventstore.connection.failures import explain
from eventstore.errors import ServerUnsuitable
from eventstore.redis_errors import RedisError

MIN_VERSIONS = {"redis": (7, 0), "valkey": (7, 2)}
WRITE_PROBE = "#!lua flags=allow-oom\nreturn cmsgpack.unpack('\\1')"
"""Has the rights of the log's scripts and reads MessagePack, as they do, but writes nothing."""


async def inspect(client: AsyncClient, *sections: str) -> dict[str, str]:
    """The server's INFO, or these sections of it.

    Raises `LogUnreachable`, or `ServerUnsuitable` if retrying is useless.
    """
    try:
        return await client.info(*(sections or ("all",)))
    except (RedisError, *UNREACHABLE) as error:
        raise await explain(error, client) from error


async def require_writable(client: AsyncClient) -> None:
    """Check that the server accepts the log's scripts, which INFO does not show; writes nothing.

    Raises `LogUnreachable` if the refusal is transient (it loads, is a replica, cannot save), else
    `LogError`.
    """
    await ask(client, "EVAL", WRITE_PROBE, 0, doing="Redis runs no scripts")


def server_version(info: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    """`("valkey", (9, 1, 0))`. Valkey reports a Redis version too, for clients that ask."""
    kind = "valkey" if "valkey_version" in info else "redis"
    text = str(info.get(f"{kind}_version", "0"))
    return kind, tuple(int(part) for part in text.split(".") if part.isdigit())


def require_suitable(info: Mapping[str, str]) -> None:
    """Refuse a server that is too old, a Cluster, or may evict keys. Raises `ServerUnsuitable`."""
    kind, version = server_version(info)
    if version < MIN_VERSIONS[kind]:
        wanted = ".".join(map(str, MIN_VERSIONS[kind]))
        found = ".".join(map(str, version))
        raise ServerUnsuitable(f"{kind} {found} is too old: Muster needs {kind} {wanted} or later")
    if int(info.get("cluster_enabled", 0)):
        raise ServerUnsuitable(
            "it is a Redis Cluster (cluster-enabled yes), which this version of Muster does not"
            " support: use a standalone Redis or Valkey, with replicas if you like"
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise ServerUnsuitable(
            f"maxmemory-policy is {policy!r}, so Redis may evict the log; set it to"
            " 'noeviction' (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )


def persistence_warning(info: Mapping[str, str]) -> str:
    """What a restart of this server would lose; empty where it keeps an append-only file."""
    if int(info.get("aof_enabled", 0)):
        return ""
    return (
        "its append-only file is off: a restart of Redis loses the log (CONFIG SET appendonly yes,"
        " and in redis.conf)"
    )


class AofCheck:
    """`needs_rewrite`: from a failed write until a rewrite that started after it has succeeded.

    `failing`: the last write failed, so there is no space for a rewrite, either.
    """

    def __init__(self) -> None:
        self.needs_rewrite = False
        self.failing = False
        self._run_id = ""
        self._rewrites = 0

    async def poll(self, client: AsyncClient) -> bool:
        """Update `needs_rewrite` from the server's INFO. Raises what the client raises."""
        info = await client.info("server", "persistence")
        self.failing = info.get("aof_last_write_status", "ok") != "ok"
        if self.failing:
            self.needs_rewrite = True
            self._run_id, self._rewrites = info["run_id"], _rewrites_started(info)
        elif self.needs_rewrite and info["run_id"] == self._run_id:
            was_rewritten = (
                _rewrites_started(info) > self._rewrites
                and not int(info.get("aof_rewrite_in_progress", 0))
                and info.get("aof_last_bgrewrite_status") == "ok"
            )
            self.needs_rewrite = not was_rewritten
        else:
            self.needs_rewrite = False
        return self.needs_rewrite


def _rewrites_started(info: Mapping[str, str]) -> int:
    return int(info.get("aof_rewrites", 0))
