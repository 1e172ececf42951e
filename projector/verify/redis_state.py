"""Compares Redis' hashes, sets and counters with the reference fold, at the same `seq`.

Redis is read in pieces, each at a known position: the fold is brought to the `seq` of each.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from eventstore.connection.calls import pairs_of, refusal, scan, translated_errors
from eventstore.errors import WrongType
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker
from eventstore.redis_errors import ResponseError
from eventstore.steps import hashes
from projector.intake.archive import EventRange
from projector.intake.entries import read_entries
from projector.intake.source import Source
from projector.store.mapping import chunks
from projector.verify.reference_fold import PRESENT, BrokenLog, FoldedStates, ReferenceFold
from projector.verify.report import Report

STATES_CHUNK: Final = 8
"""Saved states, of 1 MiB at most, in one read."""
CHUNK: Final = 300
"""Hashes in one read: Redis serves no other client meanwhile (about a millisecond)."""
SETS: Final = {
    "agents": ("SMEMBERS",),
    "alone": ("ZRANGE", "0", "-1"),
    **dict.fromkeys(
        ("processes", "due", "timeouts", "orders"), ("ZRANGE", "0", "-1", "WITHSCORES")
    ),
}
"""How the sets of a pool are read; scores where they are compared."""
TYPES: Final = {
    "GET": "string",
    "HGETALL": "hash",
    "HMGET": "hash",
    "SMEMBERS": "set",
    "ZRANGE": "zset",
}
"""The type of key that a command reads, as Redis names types."""
Command: TypeAlias = tuple[str, ...]


class RedisComparison:
    """Compares the write side's state of each pool."""

    def __init__(self, source: Source, event_range: EventRange, report: Report) -> None:
        self._keys = source.keys
        self._source = source
        self._event_range = event_range
        self._report = report
        self._hashes: dict[tuple[str, str], set[str]] = defaultdict(set)
        """Subjects of all existing hashes by kind and pool, also those that no event names."""

    async def scan(self, pools: Iterable[str]) -> None:
        """Find all existing hashes and saved states, before any is compared."""
        for kind in ("agent", "process", "state"):
            prefixes = {self._hash_key(kind, pool, "").encode(): (kind, pool) for pool in pools}
            with translated_errors("Redis refuses to be read"):
                async for keys in scan(self._source.client, f"{self._keys.prefix}{kind}:{{"):
                    for prefix, brace, subject in (key.rpartition(b"}:") for key in keys):
                        if kind_and_pool := prefixes.get(prefix + brace):
                            self._hashes[kind_and_pool].add(_text(subject))

    async def compare(self, reference: ReferenceFold, *, exists: bool) -> None:
        """Compare a log's keys with the fold. `exists`: whether Redis has the log."""
        pool = reference.pool
        if not exists:
            if reference.position.seq:
                self._report.add(("redis", pool, "meta"), "presence", "present", "absent")
        elif pool == CATALOGUE:
            await self._compare_catalogue(reference)
        else:
            await self._compare_sets(reference)
            await self._compare_hashes(reference, "agent", reference.agents)
            await self._compare_hashes(reference, "process", reference.workers)
            await self._compare_states(reference)

    async def _compare_catalogue(self, reference: ReferenceFold) -> None:
        (reply,) = await self._read(reference, [("HGETALL", self._keys.pool(CATALOGUE, "meta"))])
        found = {
            name.removeprefix("version:"): value
            for name, value in _texts(reply).items()
            if name.startswith("version:")
        }
        state = reference.catalogue
        names = (*state.pools, *state.hosts, *state.tokens)
        expected = {name: str(state.version_of(name)) for name in names}
        self._report.compare_members(("redis", CATALOGUE, "versions"), expected, found)

    async def _compare_sets(self, reference: ReferenceFold) -> None:
        """The counters too."""
        pool, workers = reference.pool, reference.workers
        found_only = {name for name in self._hashes["process", pool] if not workers.get(name)}
        live = sorted(found_only | workers.live.keys())
        reads = SETS | {f"held:{worker_id}": ("SMEMBERS",) for worker_id in live}
        meta = ("HMGET", self._keys.pool(pool, "meta"), *reference.counters())
        commands = [
            (verb, self._keys.pool(pool, name), *options)
            for name, (verb, *options) in reads.items()
        ]
        found, *replies = await self._read(reference, [meta, *commands])
        sets = reference.sets()
        for name, command, reply in zip(reads, commands, replies, strict=True):
            if reply is not None:
                expected, members = sets.get(name, {}), _members(command, reply)
                self._report.compare_members(("redis", pool, name), expected, members)
        counters = {name: str(count) for name, count in reference.counters().items()}
        values = dict(zip(counters, (_text(value or b"0") for value in found), strict=True))
        self._report.compare(("redis", pool, "meta"), counters, values)

    async def _compare_hashes(
        self,
        reference: ReferenceFold,
        kind: str,
        states: FoldedStates[Agent] | FoldedStates[Worker],
    ) -> None:
        """The hash of an ended agent or worker expires: it may be absent, but not differ."""
        codec = CODECS[kind]
        known = self._hashes[kind, reference.pool] | states.live.keys()
        for names in chunks(sorted(known), CHUNK):
            keys = [self._hash_key(kind, reference.pool, name) for name in names]
            replies = await self._read(reference, [("HGETALL", key) for key in keys])
            loads = _loads(reference, names) if kind == "process" else {}
            for name, reply in zip(names, replies, strict=True):
                state, found = states.get(name), _texts(reply or ())
                if reply is None or (not found and (state is None or state.ended)):
                    continue
                expected, load = None, loads.get(name, {})
                if state is not None:
                    expected = codec.expected(state, found) | load
                if found:
                    found = {**dict.fromkeys(load, ""), **codec.completed(found)}
                subject = ("redis", reference.pool, f"{kind}:{name}")
                self._report.compare(subject, expected, found or None)

    async def _compare_states(self, reference: ReferenceFold) -> None:
        """What agents have saved, by digest. (That of one that failed expires.)"""
        pool, states = reference.pool, reference.agents
        saved = {name for name, agent in states.live.items() if agent.state_sha256}
        for names in chunks(sorted(self._hashes["state", pool] | saved), STATES_CHUNK):
            keys = [self._keys.state(pool, name) for name in names]
            replies = await self._read(reference, [("GET", key) for key in keys])
            for name, reply in zip(names, replies, strict=True):
                agent = states.get(name)
                expected = agent.state_sha256 if agent else ""
                found = hashlib.sha256(reply).hexdigest() if reply is not None else ""
                if found != expected and not (agent and (agent.state_lost or agent.ended)):
                    subject = ("redis", pool, f"state:{name}")
                    self._report.add(subject, "sha256", expected or "absent", found or "absent")

    def _hash_key(self, kind: str, pool: str, subject: str) -> str:
        keys = self._keys
        of_kind = {"agent": keys.agent, "process": keys.process, "state": keys.state}
        return of_kind[kind](pool, subject)

    # ---- reading -----------------------------------------------------------------------------

    async def _read(self, reference: ReferenceFold, commands: Sequence[Command]) -> list[Any]:
        """Replies to commands, with the fold brought to the `seq` at which they were read.

        None in the place of a reply: the key is of another type, which is reported.
        """
        seq, replies = await self._source.ask_with_seq(reference.pool, commands)
        await self._fold_to(reference, seq)
        for index, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                await self._report_wrong_type(reference.pool, commands[index], reply)
                replies[index] = None
        return replies

    async def _fold_to(self, reference: ReferenceFold, last: int) -> None:
        if last < reference.position.seq:
            raise BrokenLog(f"the log ends at seq {last}, the views at {reference.position.seq}")
        while (at := reference.position).seq < last:
            entries = await self._event_range.after(at.pool, at.stream_id, count=1000)
            reference.apply(read_entries(at, entries), last=last)

    async def _report_wrong_type(self, pool: str, command: Command, error: ResponseError) -> None:
        """Report a key that is of another type. Raises `LogError` where Redis refuses otherwise."""
        refused = refusal("Redis refuses to be read", error)
        if not isinstance(refused, WrongType):
            raise refused
        verb, key = command[:2]
        (found,) = await self._source.ask([("TYPE", key)])
        subject = key.removeprefix(self._keys.pool(pool, "")).removeprefix(self._keys.prefix)
        subject = subject.replace(f":{{{pool}}}:", ":", 1)
        self._report.add(("redis", pool, subject), "type", TYPES[verb], found.decode())


CODECS: Final[dict[str, Any]] = {"agent": hashes.AGENT, "process": hashes.WORKER}


def _loads(reference: ReferenceFold, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The fields of a worker's hash that follow from its agents, by worker."""
    agent_counts, isolated = reference.agent_counts(), reference.isolated()
    return {
        worker_id: {
            "agent_count": str(agent_counts[worker_id]),
            "alone": isolated.get(worker_id, ""),
        }
        for worker_id in names
    }


def _members(command: Command, reply: Sequence[bytes]) -> dict[str, Any]:
    """Of a set; where scores were read, members and scores alternate."""
    if "WITHSCORES" not in command:
        return dict.fromkeys(map(_text, reply), PRESENT)
    return {_text(member): int(float(score)) for member, score in pairs_of(reply)}


def _texts(reply: Sequence[bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in pairs_of(reply)}


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
