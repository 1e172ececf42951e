"""Moments of the past: one place in every log."""

from collections.abc import Mapping

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from projector.places import Place, place_at, place_before
from projector.source import archive_heads


class AsOf(Struct, frozen=True):
    """Which moment: that of a time, of events (`pool` to generation and seq), or both.

    Logs of which no event is named are taken at the time, or else at that of the latest event.
    """

    at_ms: int | None = None
    events: Mapping[str, tuple[int | None, int]] = {}


class Moment(Struct, frozen=True):
    """A place in every log that is looked at."""

    at_ms: int
    places: Mapping[str, Place]
    named: frozenset[str] = frozenset()
    """Logs of which an event was named: others of its time may come after it."""

    def of(self, pool: str) -> Place:
        return self.places.get(pool, Place(pool, (), 0, ends=True))

    def __str__(self) -> str:
        """The same moment in every log, also when more events of its time are archived."""
        pinned = [
            f"{pool}:{place.generation}:{place.seq}" if place.spans else f"{pool}:0"
            for pool, place in self.places.items()
            if pool in self.named or (place.ends and place.spans)
        ]
        return ",".join([str(self.at_ms), *pinned])


def find_moment(connection: Connection, asked: AsOf, named: set[str] | None) -> Moment:
    """The place of every log (`named`: of these) in a moment. Raises `NotReached`."""
    fixed = {
        pool: place_at(connection, pool, seq, generation)
        for pool, (generation, seq) in asked.events.items()
    }
    at_ms = asked.at_ms
    if at_ms is None:
        at_ms = max((place.ts for place in fixed.values()), default=0)
    pools = {CATALOGUE, *archive_heads(connection)} if named is None else named
    places = {
        pool: fixed[pool] if pool in fixed else place_before(connection, pool, at_ms)
        for pool in sorted(pools)
    }
    return Moment(at_ms, places, frozenset(fixed))
