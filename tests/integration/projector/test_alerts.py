"""Alerts in the database: stored as they were written, once; trimmed in Redis below that."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from eventstore.ids import new_id
from eventstore.language.alerts import AlertBody, AlertClosed, AlertOpened, Case
from eventstore.log.alerts import AlertLog, Change
from eventstore.retention import Retention
from projector.queries.views import AlertRow, Views
from tests.integration.projector.stage import Stage, open_stage
from tests.metrics import scrape
from tests.waiting import until

KEPT = Retention(age_ms=10**13, alerts_ms=10**13)


class Alerts:
    """Writes alerts as a gateway does, and reads them as one does."""

    def __init__(self, stage: Stage, views: Views) -> None:
        self.stage, self.views = stage, views
        self.log = AlertLog(stage.log.client, stage.log.keys, "gateway:test")
        self.term = 0

    async def write(self, *changes: Change) -> None:
        if not self.term:
            self.term = (await self.log.lead(0)).term
        assert await self.log.write(self.term, new_id(), changes)

    async def opened(self, alert_id: str, at: int = 5) -> None:
        await self.write(Change(alert_id, b"{}", new_id(), opened(at)))

    async def closed(self, alert_id: str, at: int = 9) -> None:
        await self.write(Change(alert_id, b"", new_id(), closed(at)))

    async def entries(self) -> int:
        return len(await self.log.after("0", count=1000))

    async def stored(self) -> list[AlertRow]:
        return await self.views.closed_alerts()


def opened(at: int) -> AlertBody:
    return AlertOpened(
        name="agent-failed",
        severity="critical",
        subject="a1",
        message="it failed",
        action="restart it",
        runbook="docs/operations.md#agent-failed",
        opened_at=at,
        pool_name="p",
        newest=(Case("a1", at, "why"),),
    )


def closed(at: int) -> AlertBody:
    return AlertClosed(
        name="agent-failed",
        severity="critical",
        subject="a1",
        opened_at=5,
        closed_at=at,
        pool_name="p",
        count=2,
    )


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projector.service.alerts.CLEAN_SECONDS", 0.05)


@pytest.fixture
async def alerts(redis_url: str, database_url: str) -> AsyncIterator[Alerts]:
    async with open_stage(redis_url, database_url) as stage:
        views = Views(database_url)
        await views.start()
        try:
            yield Alerts(stage, views)
        finally:
            await views.stop()


async def test_an_alert_is_stored_with_its_end(alerts: Alerts) -> None:
    async with alerts.stage.projecting(alert_seconds=0.02, retention=KEPT):
        await alerts.opened("i1")
        await alerts.closed("i1")
        [row] = await until(alerts.stored)
    assert (row.alert_id, row.opened_at, row.closed_at, row.count) == ("i1", 5, 9, 2)
    assert (row.message, row.pool_name) == ("it failed", "p")
    assert row.cases == (Case("a1", 5, "why"),)


async def test_open_alerts_are_counted_by_rule_and_severity(alerts: Alerts) -> None:
    projecting = alerts.stage.projecting(alert_seconds=0.02, retention=KEPT, metrics=True)
    async with projecting as projector:
        for alert_id in ("i1", "i2", "i3"):
            await alerts.opened(alert_id)

        async def counted() -> dict[tuple[str, ...], float]:
            return dict((await scrape(projector.metrics)).get("muster_alerts_open", {}))

        rule = ("agent-failed", "critical")
        await until(lambda: _equals(counted, {rule: 3}))
        await alerts.closed("i1")
        await until(lambda: _equals(counted, {rule: 2}))
        await alerts.closed("i2")
        await alerts.closed("i3")
        await until(lambda: _equals(counted, {}))


async def _equals(read: Callable[[], Awaitable[object]], expected: object) -> bool:
    return await read() == expected


async def test_what_is_stored_again_changes_nothing(alerts: Alerts) -> None:
    """The stream is read from its start whenever a projector starts."""
    await alerts.opened("i1")
    await alerts.closed("i1")
    for _ in range(2):
        async with alerts.stage.projecting(alert_seconds=0.02, retention=KEPT):
            await until(alerts.stored)
            await alerts.opened("i2")
            await alerts.closed("i2")
            await until(lambda: _stored(alerts, "i2"))
    assert [row.alert_id for row in await alerts.stored()] == ["i2", "i1"]


async def _stored(alerts: Alerts, alert_id: str) -> bool:
    return alert_id in {row.alert_id for row in await alerts.stored()}


async def test_an_alert_that_redis_lost_is_closed(alerts: Alerts) -> None:
    async with alerts.stage.projecting(alert_seconds=0.02, retention=KEPT):
        await alerts.opened("i1")
        assert not await alerts.stored()
        await alerts.opened("i2")
        await alerts.stage.log.client.execute_command(
            "HDEL", alerts.stage.log.keys.alerts_part("open"), "i1"
        )
        [row] = await until(alerts.stored)
    assert row.alert_id == "i1"


async def test_an_end_without_a_beginning_is_stored(alerts: Alerts) -> None:
    async with alerts.stage.projecting(alert_seconds=0.02, retention=KEPT):
        await alerts.closed("i1")
        [row] = await until(alerts.stored)
    assert (row.alert_id, row.name, row.closed_at) == ("i1", "agent-failed", 9)


async def test_only_what_is_stored_leaves_redis(alerts: Alerts) -> None:
    """All but the last entry, once it is as old as the retention says."""
    for number in range(3):
        await alerts.opened(f"i{number}")
    assert await alerts.entries() == 3
    brief = Retention(age_ms=1, alerts_ms=10**13)
    async with alerts.stage.projecting(alert_seconds=0.02, retention=brief):

        async def trimmed() -> bool:
            return await alerts.entries() == 1

        await until(trimmed)


async def test_closed_alerts_are_forgotten_in_time(alerts: Alerts) -> None:
    async with alerts.stage.projecting(alert_seconds=0.02, retention=KEPT):
        await alerts.opened("i1")
        await alerts.closed("i1")
        await until(alerts.stored)
    brief = Retention(age_ms=10**13, alerts_ms=1)
    async with alerts.stage.projecting(alert_seconds=0.02, retention=brief):

        async def forgotten() -> bool:
            return not await alerts.stored()

        await until(forgotten)


async def test_who_leads_no_more_writes_nothing(alerts: Alerts) -> None:
    await alerts.opened("i1")
    other = AlertLog(alerts.stage.log.client, alerts.stage.log.keys, "gateway:other")
    seen = await other.lead(0)
    assert seen.who == "gateway:test"
    taken = await other.lead(0, stale=seen)
    assert (taken.who, taken.term) == ("gateway:other", alerts.term + 1)
    assert taken.open == {"i1": b"{}"}
    change = Change("i2", b"{}", new_id(), opened(5))
    assert not await alerts.log.write(alerts.term, new_id(), [change])
    assert await alerts.entries() == 1


async def test_a_call_that_is_repeated_writes_once(alerts: Alerts) -> None:
    lead, call_id = await alerts.log.lead(0), new_id()
    changes = [
        Change("i1", b"{}", new_id(), opened(5)),
        Change("i1", b"", new_id(), closed(9)),
    ]
    for _ in range(2):
        assert await alerts.log.write(lead.term, call_id, changes)
    assert await alerts.entries() == 2
    assert (await alerts.log.lead(lead.term)).open == {}
