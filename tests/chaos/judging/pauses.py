"""Whether a paused pool keeps the workers that it has.

Leaders learn of a pause a little later, and two logs have two clocks. So the client that pauses a
pool waits until every leader must know, and notes the positions of both logs then, and again
before it ends the pause. A file has a JSON object a line:

    pool, generation, seq, until_seq        of the pool's log
    catalogue_generation, catalogue_seq, catalogue_until
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.judging.entries import CATALOGUE, Entry
from tests.chaos.judging.history import History
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.replacements import REPLACED


@dataclass(frozen=True)
class Pause:
    """Between these positions a pool was paused, and whoever leads it knew."""

    pool: str
    generation: int
    seq: int
    until_seq: int
    catalogue_generation: int
    catalogue_seq: int
    catalogue_until: int


def read(path: Path) -> list[Pause]:
    return [Pause(**json.loads(line)) for line in path.read_text().splitlines()]


def judge(pauses: Iterable[Pause], histories: Mapping[str, History]) -> Iterator[Offence]:
    for pause in pauses:
        log, catalogue = histories.get(pause.pool), histories.get(CATALOGUE)
        if log is None or catalogue is None or not _holds(pause, catalogue.entries):
            continue
        for entry in log.entries:
            within = pause.seq < entry.seq <= pause.until_seq
            if within and entry.generation == pause.generation and (why := _change(entry)):
                yield entry.offence(9, f"{why} although its pool is paused")


def _holds(pause: Pause, entries: Iterable[Entry]) -> bool:
    """Whether it was paused all the time: a request to end an earlier pause may come late."""
    paused = False
    for entry in entries:
        if entry.seq > pause.catalogue_until:
            break
        if entry.subject == pause.pool and entry.type in {"pool.created", "pool.changed"}:
            paused = bool((entry.body.get("config") or {}).get("paused"))
        if entry.seq > pause.catalogue_seq:
            known = entry.generation == pause.catalogue_generation
            if not (paused and known):
                return False
    return paused


def _change(entry: Entry) -> str:
    reason = entry.body.get("reason")
    if entry.type == "worker.requested" and entry.actor.startswith("supervisor:"):
        return "" if reason == REPLACED else "ordered"
    return "removed" if entry.type == "worker.draining" and reason == "empty" else ""
