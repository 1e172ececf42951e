"""Whether no more agents of a project, or with a label, were placed than caps allow.

An agent counts from its first claim until its end. Only the placer knows caps: what workers claim
by themselves counts, but may be above them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence

OTHERS: Final = "*"
PULL: Final = "pull"


@dataclass
class Counts:
    """How many agents of each project and label count, and the most that a placer brought it to."""

    now: Counter[tuple[str, str]] = field(default_factory=Counter)
    most: dict[tuple[str, str], tuple[int, Entry]] = field(default_factory=dict)

    def enter(self, requested: Entry, entry: Entry) -> None:
        """An agent counts from now on, by its first claim, or as it is restarted."""
        for key in _keys(requested):
            self.now[key] += 1
            placed = bool(entry.body.get("strategy"))
            if placed and self.now[key] > self.most.get(key, (0, entry))[0]:
                self.most[key] = self.now[key], entry

    def leave(self, requested: Entry) -> None:
        self.now.subtract(_keys(requested))


def _keys(requested: Entry) -> list[tuple[str, str]]:
    labels: Mapping[str, str] = requested.body.get("labels") or {}
    pairs = [("label", f"{name}={value}") for name, value in labels.items()]
    return [("project", str(requested.body.get("project_id", ""))), *pairs]


def judge(counts: Counts, configs: Iterable[Mapping[str, Any]]) -> Iterator[Offence]:
    """`configs`: all that the pool ever had; under which an agent was placed is not known."""
    placing = [one for one in configs if one.get("placement", PULL) != PULL]
    for (kind, name), (count, claim) in counts.most.items():
        limits = [_limit(config, kind, name) for config in placing]
        known = [limit for limit in limits if limit is not None]
        if known and len(known) == len(limits) and count > max(known):
            yield claim.offence(9, f"{count} of {kind} {name}, where {max(known)} are the most")


def _limit(config: Mapping[str, Any], kind: str, name: str) -> int | None:
    caps: Mapping[str, int] = config.get(f"{kind}_caps") or {}
    other = OTHERS if kind == "project" else name.partition("=")[0]
    return caps.get(name, caps.get(other))
