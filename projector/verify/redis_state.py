"""Compares Redis' hashes, sets and counters with the reference fold, at the same `seq`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from eventstore.keys import CATALOGUE
from eventstore.steps import hashes
from projector.store.mapping import chunks
from projector.verify.redis_reader import RedisReader, text_of
from projector.verify.reference_fold import ReferenceFold
from projector.verify.report import Findings

CHUNK: Final = 300
"""Hashes in one read: Redis serves no other client meanwhile (about a millisecond)."""
SCHEDULES: Final = ("due", "timeouts", "orders")
COUNTERS: Final = ("free", "waiting", "alone")


class RedisComparison:
    """Compares the write side's state of each pool."""

    def __init__(self, reader: RedisReader, findings: Findings) -> None:
        self._reader = reader
        self._findings = findings
        self._hashes: dict[tuple[str, str], set[str]] = {}

    async def scan(self, pools: Iterable[str]) -> None:
        """Find all existing hashes, before any is compared."""
        self._hashes = await self._reader.hashes(pools)

    async def compare(self, reference: ReferenceFold, *, exists: bool) -> None:
        """Compare a log's keys with the fold. `exists`: whether Redis has the log."""
        if not exists:
            if reference.position.seq:
                self._findings.add("redis", reference.pool, "meta", "presence", "present", "absent")
            return
        if reference.pool == CATALOGUE:
            await self._compare_catalogue(reference)
            return
        await self._compare_sets(reference)
        await self._compare_agents(reference)
        await self._compare_processes(reference)

    # ---- hashes ------------------------------------------------------------------------------

    async def _compare_agents(self, reference: ReferenceFold) -> None:
        pool = reference.pool
        present = self._hashes.get(("agent", pool), set())
        for ids in chunks(sorted(present | reference.live_agents()), CHUNK):
            replies = await self._reader.read(
                reference, [("HGETALL", self._reader.hash_key("agent", pool, i)) for i in ids]
            )
            for agent_id, reply in zip(ids, replies, strict=True):
                if reply is None:
                    continue
                found, agent = _texts(reply), reference.agents.get(agent_id)
                expected = hashes.AGENT.expected(agent, found) if agent else None
                found = hashes.AGENT.completed(found) if found else found
                ended = agent is None or agent.ended
                self._compare_hash(reference, f"agent:{agent_id}", expected, found, ended=ended)

    async def _compare_processes(self, reference: ReferenceFold) -> None:
        pool = reference.pool
        present = self._hashes.get(("process", pool), set())
        live = {w.worker_id for w in reference.workers.values() if not w.ended}
        for ids in chunks(sorted(present | live), CHUNK):
            replies = await self._reader.read(
                reference, [("HGETALL", self._reader.hash_key("process", pool, i)) for i in ids]
            )
            agent_counts, isolated = reference.agent_counts(), reference.isolated()
            for worker_id, reply in zip(ids, replies, strict=True):
                if reply is None:
                    continue
                found, worker = _texts(reply), reference.workers.get(worker_id)
                expected = hashes.WORKER.expected(worker, found) if worker else None
                if expected is not None:
                    expected["agent_count"] = str(agent_counts[worker_id])
                    found = {"alone": "", **hashes.WORKER.completed(found)} if found else found
                    expected["alone"] = isolated.get(worker_id, "")
                ended = worker is None or worker.ended
                self._compare_hash(reference, f"process:{worker_id}", expected, found, ended=ended)

    def _compare_hash(
        self,
        reference: ReferenceFold,
        subject: str,
        expected: Mapping[str, str] | None,
        found: Mapping[str, str],
        *,
        ended: bool,
    ) -> None:
        """The hash of an ended agent or worker expires: it may be absent, but not differ."""
        if ended and not found:
            return
        if expected is None:
            self._findings.add_unexpected("redis", reference.pool, subject)
        else:
            self._findings.compare("redis", reference.pool, subject, expected, found or None)

    # ---- sets and counters -------------------------------------------------------------------

    async def _compare_sets(self, reference: ReferenceFold) -> None:
        pool, keys = reference.pool, self._reader.keys
        holders = self._hashes.get(("process", pool), set()) | reference.workers.keys()
        listed = sorted(
            w for w in holders if w not in reference.workers or not reference.workers[w].ended
        )
        commands: list[tuple[str, ...]] = [
            ("HMGET", keys.pool(pool, "meta"), *COUNTERS),
            ("SMEMBERS", keys.pool(pool, "agents")),
            ("ZRANGE", keys.pool(pool, "alone"), "0", "-1"),
            ("ZRANGE", keys.pool(pool, "processes"), "0", "-1", "WITHSCORES"),
            *(("ZRANGE", keys.pool(pool, s), "0", "-1", "WITHSCORES") for s in SCHEDULES),
            *(("SMEMBERS", keys.pool(pool, f"held:{worker_id}")) for worker_id in listed),
        ]
        counters, live, isolated, processes, *rest = await self._reader.read(reference, commands)
        free = reference.free_slots()
        self._compare_members(reference, "agents", _present(reference.live_agents()), _names(live))
        waiting = _present(reference.waiting_isolated())
        self._compare_members(reference, "alone", waiting, _names(isolated))
        self._compare_members(reference, "processes", free, _scores(processes))
        schedules = (reference.due(), reference.timeouts(), reference.orders())
        for name, expected, reply in zip(SCHEDULES, schedules, rest, strict=False):
            self._compare_members(reference, name, expected, _scores(reply))
        held = reference.held()
        for worker_id, reply in zip(listed, rest[len(SCHEDULES) :], strict=True):
            expected_ids = held.pop(worker_id, set())
            self._compare_members(
                reference, f"held:{worker_id}", _present(expected_ids), _names(reply)
            )
        wanted = (sum(free.values()), reference.waiting(), len(reference.isolated()))
        expected_counts = dict(zip(COUNTERS, map(str, wanted), strict=True))
        values = (text_of(value or b"0") for value in counters)
        found = dict(zip(COUNTERS, values, strict=True))
        self._findings.compare("redis", pool, "meta", expected_counts, found)

    async def _compare_catalogue(self, reference: ReferenceFold) -> None:
        meta = self._reader.keys.catalogue_meta
        (reply,) = await self._reader.read(reference, [("HGETALL", meta)])
        found = {
            name.removeprefix("version:"): value
            for name, value in _texts(reply).items()
            if name.startswith("version:")
        }
        state = reference.catalogue
        expected = {name: str(state.version_of(name)) for name in (*state.pools, *state.hosts)}
        self._compare_members(reference, "versions", expected, found)

    def _compare_members(
        self,
        reference: ReferenceFold,
        subject: str,
        expected: Mapping[str, Any],
        found: Mapping[str, Any] | None,
    ) -> None:
        """`found` None: the key is of another type, which was reported."""
        if found is not None:
            self._findings.compare_members("redis", reference.pool, subject, expected, found)


def _present(members: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(members, "present")


def _names(reply: Iterable[bytes] | None) -> dict[str, str] | None:
    return None if reply is None else _present(map(text_of, reply))


def _texts(reply: Mapping[bytes, bytes]) -> dict[str, str]:
    return {text_of(name): text_of(value) for name, value in reply.items()}


def _scores(reply: Sequence[Any] | None) -> dict[str, int] | None:
    """A reply in which members and scores alternate."""
    if reply is None:
        return None
    return {text_of(reply[i]): int(float(reply[i + 1])) for i in range(0, len(reply), 2)}
