"""Whether Redis has to rewrite its append-only file, since it could not write to it for a while.

A Redis whose disk was full may have written part of something. If its file was started by a rewrite
since the server was started, going on leaves a hole of zeros there: the server has all data, and
cannot read the file at its next start (Redis 7.0.15 and Valkey 9.1.2, with `appendfsync everysec`;
with `always` it ends instead). A rewrite makes an intact file.
"""

from typing import Any

from eventstore.connection.calls import AsyncClient, execute


class AofCheck:
    """`needs_rewrite`: from a failed write until a rewrite that started after it has succeeded.

    `failing`: the last write failed, so there is no room for a rewrite either.
    """

    def __init__(self) -> None:
        self.needs_rewrite = False
        self.failing = False
        self._run_id = ""
        self._rewrites = 0

    async def poll(self, client: AsyncClient) -> bool:
        """`needs_rewrite`, as the server reports it now. Raises what the client raises."""
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
