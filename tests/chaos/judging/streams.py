"""Reads Redis with plain commands: the logs, and the rest of a pool at one point in time."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from tests.chaos.judging.entries import CATALOGUE, Entry, Malformed, of_stream
from tests.chaos.judging.history import Head
from tests.chaos.judging.offences import Offence

GROUP: Final = "workers"
PLACER: Final = "placer"
"""For whom commands of waiting agents are pending, in a pool that has or had a placer."""
PAGE: Final = 1000
LISTED_MAX: Final = 100_000
ERRORS: Final = "surrogateescape"
"""For what agents save, which may be any bytes."""


@dataclass
class Streamed:
    """One log as its stream and counters have it."""

    entries: list[Entry] = field(default_factory=list)
    head: Head = field(default_factory=Head)
    meta: dict[str, str] = field(default_factory=dict)
    offences: list[Offence] = field(default_factory=list)


@dataclass
class Registry:
    """What Redis stores of a pool apart from its log."""

    meta: dict[str, str] = field(default_factory=dict)
    agents: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    processes: dict[str, int] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)
    timeouts: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)
    """Agents that wait for a worker of their own."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Agents that were asked to move, and when."""
    held: dict[str, set[str]] = field(default_factory=dict)
    agent_hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    process_hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    fading: set[str] = field(default_factory=set)
    """Agents and workers whose hash expires."""
    specs: dict[str, str] = field(default_factory=dict)
    """The input of each agent, as JSON; empty where there is none."""
    states: dict[str, str] = field(default_factory=dict)
    """The digest of what each agent saved; empty where there is nothing."""
    commands: dict[str, dict[str, str]] = field(default_factory=dict)
    """By entry id."""
    pending: dict[str, str] = field(default_factory=dict)
    """By entry id: the consumer that it is pending at."""
    consumers: set[str] = field(default_factory=set)
    grouped: bool = True
    """Whether the consumer group is there."""
    now_ms: int = 0


class Streams:
    """A server, below a key prefix."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.prefix = prefix
        self.client: Any = redis.Redis.from_url(
            url, decode_responses=True, encoding_errors=ERRORS, protocol=2
        )
        self.client.response_callbacks.clear()  # replies unchanged

    def ask(self, *command: Any) -> Any:
        return self.client.execute_command(*command)

    def close(self) -> None:
        self.client.close()

    def stream(self, pool: str) -> str:
        return f"{self.prefix}muster:catalogue" if pool == CATALOGUE else self.key(pool, "events")

    def meta(self, pool: str) -> str:
        if pool == CATALOGUE:
            return f"{self.prefix}{{{self.prefix}muster:catalogue}}:meta"
        return self.key(pool, "meta")

    def key(self, pool: str, part: str) -> str:
        return f"{self.prefix}pool:{{{pool}}}:{part}"

    def keys(self) -> list[str]:
        """All keys below the prefix; without a prefix, all keys."""
        found, cursor = [], "0"
        while True:
            cursor, page = self.ask("SCAN", cursor, "COUNT", PAGE)
            found += [k for k in page if k.startswith(self.prefix)]
            if cursor == "0":
                return sorted(set(found))

    def pools(self, keys: Iterable[str]) -> set[str]:
        """Pools that have a log or a counter."""
        pattern = re.compile(re.escape(self.prefix) + r"pool:\{([^}]+)\}:(?:events|meta)")
        return {match[1] for key in keys if (match := pattern.fullmatch(key))}

    # ---- a log -------------------------------------------------------------------------------

    def log(self, pool: str) -> Streamed:
        """The complete stream, read in pages, and the position that the log states."""
        found, after = Streamed(), "-"
        while page := self.ask("XRANGE", self.stream(pool), after, "+", "COUNT", PAGE):
            self._add(pool, found, page)
            after = f"({page[-1][0]}"
        self._note_meta(found, self.ask("HGETALL", self.meta(pool)))
        return found

    def catch_up(self, pool: str, found: Streamed, *commands: Sequence[Any]) -> list[Any]:
        """At one point in time: new events of the log, its position, and some replies."""
        last = f"({found.entries[-1].stream_id}" if found.entries else "-"
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("XRANGE", self.stream(pool), last, "+")
            pipeline.execute_command("HGETALL", self.meta(pool))
            for command in commands:
                pipeline.execute_command(*command)
            entries, meta, *replies = pipeline.execute(raise_on_error=False)
        self._add(pool, found, entries)
        self._note_meta(found, meta)
        return replies

    def _add(self, pool: str, found: Streamed, page: Iterable[Any]) -> None:
        for stream_id, fields in page:
            try:
                found.entries.append(of_stream(pool, stream_id, fields))
            except Malformed as error:
                found.offences.append(Offence(5, str(error), pool))

    @staticmethod
    def _note_meta(found: Streamed, meta: Any) -> None:
        found.meta = _mapping(meta)
        found.head = Head(int(found.meta.get("generation", 0)), int(found.meta.get("seq", 0)))

    # ---- the rest of a pool ------------------------------------------------------------------

    def registry(
        self, pool: str, found: Streamed, agents: Sequence[str], workers: Sequence[str]
    ) -> Registry:
        """All of a pool's keys, and the rest of its log, at one point in time."""
        key, prefix = self.key, self.prefix
        scored = ("processes", "due", "timeouts", "orders", "alone", "moves")
        commands = key(pool, "commands")
        hashes = [f"{prefix}agent:{{{pool}}}:{name}" for name in agents]
        hashes += [f"{prefix}process:{{{pool}}}:{name}" for name in workers]
        replies = iter(
            self.catch_up(
                pool,
                found,
                *(("SMEMBERS", key(pool, part)) for part in ("agents", "lost")),
                *(("ZRANGE", key(pool, part), 0, -1, "WITHSCORES") for part in scored),
                *(("SMEMBERS", key(pool, f"held:{name}")) for name in workers),
                *(("HGETALL", name) for name in hashes),
                *(("PTTL", name) for name in hashes),
                *(("GET", key(pool, f"spec:{name}")) for name in agents),
                *(("GET", f"{prefix}state:{{{pool}}}:{name}") for name in agents),
                ("XRANGE", commands, "-", "+"),
                ("XPENDING", commands, GROUP, "-", "+", LISTED_MAX),
                ("XINFO", "CONSUMERS", commands, GROUP),
                ("TIME",),
            )
        )
        read = Registry(
            meta=found.meta,
            agents=set(next(replies)),
            lost=set(next(replies)),
            processes=_scores(next(replies)),
            due=_scores(next(replies)),
            timeouts=_scores(next(replies)),
            orders=_scores(next(replies)),
            alone=set(_scores(next(replies))),
            asked=[(name.partition(":")[0], at) for name, at in _scores(next(replies)).items()],
            held={name: set(next(replies)) for name in workers},
            agent_hashes={name: _mapping(next(replies)) for name in agents},
            process_hashes={name: _mapping(next(replies)) for name in workers},
            fading={name for name in (*agents, *workers) if next(replies) >= 0},
            specs={name: str(next(replies) or "") for name in agents},
            states={name: _digest(next(replies)) for name in agents},
            commands={entry: _mapping(fields) for entry, fields in next(replies)},
        )
        pending, consumers, time = replies
        read.grouped = not isinstance(pending, Exception)
        if read.grouped:
            read.pending = {entry: consumer for entry, consumer, *_ in pending}
            read.consumers = {_mapping(consumer)["name"] for consumer in consumers}
        read.now_ms = int(time[0]) * 1000
        return read

    # ---- keys --------------------------------------------------------------------------------

    def lasting(self, keys: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Whether each of those that still exist is permanent; else it expires."""
        for start in range(0, len(keys), PAGE):
            some = keys[start : start + PAGE]
            with self.client.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.execute_command("PTTL", key)
                replies = zip(some, pipeline.execute(), strict=True)
                yield from ((key, ms == -1) for key, ms in replies if ms != -2)


def _digest(state: str | None) -> str:
    return "" if state is None else hashlib.sha256(state.encode(errors=ERRORS)).hexdigest()


def _mapping(flat: Sequence[Any]) -> dict[str, str]:
    """Names and values in turn."""
    return dict(zip(map(str, flat[::2]), map(str, flat[1::2]), strict=True))


def _scores(flat: Sequence[str]) -> dict[str, int]:
    return {name: int(float(score)) for name, score in _mapping(flat).items()}
