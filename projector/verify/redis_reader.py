"""Reads pieces of Redis, each at a known position: the fold is brought to the `seq` of each."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from eventstore.connection.calls import refusal, translated_errors
from eventstore.errors import WrongType
from eventstore.keys import Keys
from projector.intake.archive import EventRange
from projector.intake.entries import read_entries
from projector.intake.source import Source
from projector.store.rows import EventRow, Position
from projector.verify.reference_fold import BrokenLog, ReferenceFold
from projector.verify.report import Findings

TYPES: Final = {"HGETALL": "hash", "HMGET": "hash", "SMEMBERS": "set", "ZRANGE": "zset"}
"""The type of key that a command reads, as Redis names types."""


class RedisReader:
    def __init__(self, source: Source, event_range: EventRange, findings: Findings) -> None:
        self.keys: Keys = source.keys
        self._source = source
        self._event_range = event_range
        self._findings = findings

    async def hashes(self, pools: Iterable[str]) -> dict[tuple[str, str], set[str]]:
        """Subjects of all existing hashes by kind and pool, also those that no event names."""
        found: dict[tuple[str, str], set[str]] = {}
        for kind in ("agent", "process"):
            prefixes = {self.hash_key(kind, pool, "").encode(): (kind, pool) for pool in pools}
            found |= {kind_and_pool: set() for kind_and_pool in prefixes.values()}
            async for key in self._scan(f"{_escape_pattern(self.keys.prefix)}{kind}:{{*"):
                prefix, brace, subject = key.rpartition(b"}:")
                if kind_and_pool := prefixes.get(prefix + brace):
                    found[kind_and_pool].add(text_of(subject))
        return found

    def hash_key(self, kind: str, pool: str, subject: str) -> str:
        keys = self.keys
        return keys.agent(pool, subject) if kind == "agent" else keys.process(pool, subject)

    async def _scan(self, pattern: str) -> AsyncIterator[bytes]:
        with translated_errors("Redis refuses to be read"):
            async for key in self._source.client.scan_iter(match=pattern, count=1000):
                yield key

    async def read(
        self, reference: ReferenceFold, commands: Sequence[tuple[str, ...]]
    ) -> list[Any]:
        """Replies to commands, with the fold brought to the `seq` at which they were read.

        None in the place of a reply: the key is of another type, which is reported.
        """
        meta = self._source.meta(reference.pool)
        seq, *replies = await self._source.ask(
            [("HGET", meta, "seq"), *commands], atomic=True, return_errors=True
        )
        if isinstance(seq, ResponseError):
            raise refusal("Redis refuses to be read", seq)
        await self._fold_to(reference, int(seq or 0))
        for index, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                await self._report_wrong_type(reference, commands[index], reply)
                replies[index] = None
        return replies

    async def _fold_to(self, reference: ReferenceFold, last: int) -> None:
        if last < reference.position.seq:
            raise BrokenLog(f"the log ends at seq {last}, the views at {reference.position.seq}")
        while reference.position.seq < last:
            rows = await self._next_events(reference.position)
            if not rows:
                raise BrokenLog(f"gap: seq {reference.position.seq + 1} to {last} are missing")
            reference.apply(rows, last=last)

    async def _next_events(self, position: Position) -> list[EventRow]:
        entries = await self._event_range.after(position.pool, position.stream_id, count=1000)
        return read_entries(position, entries)

    async def _report_wrong_type(
        self, reference: ReferenceFold, command: tuple[str, ...], error: ResponseError
    ) -> None:
        """Report a key that is of another type. Raises `LogError` where Redis refuses otherwise."""
        refused = refusal("Redis refuses to be read", error)
        if not isinstance(refused, WrongType):
            raise refused
        verb, key = command[:2]
        (found,) = await self._source.ask([("TYPE", key)])
        pool = reference.pool
        subject = key.removeprefix(self.keys.pool(pool, "")).removeprefix(self.keys.prefix)
        subject = subject.replace(f":{{{pool}}}:", ":", 1)
        self._findings.add("redis", pool, subject, "type", TYPES[verb], found.decode())


def text_of(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _escape_pattern(text: str) -> str:
    """For SCAN: with all characters escaped that have a meaning in its patterns."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
