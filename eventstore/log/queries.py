"""Reads of a pool's write side; nothing here changes a log."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from eventstore.connection.calls import execute_many, translated_errors
from eventstore.errors import Halted, LogMissing, RolledBack, Unreadable, WrongType
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Catalogue, decode_snapshot
from eventstore.language.placement_policy import Cap
from eventstore.language.restart_policy import RETRY_AFTER_MAX_MS
from eventstore.language.scaling_state import Memory
from eventstore.log.replies import LogHead, fields_of, scores_of, text_of
from eventstore.log.script_runner import ScriptRunner
from eventstore.log.survey import ObservedWorker, Survey, decode_survey, decode_worker
from eventstore.redis_errors import RedisError
from eventstore.steps import hashes

POOLS_BATCH: Final = 100
"""So many pools are asked about in one call."""


class LogQueries(ScriptRunner):
    """The reads of `Log`. All raise `LogUnreachable`, and `LogError` where Redis refuses."""

    async def head(self, pool: str) -> LogHead:
        """The position of a log, even if it is halted."""
        return LogHead.of(await self._read_meta(pool, *LogHead.__struct_fields__))

    async def catalogue_snapshot(self) -> Catalogue:
        """The fold of what was trimmed from the catalogue; an empty one if nothing was."""
        data = await self._read(CATALOGUE, "GET", self.keys.pool(CATALOGUE, "snapshot"))
        try:
            return decode_snapshot(data) if data else Catalogue()
        except (ValueError, TypeError, KeyError) as error:
            raise Unreadable("snapshot", "of the catalogue", str(error)) from error

    async def require_intact(self, pool: str) -> LogHead:
        """The head of the log. Raises `LogMissing`, `Halted`, `RolledBack` if it lost something."""
        mark = self.high_water_mark(pool)  # it may rise while the read is under way
        head = await self.head(pool)
        if not head.generation:
            raise LogMissing(pool)
        if head.halted:
            raise Halted(pool, head.halted)
        if (head.generation, head.seq) < mark:
            await self._run_guarded("commit", pool)  # halts the log, for all processes
            raise RolledBack(pool, mark, (head.generation, head.seq))
        return head

    async def survey(
        self, pool: str, *, schedules_max: int = 100, ahead_ms: int = RETRY_AFTER_MAX_MS * 2
    ) -> Survey:
        """What supervisors need to know of a pool, with so many restarts and time-outs at most.

        Restarts are counted that are due within `ahead_ms`.
        """
        try:
            return decode_survey(await self._run_guarded("survey", pool, schedules_max, ahead_ms))
        except RolledBack:  # this script may not write, so that only this process knows
            await self.require_intact(pool)
            raise

    async def scaling_memory(self, pool: str) -> Memory:
        """What its leader remembered after the last decision that is recorded; empty: not known."""
        [text] = await self._read_meta(pool, "memory")
        try:
            return msgspec.json.decode(text or b"{}", type=Memory)
        except msgspec.MsgspecError:  # of another version
            return Memory()

    async def agent(self, pool: str, agent_id: str) -> Agent | None:
        """The write side's state of an agent; None once Redis has removed it."""
        try:
            flat = await self._read(pool, "HGETALL", self.keys.agent(pool, agent_id))
        except WrongType as error:
            raise Unreadable("agent", agent_id, "its key is not a hash") from error
        return hashes.AGENT.from_flat(agent_id, flat) if flat else None

    async def saved_state(self, pool: str, agent: Agent) -> bytes | None:
        """The state that an agent saved last; None if it is not there."""
        try:
            state = await self._read(pool, "GET", self.keys.state(pool, agent.agent_id))
        except WrongType:
            return None
        found = state is not None and hashlib.sha256(state).hexdigest() == agent.state_sha256
        return state if found else None

    async def pool_of(self, agent_id: str, pools: Sequence[str]) -> str | None:
        """The pool that has an agent's state, among these."""
        found = await self._ask_each(pools, lambda p: ("EXISTS", self.keys.agent(p, agent_id)))
        return next(iter(found), None)

    async def worker(self, pool: str, worker_id: str) -> ObservedWorker | None:
        fields = await self._read(pool, "HGETALL", self.keys.process(pool, worker_id))
        return decode_worker(worker_id, fields_of(fields)) if len(fields) > 4 else None

    async def held(self, pool: str, worker_id: str) -> list[str]:
        """The ids of the agents in a worker's slots."""
        return await self._members(pool, f"held:{worker_id}")

    async def live(self, pool: str) -> list[str]:
        """The ids of all agents that have not ended."""
        return await self._members(pool, "agents")

    async def _members(self, pool: str, part: str) -> list[str]:
        members = await self._read(pool, "SMEMBERS", self.keys.pool(pool, part))
        return sorted(member.decode() for member in members)

    async def blocked(self, pools: Iterable[str]) -> dict[str, str]:
        """Why no worker is started in pools that need one, of those where that is so."""
        return {pool: why for pool, (why, _) in (await self.held_up(pools)).items() if why}

    async def held_up(self, pools: Iterable[str]) -> dict[str, tuple[str, list[Cap]]]:
        """What makes agents of pools wait: why no worker is started, and caps."""
        key, fields = self.keys.pool, ("blocked", "capped")
        found = await self._ask_each(pools, lambda p: ("HMGET", key(p, "meta"), *fields))
        return {
            pool: (text_of(why or b""), decode_caps(capped or b"[]"))
            for pool, (why, capped) in found.items()
        }

    async def damaged(self, pools: Iterable[str]) -> dict[str, str]:
        """What agents have changed in workers of these pools, of late, that cannot be put back."""
        found = await self._ask_each(pools, lambda p: ("GET", self.keys.pool(p, "damaged")))
        return {pool: text_of(what) for pool, what in found.items()}

    async def ask_about_pools(
        self, pools: Iterable[str], commands: Sequence[tuple[str | int, ...]]
    ) -> dict[str, list[Any]]:
        """The replies to some commands about these pools, in few calls.

        A command is its name, the key's part behind the pool, and arguments. A pool of which one is
        refused is left out.
        """
        names, key = list(pools), self.keys.pool
        found: dict[str, list[Any]] = {}
        for first in range(0, len(names), POOLS_BATCH):
            batch = names[first : first + POOLS_BATCH]
            asked = [
                (verb, key(p, str(part)), *more) for p in batch for verb, part, *more in commands
            ]
            with translated_errors("pools cannot be read"):
                replies = await execute_many(self.client, asked, refusals=True)
            for number, pool in enumerate(batch):
                answers = replies[number * len(commands) : (number + 1) * len(commands)]
                if not any(isinstance(answer, RedisError) for answer in answers):
                    found[pool] = answers
        return found

    async def _ask_each(
        self, pools: Iterable[str], command: Callable[[str], tuple[str, ...]]
    ) -> dict[str, Any]:
        """The replies about these pools that are not empty; all are asked at once."""
        names = list(pools)
        with translated_errors("pools cannot be read"):
            replies = await execute_many(self.client, map(command, names))
        return {pool: reply for pool, reply in zip(names, replies, strict=True) if reply}

    async def waiting_isolated(self, pool: str, count: int) -> list[tuple[str, int]]:
        """The isolated agents that wait for a worker, and since when in ms of log time.

        Those that have waited longest come first.
        """
        key = self.keys.pool(pool, "alone")
        flat = await self._read(pool, "ZRANGE", key, "0", str(count - 1), "WITHSCORES")
        return scores_of(flat)


def decode_caps(text: bytes) -> list[Cap]:
    """As the placer writes them."""
    try:
        return [Cap(*one) for one in msgspec.json.decode(text, type=list[tuple[str, str, int]])]
    except msgspec.MsgspecError:
        return []  # of a newer version
