"""Removes deleted pools from Redis once their logs are archived, and old.

    prepare in the pool's log -> `pool.removed` in the catalogue -> a minute later delete the keys

The catalogue then has the fields with which a pool of the same name continues the log (`initialise`
in `log.py`). Each step refuses if the pool was written, or created again, since the one before. So
an interruption, or a second projector, leaves either all keys or none. Between the last two steps
every process reads the catalogue: none asks for a log that is gone.
"""

from typing import Final

import structlog

from eventstore.connection.calls import ask
from eventstore.errors import LogMissing
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Pool
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log, encode_retired
from eventstore.log.replies import LogHead, Outcome, fields_of
from eventstore.steps.step import Origin

NOTICE_MS: Final = 60_000
"""How long before its keys are deleted a pool is removed from the catalogue, at most."""
CONTINUED: Final[tuple[str, ...]] = (
    *("generation", "seq", "ts", "clock", "epoch", "term", "scaling", "closed", "created"),
    *("recovered_seq", "config_version"),
)
"""Fields of the meta hash with which a log of the same name continues."""

log = structlog.get_logger("muster.projector")


class Retirement:
    """Of the pools of one catalogue."""

    def __init__(self, event_log: Log, catalogue: CatalogueLog, actor: str) -> None:
        self._log, self._catalogue, self._origin = event_log, catalogue, Origin(actor=actor)
        self._key = event_log.keys.pool(CATALOGUE, "retiring")
        self._age_ms = event_log.retention.age_ms

    async def remove(self, pool: Pool, archived: LogHead) -> None:
        """Remove a pool that was deleted long ago, and of whose log the archive has all."""
        now_ms, name = self._log.now_ms(CATALOGUE), pool.pool_name
        if not pool.deleted or now_ms - pool.changed_ms < self._age_ms:
            return
        token = f"{now_ms}:{archived.generation}:{archived.seq}:{self._log.new_id()}"
        prepared = await self._run(name, token)
        if prepared is None:
            return
        last = {field: prepared[field] for field in CONTINUED if field in prepared}
        await self._ask("HSET", name, token)
        retired = encode_retired(last) if archived.seq else ""
        removed = await self._catalogue.remove_pool(pool, retired, self._origin)
        if removed.outcome is Outcome.DONE:
            log.info("pool.removed", pool=name, seq=archived.seq)

    async def delete_keys(self) -> None:
        """Of the pools that were removed a while ago."""
        pending = fields_of(await self._ask("HGETALL"))
        latest_ms = self._log.now_ms(CATALOGUE) - min(NOTICE_MS, self._age_ms)
        due = {pool: t for pool, t in pending.items() if int(t.partition(":")[0]) <= latest_ms}
        known = (await self._catalogue.refresh()).pools if due else {}
        for pool, token in due.items():
            if pool not in known:  # else it was not removed, or is there again
                await self._run(pool, token, delete=True)
            await self._ask("HDEL", pool)

    async def _run(self, pool: str, token: str, *, delete: bool = False) -> dict[str, str] | None:
        """The meta hash; None if it was refused, or is done already."""
        _, generation, seq, _ = token.split(":")
        mark, action = self._log.high_water_mark(pool), "1" if delete else ""
        try:
            reply = await self._log.run_script(
                "retire", pool, *mark, token, generation, seq, action
            )
        except LogMissing:
            return None
        if reply.outcome is not Outcome.DONE:
            return None
        return {**fields_of([] if delete else reply.rest[0]), "ts": str(reply.ts + 1)}

    async def _ask(self, command: str, *arguments: str) -> list[bytes]:
        doing = "pools that were removed"
        found: list[bytes] = await ask(
            self._log.client, command, self._key, *arguments, doing=doing
        )
        return found
