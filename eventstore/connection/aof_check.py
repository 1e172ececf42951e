"""Whether Redis must rewrite its append-only file because writes to it have failed.

If the disk was full, the last write may be incomplete. If the file was created by a rewrite since
the server's start, later writes then leave a gap of zeros in it: the server has all data, but
cannot read the file at its next start (Redis 7.0.15 and Valkey 9.1.2, with `appendfsync everysec`;
with `always` it exits instead). A rewrite makes an intact file.
"""

from typing import Any

from eventstore.connection.calls import AsyncClient, execute


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
        info = await execute(client, "INFO", "server", "persistence")
        self.failing = info.get("aof_last_write_status", "ok") != "ok"
        if self.failing:
            self.needs_rewrite = True
            self._run_id, self._rewrites = info["run_id"], _rewrites_started(info)
        elif self.needs_rewrite:
            restarted = info["run_id"] != self._run_id
            self.needs_rewrite = not restarted and not self._was_rewritten(info)
        return self.needs_rewrite

    def _was_rewritten(self, info: dict[str, Any]) -> bool:
        return (
            _rewrites_started(info) > self._rewrites
            and not info.get("aof_rewrite_in_progress")
            and info.get("aof_last_bgrewrite_status") == "ok"
        )


def _rewrites_started(info: dict[str, Any]) -> int:
    return int(info.get("aof_rewrites", 0))
