"""One set of views and its positions: applies events, and writes rows, archive and checkpoint.

The prior states for a batch come from a cache or from the rows, so that a restart needs no replay.
All is written in the caller's transaction, the checkpoint only where it is still the one that was
read: what a stale projector writes is rolled back with `Superseded`. Written states are remembered
only once they are committed.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field
from msgspec.structs import astuple, replace
from sqlalchemy import Connection, delete, select

from eventstore.keys import CATALOGUE
from eventstore.language import events as log_events
from eventstore.language.catalogue import Catalogue
from eventstore.language.tokens import subject_of
from projector.fold import fold
from projector.fold.prior_states import IDS_MAX, PriorStates
from projector.fold.snapshot import Snapshot
from projector.intake.entries import OK, Admitted, admit, position_after
from projector.intake.source import archived
from projector.store import agent_states, mapping
from projector.store.archive_starts import read_starts
from projector.store.lease import Superseded
from projector.store.mapping import Row, agent_of, worker_of
from projector.store.rows import EventRow, Position
from projector.store.tables import EVENTS, SERVING, How, ViewTables, run, write_rows
from projector.usage.ledger import Ledger
from projector.usage.tally import Tally, started_tally

ARCHIVE_CHUNK: Final = 5_000
_POSITION: Final = Position.__struct_fields__
_MOVE: Final = (
    f"UPDATE {{{{}}}}{{}} SET {', '.join(f'{name} = ?' for name in _POSITION)}"
    " WHERE pool = ? AND generation = ? AND seq = ?"
)
_ADD: Final = (
    f"INSERT INTO {{{{}}}}{{}} ({', '.join(_POSITION)}) VALUES ({', '.join('?' * len(_POSITION))})"
    " ON CONFLICT DO NOTHING"
)


def _load_of(row: Row) -> fold.WorkerLoad:
    return fold.WorkerLoad(worker_of(row), row["agent_count"], row["alone"])


class AppliedBatch(Struct):
    """What some events changed, valid once it was written and its transaction is committed."""

    position: Position
    catalogue: Catalogue
    state: fold.State = field(default_factory=fold.State)
    known: set[str] = field(default_factory=set)
    """Agents that have a row."""
    rows: list[EventRow] = field(default_factory=list)
    """The events, where they are to be archived."""
    tally: Tally | None = None
    """What they change in the sums of usage."""


class Projection:
    """Views in one set of tables. `archives`: the events are archived too.

    `empty`: the tables have no rows but those that it writes.
    """

    def __init__(self, tables: ViewTables, *, archives: bool, empty: bool = False) -> None:
        self._began_empty = empty
        self.tables = tables
        self.archives = archives
        self.positions: dict[str, Position] = {}
        self.catalogue = Catalogue()
        self._stored: dict[str, Position] = {}
        self._truncated: set[str] = set()
        self._agents = PriorStates(tables.agents, "agent_id", agent_of)
        self._workers = PriorStates(tables.workers, "worker_id", _load_of)
        self._ledger = Ledger(tables)

    # ---- positions ---------------------------------------------------------------------------

    def load(self, connection: Connection) -> None:
        """Read checkpoints and catalogue, and forget all else."""
        self._agents.cached.clear()
        self._workers.cached.clear()
        self._ledger.clear()
        self._stored = read_positions(connection, self.tables)
        ends = archived(connection)
        complete = read_starts(connection).keys()
        self._truncated = {
            p for p in self._stored.keys() - complete if p in ends and ends[p].first.seq > 1
        }
        position = self.position_of(CATALOGUE)
        pools = map(mapping.pool_of, connection.execute(select(self.tables.pools)).mappings())
        hosts = map(mapping.host_of, connection.execute(select(self.tables.hosts)).mappings())
        tokens = map(mapping.token_of, connection.execute(select(self.tables.tokens)).mappings())
        self.catalogue = Catalogue(
            pools={pool.pool_name: pool for pool in pools},
            hosts={host.host: host for host in hosts},
            tokens={subject_of(token.name): token for token in tokens},
            generation=position.generation,
            seq=position.seq,
            stream_id=position.stream_id,
        )
        known = {CATALOGUE: position, **self._stored}
        self.positions = {p: at for p, at in known.items() if p not in self.removed_pools()}

    def position_of(self, pool: str) -> Position:
        """Also of a pool that was removed."""
        return self.positions.get(pool) or self._stored.get(pool, Position(pool))

    def removed_pools(self) -> set[str]:
        """Pools that the views know, and the catalogue does not any more."""
        return self._stored.keys() - self.catalogue.pools.keys() - {CATALOGUE}

    def add_pools(self) -> list[str]:
        """Give every pool of the catalogue a position, and no other; returns the new ones."""
        for name in self.positions.keys() & self.removed_pools():
            del self.positions[name]
        new = [name for name in self.catalogue.pools if name not in self.positions]
        for name in new:
            self.positions[name] = self.position_of(name)
        return new

    def learn_generation(self, pool: str, generation: int) -> None:
        """Set the generation of a pool's first events."""
        self.positions[pool] = replace(self.positions[pool], generation=generation)

    # ---- events ------------------------------------------------------------------------------

    def write(self, connection: Connection, pool: str, rows: Sequence[EventRow]) -> AppliedBatch:
        """Apply events that follow the pool's position. `Superseded` must roll back."""
        applied = self.apply(connection, pool, rows)
        self.store(connection, applied)
        return applied

    def apply(
        self,
        connection: Connection,
        pool: str,
        rows: Sequence[EventRow],
        earlier: AppliedBatch | None = None,
    ) -> AppliedBatch:
        """Apply events and write nothing. `earlier`: those before them, not written either."""
        batch = earlier or AppliedBatch(self.positions[pool], self.catalogue)
        admitted = admit(batch.position, rows)
        try:
            self._fold(connection, batch, admitted.events)
        except fold.Unfoldable as error:
            valid = error.event.seq - batch.position.seq - 1
            reason = f"contradiction: {error}"
            admitted = Admitted(admitted.rows[:valid], admitted.events[:valid], reason)
            if pool == CATALOGUE:
                self._fold(connection, batch, admitted.events)
        batch.position = position_after(batch.position, admitted)
        if self.archives:
            batch.rows += admitted.rows
        return batch

    def store(self, connection: Connection, applied: AppliedBatch) -> None:
        """Write rows, archive and checkpoint. `Superseded` must roll back."""
        for chunk in mapping.chunks(applied.rows, ARCHIVE_CHUNK):
            rows = [*map(astuple, chunk)]
            write_rows(connection, EVENTS, EventRow.__struct_fields__, rows, "skip")
        self._write_state(connection, applied)
        if applied.catalogue is not self.catalogue:
            self._write_catalogue(connection, applied.catalogue)
        self._advance(connection, applied.position)

    def start_from(self, connection: Connection, snapshot: Snapshot) -> AppliedBatch:
        """Write the first state of a pool, or of the catalogue."""
        catalogue = snapshot.catalogue or self.catalogue
        applied = AppliedBatch(snapshot.position, catalogue, snapshot.state, rows=snapshot.rows)
        if snapshot.usage is not None:
            self._ledger.start_from(connection, snapshot.usage)
        elif snapshot.catalogue is None:
            workers = [load.worker for load in snapshot.state.workers.values()]
            agents = [*snapshot.state.agents.values()]
            applied.tally = started_tally(snapshot.position, agents, workers)
        self.store(connection, applied)
        if snapshot.usage is None:
            self._truncated.add(snapshot.position.pool)
        return applied

    def set_status(self, connection: Connection, pool: str, status: str) -> AppliedBatch:
        """Record that a pool's projection stopped, or goes on (`ok`)."""
        applied = AppliedBatch(replace(self.positions[pool], status=status), self.catalogue)
        self._advance(connection, applied.position)
        return applied

    def mark_committed(self, applied: AppliedBatch) -> None:
        """Remember what was committed."""
        pool = applied.position.pool
        self.positions[pool] = applied.position
        self._stored[pool] = applied.position
        if pool == CATALOGUE:  # the catalogue in a pool's batch may be older
            self.catalogue = applied.catalogue
        for agent_id, agent in applied.state.agents.items():
            self._agents.remember(pool, agent_id, agent, ended=agent.ended)
        for worker_id, load in applied.state.workers.items():
            ended = load.worker.ended and load.agent_count <= 0
            self._workers.remember(pool, worker_id, load, ended=ended)
        if applied.tally is not None:
            self._ledger.remember(applied.tally)

    def _fold(
        self, connection: Connection, batch: AppliedBatch, events: Sequence[log_events.Event]
    ) -> None:
        pool, after = batch.position.pool, batch.state
        if pool == CATALOGUE:
            batch.catalogue = fold.fold_catalogue(events, batch.catalogue)
            return
        before, stored = fold.State(), connection if self._has_rows(pool) else None
        if stored is not None:
            before = self._prior_state(stored, pool, after, events)
            batch.known.update(before.agents)
        agents = before.agents.values()
        batch.tally = tally = self._ledger.prepare(stored, pool, batch.tally, agents, events)
        try:
            truncated = pool in self._truncated
            fold.fold(pool, events, before, after=after, truncated=truncated, tally=tally)
        finally:
            tally.close()

    def _has_rows(self, pool: str) -> bool:
        return pool in self._stored or not self._began_empty

    def _prior_state(
        self,
        connection: Connection,
        pool: str,
        after: fold.State,
        events: Sequence[log_events.Event],
    ) -> fold.State:
        """Agents and workers that these events touch, besides those in `after`."""
        touched = fold.touched_agents(events)
        agents = self._agents.read(connection, pool, touched - after.agents.keys())
        held = [*agents.values(), *(after.agents[i] for i in touched & after.agents.keys())]
        worker_ids = fold.touched_workers(events, held) - after.workers.keys()
        return fold.State(agents, self._workers.read(connection, pool, worker_ids))

    # ---- rows --------------------------------------------------------------------------------

    def _write_state(self, connection: Connection, applied: AppliedBatch) -> None:
        generation, tables = applied.position.generation, self.tables
        codec, added, changed = mapping.AGENTS, [], []
        for agent_id, agent in applied.state.agents.items():
            claimed = mapping.claim_generation(agent, generation)
            if agent_id in applied.known:
                changed.append(codec.changing.of(agent, claimed))
            else:
                added.append(codec.all.of(agent, claimed))
        workers = [
            mapping.WORKERS.all.of(load.worker, load.agent_count, load.isolated_agent)
            for load in applied.state.workers.values()
        ]
        write_rows(connection, tables.agents, codec.all.names, added, "replace")
        write_rows(connection, tables.agents, codec.changing.names, changed, "change")
        how: How = "replace" if self._began_empty else "renew"
        write_rows(connection, tables.workers, mapping.WORKERS.all.names, workers, how)
        if self.archives and tables is SERVING:
            agent_states.forget(connection, applied.state.agents.values())
        if applied.tally is not None:
            before = self._stored.get(applied.position.pool)
            since_ms = before.ts if before else 0
            self._ledger.write(connection, applied.tally, since_ms, applied.position)

    def _write_catalogue(self, connection: Connection, new: Catalogue) -> None:
        old = self.catalogue
        changed = [pool for name, pool in new.pools.items() if old.pools.get(name) != pool]
        pools = [mapping.pool_record(pool) for pool in changed]
        if self.archives and self.tables is SERVING:
            agent_states.forget_pools(connection, [p.pool_name for p in changed if p.deleted])
        hosts = [mapping.host_record(h) for key, h in new.hosts.items() if old.hosts.get(key) != h]
        tokens = [
            mapping.token_record(token)
            for key, token in new.tokens.items()
            if old.tokens.get(key) != token
        ]
        for table, records in (
            (self.tables.pools, pools),
            (self.tables.hosts, hosts),
            (self.tables.tokens, tokens),
        ):
            names = tuple(column.name for column in table.columns)
            write_rows(connection, table, names, [tuple(r.values()) for r in records], "replace")
        for key, gone in (
            (self.tables.pools.c.pool_name, old.pools.keys() - new.pools),
            (self.tables.hosts.c.host, old.hosts.keys() - new.hosts),
            (self.tables.tokens.c.name, _token_names(old) - _token_names(new)),
        ):
            for chunk in mapping.chunks(sorted(gone), IDS_MAX):
                connection.execute(delete(key.table).where(key.in_(chunk)))

    def _advance(self, connection: Connection, new: Position) -> None:
        old, table = self._stored.get(new.pool), self.tables.checkpoints.name
        if old is None:
            moved = run(connection, _ADD.format(table), *astuple(new))
        else:
            guard = (old.pool, old.generation, old.seq)
            moved = run(connection, _MOVE.format(table), *astuple(new), *guard)
        if moved.rowcount != 1:
            raise Superseded(f"the checkpoint of {new.pool or 'the catalogue'!r} has moved")


def _token_names(catalogue: Catalogue) -> set[str]:
    return {token.name for token in catalogue.tokens.values()}


def read_positions(connection: Connection, tables: ViewTables) -> dict[str, Position]:
    """Every checkpoint."""
    rows = run(connection, f"SELECT {', '.join(_POSITION)} FROM {{}}{tables.checkpoints.name}")
    return {row.pool: Position(*row) for row in rows}


def stopped(position: Position) -> bool:
    return position.status != OK
