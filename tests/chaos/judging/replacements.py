"""Whether a pool's workers were replaced few at a time, and only those that were to be."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.workers import Worker

REPLACED: Final = "replaced"
"""Why a worker is cordoned, and drains, that another one is to replace."""


@dataclass
class Replaced:
    """The workers of one pool that were replaced, as its log has it."""

    newest: tuple[int, Entry] | None = None
    """The highest epoch of those that were cordoned or drained for that."""
    most: tuple[int, Entry] | None = None
    """So many drained for that at the same time."""

    draining: set[str] = field(default_factory=set)

    def apply(self, entry: Entry, workers: Mapping[str, Worker]) -> None:
        """Note an event of a worker, which has been applied."""
        worker = workers[entry.subject]
        if worker.ended:
            self.draining.discard(entry.subject)
        if entry.type not in {"worker.cordoned", "worker.draining"} or not _is_ordered(entry):
            return
        if self.newest is None or worker.epoch > self.newest[0]:
            self.newest = worker.epoch, entry
        if entry.type == "worker.draining":
            self.draining.add(entry.subject)
            if self.most is None or len(self.draining) > self.most[0]:
                self.most = len(self.draining), entry


def _is_ordered(entry: Entry) -> bool:
    """By a leader; anyone may give the same reason."""
    return entry.body.get("reason") == REPLACED and entry.actor.startswith("supervisor:")


def judge(replaced: Replaced, replacements: Sequence[Mapping[str, Any]]) -> Iterator[Offence]:
    """`replacements`: all that were ever asked for."""
    if replaced.newest is not None:
        epoch, entry = replaced.newest
        if epoch >= max((int(one["epoch"]) for one in replacements), default=0):
            yield entry.offence(9, f"epoch {epoch} is not older than any replacement of the pool")
    if replaced.most is not None:
        count, entry = replaced.most
        limit = max((int(one["max_unavailable"]) for one in replacements), default=0)
        if count > limit:
            yield entry.offence(9, f"{count} workers are gone, where {limit} are the most")
