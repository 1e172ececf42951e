"""Usage of random spans of a run, as a gateway answers it, against the judge's own fold."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from tests.chaos.asking import API, ask
from tests.chaos.judging import database
from tests.chaos.judging.entries import CATALOGUE, Entry
from tests.chaos.judging.usage import POOL, Times, times_of
from tests.chaos.system import System
from tests.measured_usage import COUNTS, SECONDS, measured

SPANS = 5
NAMES = ("agents", *COUNTS, *SECONDS)
OF_WORKERS = ("worker_seconds", "capacity_seconds")


async def judge_usage(system: System, random: Random) -> list[str]:
    """What differs, in words. To be called at rest."""
    views = await asyncio.to_thread(database.read, system.views_url)
    logs = {pool: rows for pool, rows in views.archive.items() if pool != CATALOGUE}
    times = {pool: times_of(rows) for pool, rows in logs.items()}
    offences: list[str] = []
    for _ in range(SPANS):
        since, until = span(random, [entry for rows in logs.values() for entry in rows])
        path = f"{API}/usage?since={since}&until={until}&by=pool"
        for by_project in ("", ",project"):
            url = random.choice(system.gateways)
            answer = await ask(url, "GET", f"{path}{by_project}")
            if answer.status != 200 or answer.stale:
                offences.append(f"GET {path}{by_project}: {answer.said}, stale {answer.stale}")
                continue
            wanted = expected(times, since, until, of_projects=bool(by_project))
            offences += compare(f"usage from {since} to {until}", wanted, answer.body["rows"])
    return offences


def span(random: Random, entries: Sequence[Entry]) -> tuple[int, int]:
    """Between two events; at one, or just after it, or anywhere near it."""
    chosen = random.choices(entries, k=2)
    first, second = sorted(
        entry.ts + random.choice((0, 1, random.randrange(9_000))) for entry in chosen
    )
    last = max(entry.ts for entry in entries)
    return min(first, last), min(second, last)


def expected(
    times: Mapping[str, Mapping[Any, Times]], since: int, until: int, *, of_projects: bool
) -> dict[tuple[str, str | None], dict[str, Any]]:
    """By pool and project, of which anything was used."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for pool, accounts in times.items():
        for account, of_account in accounts.items():
            if (account == POOL) is of_projects:
                continue
            values = measured(of_account, since, until)
            row = found.setdefault(
                (pool, account[1] if of_projects else None), dict.fromkeys(NAMES, 0)
            )
            for name in NAMES:
                row[name] += values[name]
    for row in found.values() if of_projects else ():
        row.update(dict.fromkeys(OF_WORKERS))
    return {key: row for key, row in found.items() if any(row.values())}


def compare(
    what: str, wanted: Mapping[Any, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    found = {(row["pool_name"], row["project_id"]): row for row in rows}
    for key in sorted({*wanted, *found}, key=str):
        for name in NAMES:
            value = wanted.get(key, {}).get(name)
            actual = found.get(key, {}).get(name)
            if value != actual and _rounded(value) != _rounded(actual):
                yield f"{what}: {name} of {key} is {actual}, the log says {value}"


def _rounded(value: Any) -> Any:
    """Sums of seconds are sums of milliseconds."""
    return None if value is None else round(value * 1000)
