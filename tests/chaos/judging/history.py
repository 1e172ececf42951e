"""One log's complete history, combined from the archive and the stream.

A stream may have been trimmed at its start: the archive has those events. A log that was lost and
recovered has a higher generation, which starts with `log.recovered` at the seq after the last
archived one; later events of the old generation are void.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from tests.chaos.judging.entries import NAMES, Entry, order
from tests.chaos.judging.offences import Offence

RECOVERED: Final = "log.recovered"
FIRST_GENERATION: Final = 1


@dataclass(frozen=True)
class Head:
    """The position that the log states; generation 0 where there is none."""

    generation: int = 0
    seq: int = 0


@dataclass
class History:
    """The valid events, in order, and offences in how they were stored."""

    pool: str
    entries: list[Entry] = field(default_factory=list)
    void: list[Entry] = field(default_factory=list)
    archived_to: Head = field(default_factory=Head)
    head: Head = field(default_factory=Head)
    offences: list[Offence] = field(default_factory=list)

    @property
    def starts_late(self) -> bool:
        """Its start was trimmed, and the archive that had it was lost: no fold is possible."""
        return bool(self.entries) and self.entries[0].seq > 1

    def up_to(self, generation: int, seq: int) -> list[Entry]:
        return [e for e in self.entries if e.generation <= generation and e.seq <= seq]

    def contains(self, generation: int, seq: int) -> bool:
        """Whether it contains that event as a valid one."""
        at = self.entries[seq - 1] if 0 < seq <= len(self.entries) else None
        if at is not None and (at.generation, at.seq) == (generation, seq):
            return True
        return any(e.generation == generation and e.seq == seq for e in self.entries)

    def recovered_at(self, generation: int) -> int:
        """The seq from which on a generation is void; 0 where it is not."""
        later = [e.seq for e in self.entries if e.generation > generation and e.type == RECOVERED]
        return min(later, default=0)


def join(
    pool: str,
    archived: Sequence[Entry],
    streamed: Sequence[Entry],
    head: Head,
    *,
    removed: bool = False,
) -> History:
    """Combine both; where both have an event, all its fields must be equal.

    `removed`: its keys may be gone, with their counters.
    """
    streamed = with_generations(streamed, head.generation or _newest(archived))
    last = max(archived, key=lambda e: (e.generation, e.seq), default=None)
    history = History(pool, head=head)
    if last is not None:
        history.archived_to = Head(last.generation, last.seq)
    for kind, entries in (("archive", archived), ("stream", streamed)):
        _judge_holes(history, kind, entries)
    _select_valid(history, _merge(history, archived, streamed))
    _judge_order(history)
    if head.generation or streamed or not removed:
        _judge_head(history, streamed)
    return history


def with_generations(streamed: Sequence[Entry], newest: int) -> list[Entry]:
    """Find the generation of each entry of a stream, from the newest back."""
    generation, found = newest or FIRST_GENERATION, []
    for entry in reversed(streamed):
        if entry.type == RECOVERED:
            generation = int(entry.body.get("generation", generation))
        found.append(replace(entry, generation=generation))
        if entry.type == RECOVERED:
            generation = int(entry.body.get("from_generation", generation))
    return found[::-1]


def _newest(archived: Iterable[Entry]) -> int:
    return max((entry.generation for entry in archived), default=0)


def _judge_holes(history: History, kind: str, entries: Sequence[Entry]) -> None:
    """A stream is only ever trimmed at its beginning, and the archive takes event after event, so
    neither has holes of its own: what fills one of the archive is gone once it is trimmed."""
    for before, entry in pairwise(entries):
        if entry.seq != before.seq + 1:
            why = f"in the {kind} seq {entry.seq} follows {before.seq}"
            history.offences.append(entry.offence(5, why))


def _merge(
    history: History, archived: Sequence[Entry], streamed: Sequence[Entry]
) -> dict[tuple[int, int], Entry]:
    kept: dict[tuple[int, int], Entry] = {}
    for kind, entries in (("archive", archived), ("stream", streamed)):
        seen: set[tuple[int, int]] = set()
        for entry in entries:
            key = entry.generation, entry.seq
            if key in seen:
                history.offences.append(entry.offence(5, f"twice in the {kind}"))
            seen.add(key)
            if (known := kept.setdefault(key, entry)) != entry:
                history.offences.append(entry.offence(5, _difference(known, entry)))
    return kept


def _difference(archived: Entry, streamed: Entry) -> str:
    names = [n for n in NAMES if getattr(archived, n) != getattr(streamed, n)]
    first = names[0]
    return (
        f"archive and stream differ in {', '.join(names)}:"
        f" {getattr(archived, first)!r} and {getattr(streamed, first)!r}"
    )


def _select_valid(history: History, kept: dict[tuple[int, int], Entry]) -> None:
    """Leave out events of an older generation after the recovery."""
    starts = {entry.generation: entry.seq for entry in kept.values() if entry.type == RECOVERED}
    for key in sorted(kept):
        entry = kept[key]
        if any(g > entry.generation and entry.seq >= seq for g, seq in starts.items()):
            history.void.append(entry)
            history.offences.append(entry.offence(8, "archived, and yet lost by a recovery"))
        else:
            history.entries.append(entry)


def _judge_order(history: History) -> None:
    before: Entry | None = None
    ids: dict[str, int] = {}
    for entry in history.entries:
        if before is not None and entry.seq != before.seq + 1:
            why = f"seq {before.seq + 1} is missing: {before.seq} comes before it"
            history.offences.append(entry.offence(5, why))
        if known := ids.get(entry.event_id):
            history.offences.append(entry.offence(5, f"it has the event id of seq {known}"))
        ids[entry.event_id] = entry.seq
        history.offences += _misplaced(before, entry)
        before = entry


def _misplaced(before: Entry | None, entry: Entry) -> Iterable[Offence]:
    """Time, ids and generations only go forward."""
    if order(entry.stream_id)[0] != entry.ts:
        yield entry.offence(5, f"its ts {entry.ts} is not that of its id {entry.stream_id}")
    if before is None:  # a log that was lost before its first event starts with its recovery;
        # one that was created after a loss starts in that generation of the catalogue
        begins = entry.seq == 1 and entry.generation > 1 and entry.type == RECOVERED
    else:
        begins = entry.generation != before.generation
    if begins is not (entry.type == RECOVERED):
        yield entry.offence(5, "a generation begins with log.recovered, and nothing else does")
    if entry.type == RECOVERED and entry.body.get("from_seq") != entry.seq - 1:
        yield entry.offence(5, f"it goes on from seq {entry.body.get('from_seq')}")
    if before is None:
        return
    if order(entry.stream_id) <= order(before.stream_id):
        yield entry.offence(5, f"its id {entry.stream_id} is not above {before.stream_id}")
    if begins and entry.body.get("from_generation") != before.generation:
        yield entry.offence(5, f"it does not follow generation {before.generation}")


def _judge_head(history: History, streamed: Sequence[Entry]) -> None:
    head = history.head
    if not head.generation:
        if streamed:
            history.offences.append(Offence(5, "a stream without its counters", history.pool))
        elif history.entries:
            why = f"its log is gone, and archived up to seq {history.archived_to.seq}"
            history.offences.append(Offence(5, why, history.pool))
        return
    last = history.entries[-1] if history.entries else None
    found = Head(last.generation, last.seq) if last else Head(head.generation, 0)
    if found != head:
        why = f"the log says it ends at {head.generation}:{head.seq}, but ends at "
        history.offences.append(Offence(5, f"{why}{found.generation}:{found.seq}", history.pool))
