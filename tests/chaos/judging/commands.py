"""Invariant 8: acknowledged commands had effect, refused ones had none, and none had it twice.

The client's journal is a file of JSON objects, one a line, a line for each command:

    kind            spawn | terminate | create_pool | change_pool | delete_pool | replace_pool
                    | cordon | uncordon | drain
    status          acknowledged | refused | unknown
    pool, agent_id, worker_id
    operation_id    the Idempotency-Key, or what the log made of it
    correlation_id  the X-Request-Id; of a change of a pool only where it changed something
    seq, generation the position of the log in the answer (Muster-Position)
    level           the durability that the answer stated: one that is `archived` is never lost
    ended_at        CLOCK_BOOTTIME in seconds when an answer first said that the agent had ended

Commands that a recovery named as lost (`LostCommand`) may be missing, unless they were archived.
Pools with the same name may follow each other, so a command on a pool is identified by its
correlation id, where the journal has it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from tests.chaos.judging.entries import CATALOGUE, Entry
from tests.chaos.judging.history import RECOVERED, History
from tests.chaos.judging.offences import Offence

NEVER_LOST: Final = "archived"
ON_WORKERS: Final = frozenset({"cordon", "uncordon", "drain"})
GONE: Final = ("worker.draining", "worker.stopped", "worker.lost")
MARKS: Final = {
    "spawn": ("agent.requested",),
    "terminate": ("agent.termination_requested", "agent.terminated", "agent.failed"),
    "restart": ("agent.restart_requested",),
    "create_pool": ("pool.created",),
    "delete_pool": ("pool.deleted",),
    "change_pool": ("pool.created", "pool.changed"),
    "replace_pool": ("pool.replacement_started",),
    "cordon": ("worker.cordoned", *GONE),
    "uncordon": ("worker.started", *GONE),
    "drain": ("worker.cordoned", *GONE),
}
"""For each command, the events that show that it came to pass; any one of them does."""
NAMED: Final = {**MARKS, "spawn": ("agent.requested", "holds")}
"""The kinds of lost commands in a recovery's report; `holds`: an agent that a worker ran."""
OWN: Final = {
    "spawn": "agent.requested",
    "terminate": "agent.termination_requested",
    "restart": "agent.restart_requested",
    "create_pool": "pool.created",
    "delete_pool": "pool.deleted",
    "change_pool": "pool.changed",
    "replace_pool": "pool.replacement_started",
    "cordon": "worker.cordoned",
    "uncordon": "worker.uncordoned",
    "drain": "worker.draining",
}
"""The event that nothing but this command leads to."""


@dataclass(frozen=True)
class Command:
    """One line of a client's journal."""

    kind: str
    status: str = "acknowledged"
    pool: str = ""
    agent_id: str = ""
    worker_id: str = ""
    operation_id: str = ""
    correlation_id: str = ""
    seq: int = 0
    generation: int = 0
    level: str = ""
    ended_at: float = 0.0

    @property
    def subject(self) -> str:
        return self.pool if self.of_catalogue else self.worker_id or self.agent_id

    @property
    def of_catalogue(self) -> bool:
        return self.kind not in {"spawn", "terminate", "restart", *ON_WORKERS}

    @property
    def known_by_correlation(self) -> bool:
        return self.of_catalogue and bool(self.correlation_id)

    @property
    def log(self) -> str:
        return CATALOGUE if self.of_catalogue else self.pool

    @property
    def marks(self) -> set[str]:
        """By which it would be known again."""
        named = (self.subject, self.operation_id, self.correlation_id)
        return {f"{self.kind}:{self.pool}:{name}" for name in named if name}

    def offence(self, why: str) -> Offence:
        what = f"{self.status} {self.kind}"
        return Offence(8, f"{what}: {why}", self.pool, self.generation, self.seq, "", self.subject)


@dataclass(frozen=True)
class LostCommand:
    """A command, or an event, that a recovery reported as lost."""

    pool: str
    agent_id: str
    kind: str = ""
    generation: int = 0
    seq: int = 0


def named_lost(commands: Iterable[Command], unsaved: Iterable[LostCommand]) -> set[Command]:
    """The commands that a recovery said it could not save."""
    kinds: dict[tuple[str, str], set[str]] = {}
    for one in unsaved:
        kinds.setdefault((one.pool, one.agent_id), set()).add(one.kind)
    return {
        command
        for command in commands
        if kinds.get((command.log, command.subject), set())
        & {"", command.kind, *NAMED[command.kind]}
    }


def read_commands(path: Path) -> list[Command]:
    """A client's journal. A truncated last line is ignored."""
    known = {field.name for field in fields(Command)}
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            document = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise
        found.append(Command(**{k: v for k, v in document.items() if k in known and v is not None}))
    return found


def read_lost_commands(path: Path) -> list[LostCommand]:
    """What `muster recover --json` printed."""
    document = json.loads(path.read_text())
    return [
        LostCommand(
            one.get("pool", log["pool"]),
            str(one.get("agent_id", "")),
            str(one.get("kind", "")),
            int(one.get("generation", 0)),
            int(one.get("seq", 0)),
        )
        for log in document["logs"]
        for one in log.get("unsaved", ())
    ]


class Recorded:
    """All events of all logs, to be asked for by what a client knows of its command."""

    def __init__(self, histories: Iterable[History]) -> None:
        self.by_subject: dict[str, list[Entry]] = {}
        self.by_operation: dict[str, list[Entry]] = {}
        self.by_correlation: dict[str, list[Entry]] = {}
        self.recovered: set[str] = set()
        for history in histories:
            for entry in history.entries:
                self._add(entry)

    def _add(self, entry: Entry) -> None:
        self.by_subject.setdefault(entry.subject, []).append(entry)
        if entry.type == RECOVERED:
            self.recovered.add(entry.pool)
        if entry.correlation_id:
            self.by_correlation.setdefault(entry.correlation_id, []).append(entry)
        if entry.type == "agent.requested" and (operation := entry.body.get("operation_id")):
            self.by_operation.setdefault(str(operation), []).append(entry)

    def of_type(self, kind: str) -> list[Entry]:
        return [e for entries in self.by_subject.values() for e in entries if e.type == kind]

    def of(self, command: Command, kinds: Iterable[str]) -> list[Entry]:
        """Events of these types that may be of this command."""
        wanted = set(kinds)
        found = list(self.by_subject.get(command.subject, ())) if command.subject else []
        if command.kind == "spawn":
            for name in _recorded_as(command.operation_id):
                found += self.by_operation.get(name, ())
        return [
            e for e in found if e.type in wanted and (e.pool == command.log or not command.pool)
        ]


def _recorded_as(key: str) -> Sequence[str]:
    """An `Idempotency-Key` is recorded by its hash."""
    return (key, f"key:{hashlib.sha256(key.encode()).hexdigest()[:40]}") if key else ()


def judge(
    commands: Sequence[Command], histories: Sequence[History], unsaved: Sequence[LostCommand] = ()
) -> Iterator[Offence]:
    recorded = Recorded(histories)
    lost = named_lost(commands, unsaved)
    granted = {mark for c in commands if c.status != "refused" for mark in c.marks}
    yield from _on_pools([c for c in commands if c.known_by_correlation], recorded, unsaved)
    for command in commands:
        if command.status == "acknowledged" and not command.known_by_correlation:
            yield from _acknowledged(command, recorded, lost)
        elif command.status == "refused":
            yield from _refused(command, recorded, granted)
    yield from _operations([c for c in commands if c not in lost], recorded)
    yield from _requests(commands, recorded)


def _acknowledged(command: Command, recorded: Recorded, lost: set[Command]) -> Iterator[Offence]:
    found = recorded.of(command, MARKS[command.kind])
    if found:
        if command.seq and min(entry.seq for entry in found) > command.seq:
            yield command.offence(f"its event came later, at seq {min(e.seq for e in found)}")
        return
    if command.kind == "change_pool":  # it may have changed nothing
        return
    if command.kind in ON_WORKERS and command.pool in recorded.recovered:
        return  # with its worker
    if command.level == NEVER_LOST:
        yield command.offence("archived, and not in the log")
    elif command not in lost:
        yield command.offence("not in the log, nor named as lost")


def _on_pools(
    commands: Sequence[Command], recorded: Recorded, unsaved: Iterable[LostCommand]
) -> Iterator[Offence]:
    """Each acknowledged one has an event of its own, or is reported as lost.

    A deletion may have found the pool deleted by a command whose client got no answer.
    """
    acknowledged = [command for command in commands if command.status == "acknowledged"]
    correlation_ids = {command.correlation_id for command in acknowledged}
    by_others = Counter(
        entry.subject
        for entry in recorded.of_type(OWN["delete_pool"])
        if entry.correlation_id not in correlation_ids
    )
    named = Counter(
        (one.agent_id, kind)
        for one in {replace(one, kind=_command(one.kind)) for one in unsaved}
        if one.pool == CATALOGUE
        for kind in ([one.kind] if one.kind else OWN)
    )
    for command in acknowledged:
        found = recorded.by_correlation.get(command.correlation_id, ())
        if any((e.type, e.subject) == (OWN[command.kind], command.pool) for e in found):
            continue
        if command.kind == "delete_pool" and by_others[command.pool]:
            by_others[command.pool] -= 1
        elif command.level == NEVER_LOST:
            yield command.offence("archived, and not in the log")
        elif named[command.pool, command.kind]:
            named[command.pool, command.kind] -= 1
        else:
            yield command.offence("not in the log, nor named as lost")


def _command(kind: str) -> str:
    """The command that leads to an event of this type; a command's own kind as it is."""
    return next((command for command, own in OWN.items() if own == kind), kind)


def _refused(command: Command, recorded: Recorded, granted: set[str]) -> Iterator[Offence]:
    """`granted`: what others were known by. One that was tried again is no longer refused."""
    if command.kind in ON_WORKERS:
        for entry in recorded.by_correlation.get(command.correlation_id, ()):
            if entry.subject == command.worker_id:
                yield entry.offence(8, f"this {command.kind} was refused")
        return
    if command.marks & granted:
        return
    own = OWN[command.kind]
    found = set(recorded.by_correlation.get(command.correlation_id, ()))
    if not command.of_catalogue:
        found |= set(recorded.of(command, (own,)))
    for entry in found:
        if entry.type == own and entry.body.get("reason", "requested") == "requested":
            yield entry.offence(8, f"this {command.kind} was refused")


def _operations(commands: Sequence[Command], recorded: Recorded) -> Iterator[Offence]:
    """However often a spawn was tried under one key, it is one agent."""
    agents: dict[tuple[str, str], Mapping[str, Any]] = {}
    for command in commands:
        if command.kind != "spawn" or not command.operation_id or command.status == "refused":
            continue
        key = command.pool, command.operation_id
        found = {entry.subject for entry in recorded.of(command, ("agent.requested",))}
        if command.status == "acknowledged" and command.agent_id:
            found.add(command.agent_id)
        known = agents.setdefault(key, {})
        agents[key] = {**known, **dict.fromkeys(found)}
    for (pool, operation), names in agents.items():
        if len(names) > 1:
            why = f"operation {operation} is {len(names)} agents: {', '.join(sorted(names))}"
            yield Offence(2, why, pool)


def _requests(commands: Sequence[Command], recorded: Recorded) -> Iterator[Offence]:
    """Nor is it more than one where it had no key: all its events bear its request's id."""
    spawns = {(c.pool, c.correlation_id) for c in commands if c.kind == "spawn"}
    for pool, request in sorted(spawns):
        found = recorded.by_correlation.get(request, ())
        names = {e.subject for e in found if (e.type, e.pool) == ("agent.requested", pool)}
        if len(names) > 1:
            why = f"request {request} is {len(names)} agents: {', '.join(sorted(names))}"
            yield Offence(2, why, pool)
