"""What was used, measured from the events: each agent's and worker's own times, one by one.

This restates the rules from the documents. Nothing is summed as it goes on: for every span all is
measured again, from the first event on.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence

MINUTE_MS: Final = 60_000
SPANS: Final = 5
Account = tuple[str, str, str]
"""Role, project, and labels as sorted JSON."""
POOL: Final[Account] = ("", "", "{}")
PHASES: Final = {
    "agent.requested": "pending",
    "agent.claimed": "slots_used",
    "agent.start_failed": "",
    "agent.crashed": "",
    "agent.unhealthy": "",
    "agent.lost": "",
    "agent.released": "pending",
    "agent.restarting": "pending",
    "agent.restart_requested": "pending",
    "agent.state_lost": "pending",
    "agent.terminated": "ended",
    "agent.failed": "ended",
}
"""What an agent does from an event on: it waits, has a slot, neither, or has ended."""
LEVELS: Final = ("agents", "pending", "slots_used", "workers", "slots")
COUNTS: Final = (
    "requested", "ended", "failures", "losses", "restarts", "claims", "cold_starts",
)  # fmt: skip
Measured = dict[str, int]


@dataclass
class Times:
    """Of one account: how much of what from when until when, and what happened when."""

    lasting: list[tuple[str, int, int, int | None]] = field(default_factory=list)
    """Level, how much, since, until; None: it lasts."""
    happened: list[tuple[str, int]] = field(default_factory=list)


def times_of(entries: Iterable[Entry]) -> dict[Account, Times]:
    """By account, from all events of a pool in order."""
    found: dict[Account, Times] = defaultdict(Times)
    by_subject: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.type.startswith(("agent.", "worker.")):
            by_subject[entry.subject].append(entry)
    started = {
        entry.subject: entry.ts
        for of_subject in by_subject.values()
        for entry in of_subject
        if entry.type == "worker.started"
    }
    for of_subject in by_subject.values():
        if of_subject[0].type == "agent.requested":
            _agent(found[_account(of_subject[0])], of_subject, started)
        elif of_subject[0].type == "worker.requested":
            _worker(found[POOL], of_subject)
    for account in [*found.keys() - {POOL}]:
        found[POOL].lasting += found[account].lasting
        found[POOL].happened += found[account].happened
    return {account: times for account, times in found.items() if times.lasting or times.happened}


def _account(requested: Entry) -> Account:
    body = requested.body
    labels = json.dumps(
        dict(sorted(body.get("labels", {}).items())), separators=(",", ":"), ensure_ascii=False
    )
    role, project = (str(body.get(name, "")) for name in ("role_type", "project_id"))
    return role.replace("\0", "\ufffd"), project.replace("\0", "\ufffd"), labels


def _agent(times: Times, entries: Sequence[Entry], started: Mapping[str, int]) -> None:
    phase, since, lives_since, before = "ended", 0, 0, 0
    for entry in entries:
        kind, body = entry.type, entry.body
        released = kind == "agent.restart_requested" and not body.get("next_incarnation")
        following = phase if released else PHASES.get(kind, phase)
        if phase == "pending" and kind == "agent.claimed":
            times.happened.append(("claims", entry.ts))
            if started.get(entry.worker_id, 0) > before:
                times.happened.append(("cold_starts", entry.ts))
        for name in _happened(kind, body):
            times.happened.append((name, entry.ts))
        if following != phase or body.get("next_incarnation"):
            if phase in LEVELS:
                times.lasting.append((phase, 1, since, entry.ts))
            if phase == "ended":
                lives_since = entry.ts
            if following == "ended":
                times.lasting.append(("agents", 1, lives_since, entry.ts))
            phase, since = following, entry.ts
        before = entry.ts
    if phase in LEVELS:
        times.lasting.append((phase, 1, since, None))
    if phase != "ended":
        times.lasting.append(("agents", 1, lives_since, None))


def _happened(kind: str, body: Mapping[str, Any]) -> Iterator[str]:
    if kind == "agent.requested":
        yield "requested"
    if kind in {"agent.terminated", "agent.failed"}:
        yield "ended"
    failed = kind in {"agent.start_failed", "agent.crashed", "agent.unhealthy"}
    if failed and body.get("error", {}).get("retry_after_ms") is None:
        yield "failures"
    if kind == "agent.lost":
        yield "losses"
    if body.get("next_incarnation"):
        yield "restarts"


def _worker(times: Times, entries: Sequence[Entry]) -> None:
    slots = int(entries[0].body.get("max_agents", 0))
    since = next((entry.ts for entry in entries if entry.type == "worker.started"), None)
    ends = {"worker.stopped", "worker.lost"}
    until = next((entry.ts for entry in entries if entry.type in ends), None)
    if since is not None:
        times.lasting += [("workers", 1, since, until), ("slots", slots, since, until)]


def measure(times: Times, since_ms: int, until_ms: int) -> Measured:
    """What was used from a time on, up to and without another."""
    found = Counter(name for name, ts in times.happened if since_ms <= ts < until_ms)
    for name, much, since, until in times.lasting:
        end = until_ms if until is None else min(until, until_ms)
        found[f"{name}_ms"] += much * max(end - max(since, since_ms), 0)
    return {name: found[name] for name in (*COUNTS, *(f"{level}_ms" for level in LEVELS))}


def levels(times: Times) -> Measured:
    """What there is after the last event."""
    found: Counter[str] = Counter()
    for name, much, _, until in times.lasting:
        found[name] += much if until is None else 0
    return {name: found[name] for name in LEVELS}


# ---- the views -----------------------------------------------------------------------------------


def judge(
    pool: str,
    entries: Sequence[Entry],
    accounts: Iterable[Mapping[str, Any]],
    sums: Iterable[Mapping[str, Any]],
) -> Iterator[Offence]:
    """The rows of a pool against these events: the last ones, and those around random spans."""
    keys = {
        int(row["account"]): (row["role_type"], row["project_id"], row["labels"])
        for row in accounts
        if row["pool_name"] == pool
    }
    rows: dict[Account, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(sums, key=lambda row: int(row["minute"])):
        if row["pool_name"] == pool:
            rows[keys.get(int(row["account"]), (str(row["account"]), "", ""))].append(row)
    times = times_of(entries)
    spans = _random_spans(entries)
    for account in sorted({*rows, *times}):
        name = " ".join(account).strip()
        if account not in rows or account not in times:
            why = "in usage_sums: nothing was used" if account in rows else "in usage_sums: missing"
            yield Offence(6, why, pool, subject=name)
            continue
        of_account, last = times[account], rows[account][-1]
        wanted = {**measure(of_account, 0, int(last["at"]) + 1), **levels(of_account)}
        wanted |= {n: v for n, v in measure(of_account, 0, int(last["at"])).items() if "_ms" in n}
        yield from _compare(pool, name, "at the end", wanted, last)
        for since, until in spans:
            first, second = _at(rows[account], since), _at(rows[account], until)
            between = {column: second[column] - first[column] for column in second}
            what = f"from {since} to {until}"
            yield from _compare(pool, name, what, measure(of_account, since, until), between)


def _compare(
    pool: str, name: str, what: str, wanted: Measured, found: Mapping[str, Any]
) -> Iterator[Offence]:
    for column, value in wanted.items():
        if found[column] != value:
            why = f"in usage_sums: {column} {what} is {found[column]}, the log says {value}"
            yield Offence(6, why, pool, subject=name)


def _random_spans(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Of full minutes within the log's time; the same ones each time that it is judged."""
    if not entries:
        return []
    chosen = random.Random(entries[-1].event_id)
    minutes = range(entries[0].ts // MINUTE_MS, entries[-1].ts // MINUTE_MS + 2)
    ends = (sorted(chosen.choices(minutes, k=2)) for _ in range(SPANS))
    return [(first * MINUTE_MS, second * MINUTE_MS) for first, second in ends]


def _at(rows: Sequence[Mapping[str, Any]], at_ms: int) -> Measured:
    """The sums of an account at the start of a minute."""
    before = [row for row in rows if int(row["minute"]) * MINUTE_MS < at_ms]
    if not before:
        return dict.fromkeys((*COUNTS, *(f"{level}_ms" for level in LEVELS)), 0)
    row = before[-1]
    elapsed = at_ms - int(row["at"])
    lasted = {f"{n}_ms": int(row[f"{n}_ms"]) + int(row[n]) * elapsed for n in LEVELS}
    return {**{name: int(row[name]) for name in COUNTS}, **lasted}
