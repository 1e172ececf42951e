"""The agents or workers of a fold, in bounded memory: those that have ended are put on disk.

They are in a private SQLite database that is deleted with it, encoded as JSON.
"""

import sqlite3
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from eventstore.language.agents import Agent
from eventstore.language.workers import Worker

State = TypeVar("State", Agent, Worker)


class FoldedStates(Generic[State]):
    """By name. It may be used by one thread after another."""

    def __init__(self, shape: type[State]) -> None:
        self.live: dict[str, State] = {}
        """Those that have not ended."""
        self._ended = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._ended.execute("PRAGMA journal_mode = OFF")
        self._ended.execute("CREATE TABLE ended (name TEXT PRIMARY KEY, state BLOB) WITHOUT ROWID")
        self._ended.execute("BEGIN")
        weakref.finalize(self, self._ended.close)
        self._decoder: msgspec.json.Decoder[State] = msgspec.json.Decoder(shape)

    def get(self, name: str) -> State | None:
        """In whatever state it is; None if there is none of that name."""
        if found := self.live.get(name):
            return found
        row = self._ended.execute("SELECT state FROM ended WHERE name = ?", (name,)).fetchone()
        return self._decoder.decode(row[0]) if row else None

    def put(self, name: str, state: State, before: State | None) -> None:
        """`before`: what `get` answers."""
        if before is not None and before.ended:
            self._ended.execute("DELETE FROM ended WHERE name = ?", (name,))
        if state.ended:
            self.live.pop(name, None)
            row = (name, msgspec.json.encode(state))
            self._ended.execute("INSERT INTO ended VALUES (?, ?)", row)
        else:
            self.live[name] = state

    def names(self) -> Iterator[str]:
        yield from self.live
        for (name,) in self._ended.execute("SELECT name FROM ended"):
            yield name
