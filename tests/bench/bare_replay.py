"""What a replay is made of: reading, decoding, the last state of each subject, two tables."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import redis

BATCH = 2000
FIELDS = 14
TYPE, SEQ, SUBJECT, DATA = 0, 2, 4, 13
"""Where an entry of a log has them."""
TABLES = f"""
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE events (stream_id TEXT PRIMARY KEY, {", ".join(f"c{n}" for n in range(FIELDS))});
CREATE TABLE subjects (subject TEXT PRIMARY KEY, type TEXT, seq INTEGER, data TEXT);
"""
INSERT = f"INSERT INTO events VALUES (?{', ?' * FIELDS})"


def bare_loop(redis_url: str, stream: str, file: Path) -> float:
    """Events per second: XRANGE in batches, decode, keep the last state, insert both tables."""
    began, events, start = time.perf_counter(), 0, "-"
    last: dict[bytes, tuple[bytes, bytes, int, bytes]] = {}
    with redis.Redis.from_url(redis_url) as client, closing(sqlite3.connect(file)) as database:
        client.set_response_callback("XRANGE", lambda reply, **_: reply)
        database.executescript(TABLES)
        while entries := client.xrange(stream, start, "+", count=BATCH):
            rows = []
            for stream_id, fields in entries:
                values = fields[1::2]
                msgspec.json.decode(values[DATA])
                subject = values[SUBJECT]
                last[subject] = (subject, values[TYPE], int(values[SEQ]), values[DATA])
                rows.append((stream_id, *values))
            database.executemany(INSERT, rows)
            database.commit()
            events += len(rows)
            start = f"({entries[-1][0].decode()}"
        database.executemany("INSERT INTO subjects VALUES (?, ?, ?, ?)", last.values())
        database.commit()
    return events / (time.perf_counter() - began)


class CopiedRows:
    """The rows of the archive and of the agents, as COPY writes and reads them."""

    TABLES = ("events", "agents")

    def __init__(self, database_url: str) -> None:
        self._address = database_url.replace("+psycopg", "")
        with psycopg.connect(self._address) as connection:
            self._rows: dict[str, bytes] = {}
            for table in self.TABLES:
                with connection.cursor().copy(f"COPY muster.{table} TO STDOUT") as copy:
                    self._rows[table] = b"".join(map(bytes, copy))

    def copy(self, events: int) -> float:
        """Events per second, into tables like those that Muster has, with all their indexes."""
        with psycopg.connect(self._address) as connection:
            cursor: psycopg.Cursor[Any] = connection.cursor()
            cursor.execute("CREATE SCHEMA bench")
            for table in self.TABLES:
                cursor.execute(f"CREATE TABLE bench.{table} (LIKE muster.{table} INCLUDING ALL)")
            connection.commit()
            began = time.perf_counter()
            for table, rows in self._rows.items():
                with cursor.copy(f"COPY bench.{table} FROM STDIN") as copy:
                    copy.write(rows)
            connection.commit()
            seconds = time.perf_counter() - began
            cursor.execute("DROP SCHEMA bench CASCADE")
            connection.commit()
        return events / seconds
