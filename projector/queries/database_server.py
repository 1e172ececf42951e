"""What PostgreSQL says of its write-ahead log and of transactions that stay open.

All of it may be asked by a login without special rights, which sees less: the size of `pg_wal`
needs `pg_monitor`, and so do the transactions of other logins. What cannot be seen is left out.
"""

from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

_STATE: Final = """
SELECT pg_size_bytes(current_setting('max_wal_size')) AS max_wal_bytes,
       has_function_privilege('pg_ls_waldir()', 'EXECUTE') AS may_list,
       CASE WHEN a.last_failed_time > coalesce(a.last_archived_time, '-infinity')
            THEN a.last_failed_wal ELSE '' END AS unarchived
  FROM pg_stat_archiver a
"""
_WAL_BYTES: Final = "SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()"
_RETAINED: Final = """
SELECT slot_name, greatest(pg_wal_lsn_diff(
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
              ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint AS bytes
  FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY bytes DESC LIMIT 1
"""
_OLDEST: Final = """
SELECT who, (extract(epoch FROM since) * 1000)::bigint AS since_ms,
       (extract(epoch FROM clock_timestamp() - since) * 1000)::bigint AS age_ms
  FROM (SELECT 'process ' || pid || coalesce(' of ' || nullif(application_name, ''), '') AS who,
               xact_start AS since
          FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend'
         UNION ALL
        SELECT 'the prepared transaction ' || gid, prepared
          FROM pg_prepared_xacts WHERE database = current_database()) AS open
 WHERE since IS NOT NULL ORDER BY since LIMIT 1
"""


class OpenTransaction(Struct, frozen=True):
    """The oldest one of the database that can be seen. Times in ms, by the server's clock."""

    who: str
    since_ms: int
    age_ms: int


class DatabaseServer(Struct, frozen=True, kw_only=True):
    """Sizes in bytes."""

    unarchived: str = ""
    """The file of the write-ahead log that could not be archived, while none was since."""
    wal_bytes: int = 0
    """Of the write-ahead log, as far as that can be seen."""
    wal_bytes_max: int = 0
    """`max_wal_size`: what it should come to."""
    slot: str = ""
    """The replication slot that retains most of it."""
    slot_bytes: int = 0
    oldest: OpenTransaction | None = None


def read_server(connection: Connection) -> DatabaseServer | None:
    """None where it is not PostgreSQL."""
    if connection.dialect.name != "postgresql":
        return None
    state = connection.exec_driver_sql(_STATE).one()
    slot = connection.exec_driver_sql(_RETAINED).first()
    listed = connection.exec_driver_sql(_WAL_BYTES).scalar_one() if state.may_list else 0
    oldest = connection.exec_driver_sql(_OLDEST).first()
    return DatabaseServer(
        unarchived=state.unarchived,
        wal_bytes=max(listed, slot.bytes if slot else 0),
        wal_bytes_max=state.max_wal_bytes,
        slot=slot.slot_name if slot else "",
        slot_bytes=slot.bytes if slot else 0,
        oldest=OpenTransaction(*oldest) if oldest else None,
    )
