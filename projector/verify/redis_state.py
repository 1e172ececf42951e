"""Redis' hashes, sets and counters against the fold: each piece read at one moment with `seq`."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from redis.exceptions import ResponseError

from eventstore.connection.calls import refusal, translated_errors
from eventstore.errors import WrongType
from eventstore.keys import CATALOGUE
from eventstore.steps import hashes
from projector.intake.entries import read_entries
from projector.intake.event_range import EventRange
from projector.intake.source import LogHead, Source
from projector.store.rows import EventRow, Position
from projector.verify.reference_fold import BrokenLog, ReferenceFold
from projector.verify.report import Findings

CHUNK: Final = 300
"""Hashes read at one moment: Redis serves nobody else meanwhile (about a millisecond)."""
SCHEDULES: Final = ("due", "timeouts", "orders")
COUNTERS: Final = ("free", "waiting", "alone")
TYPES: Final = {"HGETALL": "hash", "HMGET": "hash", "SMEMBERS": "set", "ZRANGE": "zset"}
"""What a key must be for a command that reads it, as Redis names types."""


class RedisComparison:
    """Compares what the write side keeps of each pool."""

    def __init__(self, source: Source, event_range: EventRange, findings: Findings) -> None:
        self._source = source
        self._event_range = event_range
        self._findings = findings
        self._hashes: dict[tuple[str, str], set[str]] = {}

    async def scan(self, pools: Iterable[str]) -> None:
        """Find all hashes there are, also such as no event tells of."""
        for kind in ("agent", "process"):
            prefixes = {self._key(kind, pool, "").encode(): (kind, pool) for pool in pools}
            for kind_and_pool in prefixes.values():
                self._hashes[kind_and_pool] = set()
            pattern = f"{_escape_pattern(self._source.keys.prefix)}{kind}:{{*"
            async for key in self._keys(pattern):
                prefix, brace, subject = key.rpartition(b"}:")
                if found := prefixes.get(prefix + brace):
                    self._hashes[found].add(_text(subject))

    async def compare(self, reference: ReferenceFold, head: LogHead) -> None:
        """Compare a log's keys, folding on to the position at which each piece was read."""
        if not head.generation:
            if reference.position.seq:
                self._add_difference(reference, "meta", "presence", "present", "absent")
            return
        if reference.pool == CATALOGUE:
            await self._compare_catalogue(reference)
            return
        await self._compare_sets(reference)
        await self._compare_agents(reference)
        await self._compare_processes(reference)

    # ---- reading at one moment ---------------------------------------------------------------

    async def _read(
        self, reference: ReferenceFold, commands: Sequence[tuple[str, ...]]
    ) -> list[Any]:
        """Replies to commands, with the fold brought to the moment at which they were given.

        None in the place of a reply: the key is of another type, which is told.
        """
        meta = self._source.meta(reference.pool)
        seq, *replies = await self._source.ask(
            [("HGET", meta, "seq"), *commands], atomic=True, return_errors=True
        )
        if isinstance(seq, ResponseError):
            raise refusal("Redis refuses to be read", seq)
        last = int(seq or 0)
        if last < reference.position.seq:
            raise BrokenLog(f"the log ends at seq {last}, the views at {reference.position.seq}")
        while reference.position.seq < last:
            rows = await self._next_events(reference.position)
            if not rows:
                raise BrokenLog(f"gap: seq {reference.position.seq + 1} to {last} are nowhere")
            reference.apply(rows, last=last)
        for index, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                await self._report_wrong_type(reference, commands[index], reply)
                replies[index] = None
        return replies

    async def _report_wrong_type(
        self, reference: ReferenceFold, command: tuple[str, ...], error: ResponseError
    ) -> None:
        """Name a key that is of another type. Raises `LogError` for what else is refused."""
        refused = refusal("Redis refuses to be read", error)
        if not isinstance(refused, WrongType):
            raise refused
        verb, key = command[:2]
        (found,) = await self._source.ask([("TYPE", key)])
        keys, pool = self._source.keys, reference.pool
        subject = key.removeprefix(keys.pool(pool, "")).removeprefix(keys.prefix)
        subject = subject.replace(f":{{{pool}}}:", ":", 1)
        self._add_difference(reference, subject, "type", TYPES[verb], found.decode())

    async def _next_events(self, position: Position) -> list[EventRow]:
        entries = await self._event_range.after(position.pool, position.stream_id, count=1000)
        return read_entries(position, entries)

    async def _keys(self, pattern: str) -> AsyncIterator[bytes]:
        with translated_errors("Redis refuses to be read"):
            async for key in self._source.client.scan_iter(match=pattern, count=1000):
                yield key

    def _key(self, kind: str, pool: str, subject: str) -> str:
        keys = self._source.keys
        return keys.agent(pool, subject) if kind == "agent" else keys.process(pool, subject)

    # ---- hashes ------------------------------------------------------------------------------

    async def _compare_agents(self, reference: ReferenceFold) -> None:
        pool = reference.pool
        present = self._hashes.get(("agent", pool), set())
        for ids in _chunks(present | reference.live_agents()):
            replies = await self._read(
                reference, [("HGETALL", self._key("agent", pool, i)) for i in ids]
            )
            for agent_id, reply in zip(ids, replies, strict=True):
                if reply is None:
                    continue
                found, agent = _texts(reply), reference.agents.get(agent_id)
                found = hashes.AGENT.completed(found) if found else found
                expected = hashes.AGENT.to_hash(agent) if agent else None
                ended = agent is None or agent.ended
                self._compare_hash(reference, f"agent:{agent_id}", expected, found, ended=ended)

    async def _compare_processes(self, reference: ReferenceFold) -> None:
        pool = reference.pool
        present = self._hashes.get(("process", pool), set())
        live = {w.worker_id for w in reference.workers.values() if not w.ended}
        for ids in _chunks(present | live):
            replies = await self._read(
                reference, [("HGETALL", self._key("process", pool, i)) for i in ids]
            )
            agent_counts, isolated = reference.agent_counts(), reference.isolated()
            for worker_id, reply in zip(ids, replies, strict=True):
                if reply is None:
                    continue
                found, worker = _texts(reply), reference.workers.get(worker_id)
                expected = hashes.WORKER.to_hash(worker) if worker else None
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
        """The hash of what has ended stays for a while: it may be gone, but not differ."""
        if ended and not found:
            return
        if expected is None:
            self._findings.add_unexpected("redis", reference.pool, subject)
        else:
            self._findings.compare("redis", reference.pool, subject, expected, found or None)

    # ---- sets and counters -------------------------------------------------------------------

    async def _compare_sets(self, reference: ReferenceFold) -> None:
        pool, keys = reference.pool, self._source.keys
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
        counters, live, isolated, processes, *rest = await self._read(reference, commands)
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
        self._compare_counters(reference, dict(zip(COUNTERS, wanted, strict=True)), counters)

    def _compare_counters(
        self, reference: ReferenceFold, expected: Mapping[str, int], found: Sequence[bytes | None]
    ) -> None:
        wanted = {name: str(value) for name, value in expected.items()}
        values = {n: _text(value or b"0") for n, value in zip(expected, found, strict=True)}
        self._findings.compare("redis", reference.pool, "meta", wanted, values)

    async def _compare_catalogue(self, reference: ReferenceFold) -> None:
        meta = self._source.meta(CATALOGUE)
        (reply,) = await self._read(reference, [("HGETALL", meta)])
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
        """`found` None: the key is of another type, which was told."""
        if found is not None:
            self._findings.compare_members("redis", reference.pool, subject, expected, found)

    def _add_difference(
        self, reference: ReferenceFold, subject: str, field: str, expected: object, found: object
    ) -> None:
        self._findings.add("redis", reference.pool, subject, field, expected, found)


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(sorted(ids))
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _present(members: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(members, "present")


def _names(reply: Iterable[bytes] | None) -> dict[str, str] | None:
    return None if reply is None else _present(map(_text, reply))


def _texts(reply: Mapping[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in reply.items()}


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _scores(reply: Sequence[Any] | None) -> dict[str, int] | None:
    """Members and scores in turn."""
    if reply is None:
        return None
    return {_text(reply[i]): int(float(reply[i + 1])) for i in range(0, len(reply), 2)}


def _escape_pattern(text: str) -> str:
    """A text in which no character means anything to a pattern of Redis."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
