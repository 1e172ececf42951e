"""The tables of the views: a documented contract that people point Grafana at.

There are five kinds. *Views* (`agents`, `workers`, `pools`, `hosts`, `tokens`, the sums of usage,
and `checkpoints`, which has their positions) are folds of the log and can be dropped and rebuilt.
*Live* tables have the newest heartbeats. The *archive* (`events`) has every event exactly as it was
in the stream; where it was pruned, `archive_starts` and `archive_snapshots` have what lived then.
It cannot be rebuilt, and neither can `agent_states`, which has what each agent saved last, and
`alerts`. `retained` says how far back rows of what has ended are there.

The same definitions serve SQLite and PostgreSQL (there in the schema `muster`). A rebuild fills a
second set of the views, `fresh_…`, next to the serving ones. Times are milliseconds of log time
since 1970, 0 where a thing has not happened; JSON is stored as text.

Many rows are written at once in the fastest way of each database. PostgreSQL gets one statement
with all rows as one JSON text (a statement per row, even pipelined, takes several times as long,
and so do arrays, which the driver writes item by item). COPY is faster for thousands of rows, but
cannot replace any. SQLite gets one prepared statement, run for each row.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from projector.store.mapping import AGENTS, HOSTS, POOLS, TOKENS, WORKERS, RowCodec
from projector.store.rows import EventRow, Position
from projector.store.usage_rows import ACCOUNTS, HISTORY_VIEWS, SUMS

VIEW_VERSION: Final = 14
"""Raised when the meaning, columns or indexes of a view change: a projector that finds another one
rebuilds."""

INCOMPLETE: Final = 0
"""Recorded in place of a version when some of the views were found missing."""

SCHEMA: Final = "muster"
"""The schema of the tables in PostgreSQL."""

ID_LENGTH: Final = 36
ID_PART_MIN: Final = 6
"""An id can be found by so many of its first or last characters."""

SHADOW_PREFIX: Final = "fresh_"
VIEWS: Final = (
    "checkpoints", "pools", "hosts", "tokens", "workers", "agents", "usage_accounts", "usage_sums",
)  # fmt: skip
ADDED_VIEWS: Final = frozenset({"tokens", "usage_accounts", "usage_sums"})
"""Those that earlier versions did not have."""


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String, primary_key=True)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


_TYPES: Final[dict[str, type[TypeEngine[Any]]]] = {
    "text": sa.Text,
    "bigint": sa.BigInteger,
    "integer": sa.Integer,
    "double precision": sa.Double,
    "boolean": sa.Boolean,
}
_DEFAULTS: Final = {"text": "", "bigint": "0"}


def _columns(codec: RowCodec[Any]) -> Iterator[sa.Column[Any]]:
    for name, (_, form) in codec.columns.items():
        kind = _TYPES[form.sql]
        if name in codec.keys:
            yield sa.Column(name, sa.String if kind is sa.Text else kind, primary_key=True)
        else:
            default = _DEFAULTS.get(form.sql)
            yield sa.Column(name, kind, nullable=form.nullable, server_default=default)


class ViewTables:
    """One set of the tables that a fold fills, all of them with `prefix` before their names."""

    def __init__(self, metadata: sa.MetaData, prefix: str = "") -> None:
        def table(name: str, codec: RowCodec[Any], **options: Any) -> sa.Table:
            return sa.Table(f"{prefix}{name}", metadata, *_columns(codec), **options)

        checkpoints = RowCodec(Position, keys="pool", more={"heartbeat_id": str})
        self.checkpoints = table("checkpoints", checkpoints)
        self.pools = table("pools", POOLS)
        self.hosts = table("hosts", HOSTS)
        self.tokens = table("tokens", TOKENS)
        self.workers = table("workers", WORKERS)
        self.agents = table("agents", AGENTS)
        self.usage_accounts = table("usage_accounts", ACCOUNTS)
        self.usage_sums = table("usage_sums", SUMS, sqlite_with_rowid=False)

    def all(self) -> tuple[sa.Table, ...]:
        """In the order of `VIEWS`."""
        catalogue = (self.checkpoints, self.pools, self.hosts, self.tokens)
        return (*catalogue, self.workers, self.agents, self.usage_accounts, self.usage_sums)


METADATA: Final = sa.MetaData()
SERVING: Final = ViewTables(METADATA)


def id_end(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """The last characters of an id, by which it can be found through an index."""
    return sa.func.substr(column, sa.literal_column(str(ID_LENGTH - ID_PART_MIN + 1)))


sa.Index("agents_by_id_end", id_end(SERVING.agents.c.agent_id))
sa.Index("workers_by_id_end", id_end(SERVING.workers.c.worker_id))
_AGENTS: Final = SERVING.agents.c
_WORKERS: Final = SERVING.workers.c
sa.Index("agents_by_pool", _AGENTS.pool_name, _AGENTS.status, _AGENTS.agent_id)
sa.Index("agents_by_project", _AGENTS.project_id, _AGENTS.agent_id)
sa.Index("agents_by_process", _AGENTS.process_id)
HAS_STATE: Final = _AGENTS.state_sha256 != sa.literal_column("''")
"""That an agent has saved a state; an index has only these."""
sa.Index(
    "agents_with_state",
    _AGENTS.state_lost,
    _AGENTS.agent_id,
    sqlite_where=HAS_STATE,
    postgresql_where=HAS_STATE,
)
sa.Index("workers_by_pool", _WORKERS.pool_name, _WORKERS.status)
sa.Index("workers_of_pool", _WORKERS.pool_name, _WORKERS.worker_id)

SHADOW_METADATA: Final = sa.MetaData()
SHADOW: Final = ViewTables(SHADOW_METADATA, SHADOW_PREFIX)

AGENT_LIVE: Final = sa.Table(
    "agent_live",
    METADATA,
    _key("agent_id"),
    _key("pool_name"),
    _text("process_id"),
    _text("activity"),
    _number("last_heartbeat"),
)
WORKER_LIVE: Final = sa.Table(
    "worker_live",
    METADATA,
    _key("worker_id"),
    _key("pool_name"),
    sa.Column("agent_count", sa.Integer, nullable=False),
    sa.Column("loop_lag_ms", sa.Double, nullable=False),
    _number("memory_bytes"),
    _number("last_heartbeat"),
)

_EVENTS: Final = RowCodec(EventRow, keys="pool generation seq")
EVENTS: Final = sa.Table("events", METADATA, *_columns(_EVENTS))
sa.Index("events_by_subject", EVENTS.c.subject, EVENTS.c.seq)
sa.Index("events_by_type", EVENTS.c.type, EVENTS.c.ts)

AGENT_STATES: Final = sa.Table(
    "agent_states",
    METADATA,
    _key("pool_name"),
    _key("agent_id"),
    _number("save"),
    _text("sha256"),
    _number("saved_at"),
    sa.Column("state", sa.LargeBinary, nullable=False),
)

ALERTS: Final = sa.Table(
    "alerts",
    METADATA,
    _key("alert_id"),
    *map(_text, ("name", "severity", "subject", "pool_name")),
    sa.Column("count", sa.Integer, nullable=False, server_default="1"),
    *map(_text, ("newest", "message", "action", "runbook")),
    _number("opened_at"),
    _number("closed_at"),
)
sa.Index("alerts_by_end", ALERTS.c.closed_at)
sa.Index("alerts_by_pool", ALERTS.c.pool_name, ALERTS.c.alert_id)
ARCHIVE_STARTS: Final = sa.Table(
    "archive_starts",
    METADATA,
    _key("pool"),
    _number("generation"),
    _number("seq"),
    _text("stream_id"),
    _number("ts"),
    _text("sha256"),
)
ARCHIVE_SNAPSHOTS: Final = sa.Table(
    "archive_snapshots",
    METADATA,
    _key("pool"),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    _key("kind"),
    _key("name"),
    _text("state"),
)
sa.Index("archive_snapshots_by_name", ARCHIVE_SNAPSHOTS.c.name)
RETAINED: Final = sa.Table("retained", METADATA, _key("name"), _number("value"))

LEASES: Final = sa.Table(
    "leases", METADATA, _key("name"), _text("holder"), _number("term"), _number("renewal")
)
VIEW_VERSIONS: Final = sa.Table("view_versions", METADATA, _key("name"), _number("version"))

_CAPACITY_COUNTS: Final = (
    "process_count active_worker_processes ordered_worker_processes total_capacity used_capacity"
    " available_capacity agent_count pending_count"
)
CAPACITY: Final = sa.Table(
    "pool_capacity",
    sa.MetaData(),  # a view, made by the statement below
    _key("pool_name"),
    *map(_number, _CAPACITY_COUNTS.split()),
    sa.Column("utilization", sa.Double),
)
POOL_CAPACITY: Final = """
CREATE VIEW {schema}pool_capacity AS
SELECT counted.*,
       total_capacity - used_capacity AS available_capacity,
       CASE WHEN total_capacity > 0
            THEN round(used_capacity * 10000.0 / total_capacity) / 10000.0
            ELSE 0.0 END AS utilization
FROM (
    SELECT p.pool_name, p.role_type,
        (SELECT count(*) FROM {schema}workers w WHERE w.pool_name = p.pool_name
            AND w.status IN ('active', 'suspect', 'draining')) AS process_count,
        (SELECT count(*) FROM {schema}workers w WHERE w.pool_name = p.pool_name
            AND w.status = 'active') AS active_worker_processes,
        (SELECT count(*) FROM {schema}workers w WHERE w.pool_name = p.pool_name
            AND w.status = 'requested') AS ordered_worker_processes,
        (SELECT coalesce(sum(
                CASE WHEN w.cordoned <> '' THEN w.agent_count ELSE w.max_agents END), 0)
            FROM {schema}workers w
            WHERE w.pool_name = p.pool_name AND w.status = 'active') AS total_capacity,
        (SELECT coalesce(sum(
                CASE WHEN w.cordoned <> '' OR w.alone = '' THEN w.agent_count
                    ELSE w.max_agents END), 0)
            FROM {schema}workers w
            WHERE w.pool_name = p.pool_name AND w.status = 'active') AS used_capacity,
        (SELECT count(*) FROM {schema}agents a WHERE a.pool_name = p.pool_name
            AND a.status IN ('pending', 'starting', 'running', 'stopping', 'restarting')
        ) AS agent_count,
        (SELECT count(*) FROM {schema}agents a WHERE a.pool_name = p.pool_name
            AND a.status = 'pending') AS pending_count
    FROM {schema}pools p WHERE NOT p.deleted
) AS counted
"""

SQL_VIEWS: Final = {"pool_capacity": POOL_CAPACITY, **HISTORY_VIEWS}
"""By name, the statements that create them."""

COPIED_ROWS: Final = 100
"""From so many, COPY is tried first: it takes a transaction of its own within the other."""

How = Literal["skip", "replace", "renew", "change"]
"""`skip`, `replace`: insert rows, and skip or replace those whose key is in the table already;
`renew`: as `replace`, where many are: a COPY would fail, which the server logs as an error;
`change`: set columns of rows that are in the table."""


def write_rows(
    connection: sa.Connection,
    table: sa.Table,
    names: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
    how: How,
) -> None:
    """Write rows, no two with the same key: tuples of values in the order of `names`."""
    if not rows:
        return
    statement = _statement(table, names, connection.dialect, how)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(statement, list(rows))
    elif (
        how in ("renew", "change")
        or len(rows) < COPIED_ROWS
        or not _copied(connection, table, names, rows)
    ):
        records = [dict(zip(names, row, strict=True)) for row in rows]
        connection.exec_driver_sql(statement, (msgspec.json.encode(records).decode(),))


def _copied(
    connection: sa.Connection, table: sa.Table, names: tuple[str, ...], rows: Iterable[Any]
) -> bool:
    """Whether they were added with COPY: not where a row is in the table already."""
    driver: Any = connection.dialect.loaded_dbapi
    cursor: Any = connection.connection.cursor()
    columns = ", ".join(map(connection.dialect.identifier_preparer.quote, names))
    try:
        with (
            connection.begin_nested(),
            cursor,
            cursor.copy(f"COPY {SCHEMA}.{table.name} ({columns}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
    except driver.IntegrityError:
        return False
    except driver.Error as error:
        raise sa.exc.DBAPIError("COPY", None, error) from error
    return True


@cache
def _statement(table: sa.Table, names: tuple[str, ...], dialect: sa.Dialect, how: How) -> str:
    quoted = {name: dialect.identifier_preparer.quote(name) for name in names}
    keys = [column.name for column in table.primary_key]
    changing = [name for name in names if name not in keys]
    if dialect.name == "sqlite":
        target, source = table.name, ""
        new = {name: f"?{number}" for number, name in enumerate(names, 1)}
        values = f"VALUES ({', '.join(new.values())})"
    else:
        types = (f"{q} {table.c[name].type.compile(dialect)}" for name, q in quoted.items())
        target, rows = (
            f"{SCHEMA}.{table.name}",
            f"json_to_recordset(%s::json) AS rows ({', '.join(types)})",
        )
        source, values = f"FROM {rows}", f"SELECT * FROM {rows}"
        new = {name: f"rows.{q}" for name, q in quoted.items()}
    if how == "change":
        changes = ", ".join(f"{quoted[name]} = {new[name]}" for name in changing)
        same_key = " AND ".join(f"{table.name}.{key} = {new[key]}" for key in keys)
        return f"UPDATE {target} SET {changes} {source} WHERE {same_key}"
    changes = ", ".join(f"{quoted[name]} = excluded.{quoted[name]}" for name in changing)
    action = "NOTHING" if how == "skip" else f"UPDATE SET {changes}"
    inserted = f"INSERT INTO {target} ({', '.join(quoted.values())}) {values}"
    return f"{inserted} ON CONFLICT ({', '.join(keys)}) DO {action}"


def run(
    connection: sa.Connection, statement: str, *values: Any
) -> "sa.CursorResult[*tuple[Any, ...]]":
    """Run SQL written by hand: `{}` in it is the schema, and each `?` one of the values."""
    return connection.exec_driver_sql(_in_dialect(statement, connection.dialect.name), values)


def run_all(connection: sa.Connection, statements: Iterable[str]) -> None:
    """Run SQL without values; PostgreSQL gets all of it at once."""
    sqlite = connection.dialect.name == "sqlite"
    for statement in statements if sqlite else ["; ".join(statements)]:
        run(connection, statement)


@cache
def _in_dialect(statement: str, dialect_name: str) -> str:
    if dialect_name == "sqlite":
        return statement.replace("{}", "")
    return statement.replace("{}", f"{SCHEMA}.").replace("?", "%s")


def same_columns(connection: sa.Connection, table: sa.Table, names: Iterable[str]) -> str:
    """Whether these columns of the rows `old` and `new` are equal; NULL equals NULL."""
    quote = connection.dialect.identifier_preparer.quote
    equal = "IS" if connection.dialect.name == "sqlite" else "IS NOT DISTINCT FROM"
    return " AND ".join(
        f"old.{quote(name)} {'=' if name in table.primary_key else equal} new.{quote(name)}"
        for name in names
    )
