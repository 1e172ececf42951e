"""A primary with a replica, both real servers, and what happens to them in a failover."""

from typing import Protocol

from tests.servers import RedisLikeServer, ValkeyServer
from tests.waiting import until_sync


class MakesServers(Protocol):
    def __call__(
        self,
        kind: type[RedisLikeServer] = ValkeyServer,
        *,
        appendfsync: str | None = "everysec",
        options: dict[str, str] | None = None,
    ) -> RedisLikeServer: ...


class Replication:
    """`primary` and `replica` say what they were at first."""

    def __init__(
        self,
        make: MakesServers,
        kind: type[RedisLikeServer] = ValkeyServer,
        *,
        appendfsync: str | None = "everysec",
    ) -> None:
        quick = {"repl-diskless-sync-delay": "0", "repl-diskless-load": "swapdb"}
        self.primary = make(kind, appendfsync=appendfsync, options=quick)
        self.replica = make(kind, appendfsync=appendfsync, options=quick)
        self.join()

    def in_step(self) -> bool:
        """Whether the replica follows and has all that the primary has."""
        with self.primary.client() as primary, self.replica.client() as replica:
            info, here = primary.info("replication"), replica.info("replication")
        return (
            info["connected_slaves"] == 1
            and info["slave0"]["state"] == "online"
            and here["master_link_status"] == "up"
            and here["slave_repl_offset"] == info["master_repl_offset"]
        )

    def part(self) -> None:
        """Cut the replica off: the primary continues without it."""
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", "9")  # where nothing listens
        until_sync(self.alone, what="the primary has noticed")

    def alone(self) -> bool:
        """Whether the primary has no replica."""
        with self.primary.client() as primary:
            return bool(primary.info("replication")["connected_slaves"] == 0)

    def join(self) -> None:
        """Let the replica follow again."""
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", str(self.primary.port))
        until_sync(self.in_step, what="the replica has caught up")

    def configure(self, **settings: str) -> None:
        """Set options of the primary; underscores stand for hyphens."""
        with self.primary.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def promote(self) -> None:
        """Make the replica a primary, as an operator or a sentinel would."""
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")

    def demote(self) -> None:
        """Make the old primary follow the new one; writes that only it had are lost."""
        with self.primary.client() as client:
            client.replicaof("127.0.0.1", str(self.replica.port))
