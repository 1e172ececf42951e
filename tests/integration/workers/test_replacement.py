"""A pool's workers are replaced one by one, with new code; where that fails it stops."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.language.events import PoolReplacementStarted, PoolReplacementStopped
from eventstore.language.replacement import Replacement
from eventstore.language.workers import Cordon
from eventstore.log.replies import Outcome
from tests.integration.workers.hosts import POOL, Site, abandon
from tests.pools import ORIGIN, raw_events
from tests.waiting import until
from workers.supervisor import replacing

CODE = """
import pathlib
from workers.api.agent import Agent

class Changing(Agent):
    async def start(self, context):
        with pathlib.Path("{seen}").open("a") as seen:
            print("{version}", context.incarnation, file=seen)
        {more}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Saves a version of the agent's code."""
    monkeypatch.setattr(replacing, "PROVEN_SECONDS", 0.2)

    def save(version: str, more: str = "pass") -> None:
        code = CODE.format(seen=tmp_path / "seen", version=version, more=more)
        (tmp_path / "changing.py").write_text(code if version else "import nothing_like_this")

    save("one")
    return save


def seen(folder: Path) -> list[str]:
    """Version and incarnation of every start."""
    return sorted((folder / "seen").read_text().splitlines())


async def start(site: Site, *, at_once: int = 1, deadline_seconds: float = 0.0) -> None:
    body = PoolReplacementStarted(
        reason="version two",
        epoch=await site.log.allocate_epoch(POOL),
        workers=len(await site.workers()),
        max_unavailable=at_once,
        deadline_seconds=deadline_seconds,
    )
    await site.catalogue.change_replacement(POOL, body, ORIGIN)


async def ended(site: Site) -> Replacement:
    async def has_ended() -> bool:
        replacement = (await site.catalogue.refresh()).pools[POOL].replacement
        return replacement is not None and not replacement.runs

    await until(has_ended, timeout=20, what="the replacement ends")
    replacement = site.catalogue.state.pools[POOL].replacement
    assert replacement is not None
    return replacement


def fewest(site: Site) -> int:
    """The fewest workers that ran and did not drain, since the first one drained."""
    available: set[str] = set()
    counts: list[int] = []
    for event in raw_events(site.url):
        if event["type"] == "worker.started":
            available.add(event["subject"])
        elif event["type"] in {"worker.draining", "worker.lost"}:
            available.discard(event["subject"])
            counts.append(len(available))
    return min(counts)


@pytest.mark.parametrize("how", [{}, {"paused": "a test"}, {"max_workers": 2}], ids=str)
async def test_each_agent_moves_once_to_a_worker_with_the_new_code(
    site: Site, tmp_path: Path, write: Any, how: dict[str, Any]
) -> None:
    pool = await site.pool(agents_per_worker=2)
    await site.host(agent="changing:Changing")
    await site.run(pool, 4)
    await site.catalogue.change_pool(POOL, lambda config: replace(config, **how), ORIGIN)
    before = await site.workers()
    write("two, later")
    await start(site)
    assert (await ended(site)).status == "finished"
    await site.until_running(4)
    assert seen(tmp_path) == [*["one 1"] * 4, *["two, later 2"] * 4]
    after = await site.workers()
    assert after.keys().isdisjoint(before)
    assert (len(after), fewest(site)) == (2, 1)
    site.check()


@pytest.mark.parametrize("deadline_seconds", [0.0, 0.1])
async def test_a_paused_pool_with_too_many_workers_has_as_many_as_it_may_then(
    site: Site, write: Any, deadline_seconds: float
) -> None:
    pool = await site.pool(agents_per_worker=1)
    await site.host(agent="changing:Changing")
    await site.run(pool, 4)
    how = {"paused": "a test", "max_workers": 2}
    await site.catalogue.change_pool(POOL, lambda config: replace(config, **how), ORIGIN)
    write("two, later")
    await start(site, at_once=2, deadline_seconds=deadline_seconds)
    assert (await ended(site)).status == "finished"
    assert len(await site.workers()) == 2
    site.check()


async def test_the_next_leader_goes_on_with_it(site: Site, tmp_path: Path, write: Any) -> None:
    pool = await site.pool(agents_per_worker=1)
    first = await site.host(agent="changing:Changing")
    await site.run(pool, 3)
    write("two, later")
    await start(site)
    await until(lambda: "worker.draining" in {e["type"] for e in raw_events(site.url)})
    await abandon(first)
    await site.host(agent="changing:Changing")
    assert (await ended(site)).status == "finished"
    await site.until_running(3)
    assert fewest(site) >= 1
    site.check()


@pytest.mark.parametrize(
    ("version", "more", "detail"),
    [
        ("", "", "its code cannot be imported: "),
        ("two", "raise ValueError('a defect')", "the last one with ValueError: a defect"),
        ("two", "import os; os._exit(3)", "exited with code 3"),
    ],
    ids=["import", "agents", "worker"],
)
async def test_it_stops_where_new_workers_fail_and_old_ones_go_on(
    site: Site, write: Any, version: str, more: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "LOST_MAX", 1)
    pool = await site.pool(agents_per_worker=1)
    await site.host(agent="changing:Changing")
    await site.run(pool, 3)
    before = await site.workers()
    write(version, more)
    await start(site)
    stopped = await ended(site)
    assert stopped.status == "stopped"
    assert detail in stopped.detail

    async def uncordoned() -> bool:
        left = [o for o in (await site.survey()).workers if o.worker.worker_id in before]
        gone = 1 if version else 0  # none drains for code that cannot be imported
        return len(left) == 3 - gone and not any(o.worker.cordoned for o in left)

    await until(uncordoned, what="the others get agents again")
    site.check()


async def test_it_can_be_cancelled_until_a_worker_has_drained(site: Site, write: Any) -> None:
    pool = await site.pool(agents_per_worker=1)
    await site.host(agent="changing:Changing")
    await site.run(pool, 2)
    persons = min(await site.workers())  # the first that gets a deadline
    await site.log.act_on_worker(POOL, persons, Cordon(reason="odd"), ORIGIN)
    await start(site, deadline_seconds=600)

    async def cordoned_by_persons(names: list[str]) -> bool:
        found = [o.worker for o in (await site.survey()).workers if o.worker.cordoned]
        assert [o.worker_id for o in found if o.worker_id in names] == names
        return [(one.worker_id, one.cordoned, one.drain_ms) for one in found] == [
            (name, "odd", 0) for name in names
        ]

    async def cordoned(count: int) -> bool:
        workers = [o.worker for o in (await site.survey()).workers]
        due = [one.drain_ms for one in workers if one.drain_ms]
        return (sum(bool(w.cordoned) for w in workers), len(due)) == (count, min(count, 1))

    await until(lambda: cordoned(2), what="one has a deadline, the other waits")
    body = PoolReplacementStopped(reason="changed my mind")
    await site.catalogue.change_replacement(POOL, body, ORIGIN)
    await until(lambda: cordoned_by_persons([persons]), what="only that of the person is left")
    again = await site.catalogue.change_replacement(POOL, body, ORIGIN)
    assert again.outcome is Outcome.ALREADY
    replacement = again.catalogue.pools[POOL].replacement
    assert replacement is not None
    assert (replacement.status, replacement.detail) == ("stopped", "changed my mind")
    assert not any(e["type"] == "worker.draining" for e in raw_events(site.url))
    site.check()
