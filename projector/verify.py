"""Do the views, and Redis' own state, say what the log says? Checked while the system runs.

The log is folded afresh, from its first event. On the way two moments are kept: the position that
the views were at when they were read, and the one that Redis was at when its hashes and sets were
read, each in one transaction. What stands at either moment must be what the fold says, field by
field. Where archive and stream both hold an event, they must hold the same.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select

from eventstore import agent as agents
from eventstore import worker as workers
from eventstore.agent import Agent, Status
from eventstore.errors import LogError, UnknownEvent
from eventstore.log import CATALOGUE
from eventstore.pool import Catalogue
from eventstore.worker import WorkerStatus
from projector.database import Database
from projector.fold import Crew, State, Unfoldable, fold, fold_catalogue
from projector.intake import event_of
from projector.records import Record, agent_record, host_record, pool_record, worker_record
from projector.rows import EventRow, Position
from projector.source import Source, archived
from projector.tables import SERVING

PAGE: Final = 1000
ATTEMPTS: Final = 50
"""How often Redis is read again when agents came or went between two questions."""
ABSENT: Final = "(absent)"


class Difference(Struct, frozen=True):
    """One thing that is not as the log has it. `pool` is empty for the catalogue."""

    pool: str
    subject: str
    field: str
    expected: str
    found: str


class Report(Struct, frozen=True, kw_only=True):
    """`events` were folded, `subjects` (agents, workers, pools, hosts) compared."""

    pools: Sequence[str]
    events: int
    subjects: int
    differences: Sequence[Difference]

    @property
    def equal(self) -> bool:
        return not self.differences


async def verify(redis_url: str, key_prefix: str, database_url: str) -> Report:
    """Compare the views and Redis with a fresh fold of every log. Raises `LogError`."""
    source, database = Source(redis_url, key_prefix), Database(database_url)
    try:
        database.open()
        await database.prepare()
        return await _Verification(source, database).run()
    finally:
        await source.close()
        await database.close()


class _Redis(Struct, frozen=True):
    """A pool in Redis at one moment, as text."""

    seq: int
    free: int
    waiting: int
    agents: set[str]
    processes: dict[str, int]
    due: set[str]
    hashes: dict[str, dict[str, str]]
    workers: dict[str, dict[str, str]]
    held: dict[str, set[str]]


class _Views(Struct, frozen=True):
    """A pool's rows at one position."""

    position: Position
    agents: dict[str, Record]
    workers: dict[str, Record]


class _Verification:
    def __init__(self, source: Source, database: Database) -> None:
        self._source = source
        self._database = database
        self._differences: list[Difference] = []
        self._events = 0
        self._subjects = 0

    async def run(self) -> Report:
        names = await self._catalogue()
        for name in names:
            await self._pool(name)
        return Report(
            pools=names,
            events=self._events,
            subjects=self._subjects,
            differences=self._differences,
        )

    def _differ(self, pool: str, subject: str, field: str, expected: object, found: object) -> None:
        if expected != found:
            self._differences.append(
                Difference(pool, subject, field, _shown(expected), _shown(found))
            )

    # ---- the catalogue -----------------------------------------------------------------------

    async def _catalogue(self) -> list[str]:
        """Compare pools and hosts; returns the names of all pools."""

        def read(connection: Connection) -> tuple[Position, dict[str, Record], dict[str, Record]]:
            return (
                _position(connection, CATALOGUE),
                _rows(connection, SERVING.pools, "pool_name"),
                _rows(connection, SERVING.hosts, "host"),
            )

        position, pools, hosts = await self._database.read(read)
        [head] = (await self._source.heads([CATALOGUE])).values()
        state = then = Catalogue()
        async for row in self._log(CATALOGUE, head.generation, head.seq):
            if row.seq == position.seq + 1:
                then = state
            state = fold_catalogue([event_of(row)], state)
        then = then if position.seq < state.seq else state
        self._records(CATALOGUE, {n: pool_record(p) for n, p in then.pools.items()}, pools)
        self._records(CATALOGUE, {n: host_record(h) for n, h in then.hosts.items()}, hosts)
        return sorted(state.pools)

    # ---- a pool ------------------------------------------------------------------------------

    async def _pool(self, pool: str) -> None:
        views = await self._database.read(lambda connection: _read_views(connection, pool))
        [head] = (await self._source.heads([pool])).values()
        if not head.generation:
            self._differ(pool, "log", "generation", "at least 1", ABSENT)
            return
        redis = await self._read_redis(pool)
        if head.seq:  # of a log without events the views know nothing yet
            known = views.position.generation
            self._differ(pool, "log", "generation", head.generation, known)
        state, at_views, at_redis = State(), State(), State()
        try:
            async for row in self._log(pool, head.generation, max(redis.seq, views.position.seq)):
                changed = fold(pool, [event_of(row)], state)
                state.agents.update(changed.agents)
                state.workers.update(changed.workers)
                if row.seq == views.position.seq:
                    at_views = State(dict(state.agents), dict(state.workers))
                if row.seq == redis.seq:
                    at_redis = State(dict(state.agents), dict(state.workers))
        except (Unfoldable, UnknownEvent, msgspec.DecodeError) as error:
            self._differ(pool, "log", "fold", "every event follows", str(error))
            return
        self._compare_views(pool, head.generation, at_views, views)
        self._compare_redis(pool, at_redis, redis)

    async def _log(self, pool: str, generation: int, last: int) -> AsyncIterator[EventRow]:
        """Every event up to seq `last`: from the archive, and from the stream where that begins."""
        position = Position(pool=pool, generation=generation)
        while page := await self._page(position):
            for row in page:
                self._differ(pool, "log", "seq", position.seq + 1, row.seq)
                if row.seq > last:
                    return
                self._events += 1
                yield row
                position = Position(pool, generation, row.seq, row.stream_id)
        if position.seq < last:
            self._differ(pool, "log", "last seq", last, position.seq)

    async def _page(self, position: Position) -> list[EventRow]:
        """What follows a position; the archive is held against the stream where both have it."""
        in_stream = await self._source.after(position, count=PAGE)
        kept = await self._database.read(
            lambda connection: archived(connection, position, count=PAGE)
        )
        if not in_stream or in_stream[0].seq > position.seq + 1:
            below = in_stream[0].seq if in_stream else None
            return [row for row in kept if below is None or row.seq < below] or in_stream
        streamed = {row.seq: row for row in in_stream}
        for row in kept:
            if row.seq in streamed:
                self._differ(position.pool, f"seq {row.seq}", "archive", streamed[row.seq], row)
        return in_stream

    def _compare_views(self, pool: str, generation: int, state: State, views: _Views) -> None:
        expected = {name: agent_record(a, generation) for name, a in state.agents.items()}
        self._records(pool, expected, views.agents)
        crews = {n: worker_record(c.worker, c.agent_count) for n, c in state.workers.items()}
        self._records(pool, crews, views.workers)

    def _records(
        self, pool: str, expected: Mapping[str, Record], found: Mapping[str, Record]
    ) -> None:
        """Compare rows field by field."""
        self._subjects += len({*expected, *found})
        for name in sorted({*expected, *found}):
            if name not in expected or name not in found:
                self._differ(pool, name, "row", *_presence(name in expected, name in found))
                continue
            for field, value in expected[name].items():
                self._differ(pool, name, field, value, found[name].get(field))

    # ---- Redis -------------------------------------------------------------------------------

    async def _read_redis(self, pool: str) -> _Redis:
        """A pool's hashes and sets at one moment. Raises `LogError` if it never stands still."""
        key = self._source.keys.pool
        indexes: list[tuple[str, ...]] = [
            ("HMGET", key(pool, "meta"), "seq", "free", "waiting"),
            ("SMEMBERS", key(pool, "agents")),
            ("ZRANGE", key(pool, "processes"), "0", "-1", "WITHSCORES"),
            ("ZRANGE", key(pool, "orders"), "0", "-1"),
            ("SMEMBERS", key(pool, "lost")),
            ("ZRANGE", key(pool, "due"), "0", "-1"),
        ]
        for _ in range(ATTEMPTS):
            before = await self._source.ask(indexes, atomic=True)
            names = sorted(_text(before[1]))
            crew = sorted({*dict(_scores(before[2])), *_text(before[3]), *_text(before[4])})
            reads: list[tuple[str, ...]] = [
                *indexes,
                *(("HGETALL", self._source.keys.agent(pool, name)) for name in names),
                *(("HGETALL", self._source.keys.process(pool, name)) for name in crew),
                *(("SMEMBERS", key(pool, f"held:{name}")) for name in crew),
            ]
            after = await self._source.ask(reads, atomic=True)
            if [sorted(_text(r)) for r in (after[1], after[3], after[4])] != [
                sorted(_text(r)) for r in (before[1], before[3], before[4])
            ] or dict(_scores(after[2])).keys() != dict(_scores(before[2])).keys():
                continue
            rest = after[len(indexes) :]
            return _Redis(
                seq=int(after[0][0] or 0),
                free=int(after[0][1] or 0),
                waiting=int(after[0][2] or 0),
                agents=set(names),
                processes=dict(_scores(after[2])),
                due=set(_text(after[5])),
                hashes=dict(zip(names, map(_hash, rest), strict=False)),
                workers=dict(zip(crew, map(_hash, rest[len(names) :]), strict=False)),
                held={
                    name: set(_text(members))
                    for name, members in zip(crew, rest[len(names) + len(crew) :], strict=True)
                },
            )
        raise LogError(f"pool {pool!r} changes too fast to be read at one moment; try again")

    def _compare_redis(self, pool: str, state: State, redis: _Redis) -> None:
        live = {name: agent for name, agent in state.agents.items() if not agent.ended}
        self._members(pool, "set agents", set(live), redis.agents)
        waiting = sum(agent.status is Status.PENDING for agent in live.values())
        self._differ(pool, "meta", "waiting", waiting, redis.waiting)
        restarting = {n for n, agent in live.items() if agent.status is Status.RESTARTING}
        self._members(pool, "zset due", restarting, redis.due)
        self._compare_agents(pool, live, redis)
        self._compare_workers(pool, state.workers, live, redis)

    def _compare_agents(self, pool: str, live: Mapping[str, Agent], redis: _Redis) -> None:
        for name in sorted(live.keys() & redis.agents):
            for field, value in agents.to_hash(live[name]).items():
                found = redis.hashes[name].get(field, ABSENT)
                self._differ(pool, name, f"hash {field}", value, found)

    def _compare_workers(
        self, pool: str, crews: Mapping[str, Crew], live: Mapping[str, Agent], redis: _Redis
    ) -> None:
        held: dict[str, set[str]] = {}
        for name, agent in live.items():
            if agent.held:
                held.setdefault(agent.worker_id, set()).add(name)
        scores = {
            name: crew.worker.max_agents - crew.agent_count
            if crew.worker.status is WorkerStatus.ACTIVE
            else 0
            for name, crew in crews.items()
            if crew.worker.alive
        }
        self._members(pool, "zset processes", set(scores), set(redis.processes))
        self._differ(pool, "meta", "free", sum(scores.values()), redis.free)
        for name in sorted(redis.workers):
            crew = crews.get(name)
            if crew is None:
                self._differ(pool, name, "process", ABSENT, "there")
                continue
            expected = {**workers.to_hash(crew.worker), "agent_count": str(crew.agent_count)}
            for field, value in expected.items():
                found = redis.workers[name].get(field, ABSENT)
                self._differ(pool, name, f"hash {field}", value, found)
            self._members(pool, f"set held:{name}", held.get(name, set()), redis.held[name])
            if name in scores and name in redis.processes:
                self._differ(pool, name, "score", scores[name], redis.processes[name])

    def _members(self, pool: str, what: str, expected: set[str], found: set[str]) -> None:
        for name in sorted(expected ^ found):
            self._differ(pool, name, what, *_presence(name in expected, name in found))


# ---- reading -----------------------------------------------------------------------------------


def _read_views(connection: Connection, pool: str) -> _Views:
    return _Views(
        _position(connection, pool),
        _rows(connection, SERVING.agents, "agent_id", pool),
        _rows(connection, SERVING.workers, "worker_id", pool),
    )


def _position(connection: Connection, pool: str) -> Position:
    found = connection.execute(
        select(SERVING.checkpoints).where(SERVING.checkpoints.c.pool == pool)
    ).one_or_none()
    if found is None:
        return Position(pool)
    return Position(pool, found.generation, found.seq, found.stream_id, found.ts, found.status)


def _rows(connection: Connection, table: Any, key: str, pool: str = "") -> dict[str, Record]:
    wanted = select(table)
    if pool:
        wanted = wanted.where(table.c.pool_name == pool)
    return {row[key]: dict(row) for row in connection.execute(wanted).mappings()}


def _presence(expected: bool, found: bool) -> tuple[str, str]:
    return ("there" if expected else ABSENT, "there" if found else ABSENT)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _text(members: Sequence[bytes] | set[bytes]) -> list[str]:
    return [member.decode() for member in members]


def _scores(raw: Sequence[Any]) -> list[tuple[str, int]]:
    """Members and scores, whether the client paired them or left them in turn."""
    if raw and isinstance(raw[0], bytes):
        raw = list(zip(raw[::2], raw[1::2], strict=True))
    return [(member.decode(), int(float(score))) for member, score in raw]


def _hash(raw: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    pairs = raw.items() if isinstance(raw, Mapping) else zip(raw[::2], raw[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}
