"""What scribes write to: a file of SQLite that refuses whoever was overtaken.

Every write first proves its fencing token. Once a later incarnation has taken the page over, an
earlier one that still runs somewhere cannot add to it any more.
"""

import sqlite3
from contextlib import closing
from pathlib import Path


class Overtaken(Exception):
    """A later incarnation has taken the page over."""


TABLES = """
CREATE TABLE IF NOT EXISTS pages (owner TEXT PRIMARY KEY, generation INTEGER, seq INTEGER);
CREATE TABLE IF NOT EXISTS lines (owner TEXT, text TEXT);
"""
PROOF = """
UPDATE pages SET generation = :generation, seq = :seq
WHERE owner = :owner AND (generation, seq) <= (:generation, :seq)
"""


class Page:
    """One agent's page. Its methods block: call them through `asyncio.to_thread`."""

    def __init__(self, path: Path, owner: str, token: tuple[int, int]) -> None:
        self._path = path
        self._names = {"owner": owner, "generation": token[0], "seq": token[1]}

    def take_over(self) -> int:
        """Make our token the page's; returns how many lines stand there. Raises `Overtaken`."""
        with closing(self._connect()) as page, page:
            page.executescript(TABLES)
            page.execute("INSERT OR IGNORE INTO pages VALUES (:owner, 0, 0)", self._names)
            self._prove(page)
            count = page.execute("SELECT count(*) FROM lines WHERE owner = :owner", self._names)
            return int(count.fetchone()[0])

    def write(self, text: str) -> None:
        """Add a line. Raises `Overtaken`."""
        with closing(self._connect()) as page, page:
            self._prove(page)
            page.execute("INSERT INTO lines VALUES (?, ?)", (self._names["owner"], text))

    def check(self) -> None:
        """Raises `Overtaken`."""
        with closing(self._connect()) as page, page:
            self._prove(page)

    def _prove(self, page: sqlite3.Connection) -> None:
        if page.execute(PROOF, self._names).rowcount != 1:
            raise Overtaken

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=5)
