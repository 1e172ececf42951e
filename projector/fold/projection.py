"""One set of views and its positions: applies events, and writes rows, archive and checkpoint.

The prior states for a batch come from a cache or from the rows, so that a restart needs no replay.
All is written in the caller's transaction, the checkpoint only where it is still the one that was
read: what a stale projector writes is rolled back with `Superseded`. Written states are remembered
only once they are committed.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace
from sqlalchemy import Connection, Table, delete, select, update

from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Catalogue
from projector.fold import fold
from projector.fold.snapshot import Snapshot
from projector.intake.entries import OK, Admitted, admit, position_after
from projector.intake.source import archive_start
from projector.store import mapping
from projector.store.lease import Superseded
from projector.store.mapping import Row, agent_of, worker_of
from projector.store.rows import EventRow, Position
from projector.store.tables import EVENTS, ViewTables, insert_new, write_rows

CACHE_MAX: Final = 50_000
"""Agents, and workers, whose state is cached."""
IDS_MAX: Final = 500
"""Ids in one SELECT."""
ARCHIVE_CHUNK: Final = 5_000

T = TypeVar("T")


class _PriorStates(Generic[T]):
    """Of the rows in one table; those that have not ended are cached once they are committed."""

    def __init__(self, table: Table, key: str, state_of: Callable[[Row], T]) -> None:
        self._table = table
        self._key = key
        self._state_of = state_of
        self.cached: OrderedDict[tuple[str, str], T] = OrderedDict()

    def read(self, connection: Connection, pool: str, ids: set[str]) -> dict[str, T]:
        found = {i: self.cached[pool, i] for i in ids if (pool, i) in self.cached}
        query = select(self._table).where(self._table.c.pool_name == pool)
        for chunk in mapping.chunks(sorted(ids - found.keys()), IDS_MAX):
            rows = connection.execute(query.where(self._table.c[self._key].in_(chunk))).mappings()
            found |= {row[self._key]: self._state_of(row) for row in rows}
        return found

    def remember(self, pool: str, name: str, state: T, *, ended: bool) -> None:
        self.cached.pop((pool, name), None)
        if not ended:
            self.cached[pool, name] = state
        if len(self.cached) > CACHE_MAX:
            self.cached.popitem(last=False)


def _load_of(row: Row) -> fold.WorkerLoad:
    return fold.WorkerLoad(worker_of(row), row["agent_count"], row["alone"])


class AppliedBatch(Struct, frozen=True):
    """The result of a batch, valid once its transaction is committed."""

    position: Position
    state: fold.State
    catalogue: Catalogue


class Projection:
    """Views in one set of tables. `archives`: the events are archived too."""

    def __init__(self, tables: ViewTables, *, archives: bool) -> None:
        self.tables = tables
        self.archives = archives
        self.positions: dict[str, Position] = {}
        self.catalogue = Catalogue()
        self._stored: dict[str, Position] = {}
        self._truncated: set[str] = set()
        self._agents = _PriorStates(tables.agents, "agent_id", agent_of)
        self._workers = _PriorStates(tables.workers, "worker_id", _load_of)

    # ---- positions ---------------------------------------------------------------------------

    def load(self, connection: Connection) -> None:
        """Read checkpoints and catalogue, and forget all else."""
        self._agents.cached.clear()
        self._workers.cached.clear()
        self._stored = read_positions(connection, self.tables)
        self._truncated = {pool for pool in self._stored if archive_start(connection, pool).seq > 1}
        position = self.position_of(CATALOGUE)
        pools = map(mapping.pool_of, connection.execute(select(self.tables.pools)).mappings())
        hosts = map(mapping.host_of, connection.execute(select(self.tables.hosts)).mappings())
        self.catalogue = Catalogue(
            pools={pool.pool_name: pool for pool in pools},
            hosts={host.host: host for host in hosts},
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
        position = self.positions[pool]
        admitted = admit(position, rows)
        try:
            state, catalogue = self._fold(connection, position, admitted)
        except fold.Unfoldable as error:
            valid = error.event.seq - position.seq - 1
            reason = f"contradiction: {error}"
            admitted = Admitted(admitted.rows[:valid], admitted.events[:valid], reason)
            state, catalogue = self._fold(connection, position, admitted)
        after = position_after(position, admitted)
        if self.archives:
            write_rows(connection, EVENTS, [asdict(row) for row in admitted.rows], "skip")
        self._write_state(connection, state, after.generation)
        if catalogue is not self.catalogue:
            self._write_catalogue(connection, catalogue)
        self._advance(connection, after)
        return AppliedBatch(after, state, catalogue)

    def start_from(self, connection: Connection, snapshot: Snapshot) -> AppliedBatch:
        """Write the first state of a pool, or of the catalogue."""
        position = snapshot.position
        for chunk in mapping.chunks(snapshot.rows, ARCHIVE_CHUNK):
            write_rows(connection, EVENTS, [asdict(row) for row in chunk], "skip")
        self._write_state(connection, snapshot.state, position.generation)
        catalogue = snapshot.catalogue or self.catalogue
        self._write_catalogue(connection, catalogue)
        self._advance(connection, position)
        self._truncated.add(position.pool)
        return AppliedBatch(position, snapshot.state, catalogue)

    def set_status(self, connection: Connection, pool: str, status: str) -> AppliedBatch:
        """Record that a pool's projection stopped, or goes on (`ok`)."""
        position = self.positions[pool]
        after = replace(position, status=status)
        self._advance(connection, after)
        return AppliedBatch(after, fold.State(), self.catalogue)

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

    def _fold(
        self, connection: Connection, position: Position, admitted: Admitted
    ) -> tuple[fold.State, Catalogue]:
        pool, events = position.pool, admitted.events
        if pool == CATALOGUE:
            return fold.State(), fold.fold_catalogue(events, self.catalogue)
        known = self._agents.read(connection, pool, fold.touched_agents(events))
        worker_ids = fold.touched_workers(events, known.values())
        before = fold.State(known, self._workers.read(connection, pool, worker_ids))
        truncated = pool in self._truncated
        return fold.fold(pool, events, before, truncated=truncated), self.catalogue

    # ---- rows --------------------------------------------------------------------------------

    def _write_state(self, connection: Connection, state: fold.State, generation: int) -> None:
        agents = [mapping.agent_record(agent, generation) for agent in state.agents.values()]
        workers = [
            mapping.worker_record(load.worker, load.agent_count, load.isolated_agent)
            for load in state.workers.values()
        ]
        write_rows(connection, self.tables.agents, agents, "replace")
        write_rows(connection, self.tables.workers, workers, "replace")

    def _write_catalogue(self, connection: Connection, new: Catalogue) -> None:
        old = self.catalogue
        pools = [mapping.pool_record(p) for key, p in new.pools.items() if old.pools.get(key) != p]
        hosts = [mapping.host_record(h) for key, h in new.hosts.items() if old.hosts.get(key) != h]
        write_rows(connection, self.tables.pools, pools, "replace")
        write_rows(connection, self.tables.hosts, hosts, "replace")
        for key, gone in (
            (self.tables.pools.c.pool_name, old.pools.keys() - new.pools),
            (self.tables.hosts.c.host, old.hosts.keys() - new.hosts),
        ):
            for chunk in mapping.chunks(sorted(gone), IDS_MAX):
                connection.execute(delete(key.table).where(key.in_(chunk)))

    def _advance(self, connection: Connection, new: Position) -> None:
        table, values, old = self.tables.checkpoints, asdict(new), self._stored.get(new.pool)
        if old is not None:
            moved = connection.execute(
                update(table)
                .where(table.c.pool == old.pool, table.c.generation == old.generation)
                .where(table.c.seq == old.seq)
                .values(values)
                .returning(table.c.pool)
            )
        else:
            added = insert_new(connection, table).returning(table.c.pool)
            moved = connection.execute(added, values)
        if moved.first() is None:
            raise Superseded(f"the checkpoint of {new.pool or 'the catalogue'!r} has moved")


def read_positions(connection: Connection, tables: ViewTables) -> dict[str, Position]:
    """Every checkpoint."""
    columns = [tables.checkpoints.c[name] for name in Position.__struct_fields__]
    rows = connection.execute(select(*columns)).mappings()
    return {row["pool"]: Position(**row) for row in rows}


def stopped(position: Position) -> bool:
    return position.status != OK
