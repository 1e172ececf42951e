"""Commands on workers over HTTP."""

from typing import Any

import pytest

from eventstore.language.consolidation import REASON
from eventstore.language.workers import Cordon
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN

WORKERS = f"{AGENTS}/workers"


async def test_a_worker_is_drained_once_with_a_reason(stage: GatewayStage) -> None:
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    path = f"{WORKERS}/{fence.worker_id}/drain"
    answer = await stage.ask("POST", path, json={"reason": "the kernel is updated"})
    row = answer.json
    assert (answer.status, row["status"], row["reason"]) == (
        202, "draining", "the kernel is updated",
    )  # fmt: skip
    again = await stage.ask("POST", path)
    assert (again.status, again.json["reason"]) == (202, "the kernel is updated")
    assert (await stage.events()).count("worker.draining") == 1
    inbox = f"pool:{{{POOL}}}:inbox:{fence.worker_id}"
    assert await stage.log.client.execute_command("LRANGE", inbox, 0, -1) == [b"drain"]


async def test_a_worker_is_cordoned_and_uncordoned_once_with_a_reason(stage: GatewayStage) -> None:
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    path = f"{WORKERS}/{fence.worker_id}"
    for _ in range(2):
        answer = await stage.ask("POST", f"{path}/cordon", json={"reason": "its memory grows"})
        row = answer.json
        assert (answer.status, row["cordoned"], row["status"]) == (
            200, "its memory grows", "active",
        )  # fmt: skip
    pool = (await stage.ask("GET", f"{AGENTS}/pools/{POOL}")).json
    assert (pool["process_count"], pool["total_capacity"], pool["available_capacity"]) == (1, 0, 0)
    for _ in range(2):
        answer = await stage.ask("POST", f"{path}/uncordon")
        assert (answer.status, answer.json["cordoned"]) == (200, "")
    pool = (await stage.ask("GET", f"{AGENTS}/pools/{POOL}")).json
    assert pool["available_capacity"] == pool["total_capacity"] > 0
    recorded = await stage.events()
    assert (recorded.count("worker.cordoned"), recorded.count("worker.uncordoned")) == (1, 1)


async def test_a_cordon_of_consolidation_becomes_that_of_whoever_asks_for_one(
    stage: GatewayStage,
) -> None:
    """Else it would be ended, as consolidation is done with the worker."""
    fence = await stage.worker()
    await stage.log.act_on_worker(POOL, fence.worker_id, Cordon(reason=REASON), ORIGIN)
    await stage.stage.settle(POOL)
    path = f"{WORKERS}/{fence.worker_id}/cordon"
    for _ in range(2):
        answer = await stage.ask("POST", path, json={"reason": "its memory grows"})
        assert (answer.status, answer.json["cordoned"]) == (200, "its memory grows")
    assert (await stage.events()).count("worker.cordoned") == 2
    refused = await stage.ask("POST", path, json={"reason": REASON})
    assert (refused.status, refused.fields) == (400, ["reason"])


async def test_a_cordon_that_was_recorded_is_answered_though_the_views_are_gone_since(
    stage: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is refused may give up: nothing was to be written then."""
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    log, act = stage.backend.log, stage.backend.log.act_on_worker

    async def act_and_lose_the_views(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(stage.backend, "views_error", "it is gone")
        return await act(*args, **more)

    monkeypatch.setattr(log, "act_on_worker", act_and_lose_the_views)
    path = f"{WORKERS}/{fence.worker_id}/cordon"
    answer = await stage.ask("POST", path, json={"reason": "its memory grows"})
    assert (answer.status, answer.json["cordoned"]) == (200, "its memory grows")
    assert answer.headers["Muster-Stale"] == "true"
    assert (await stage.events()).count("worker.cordoned") == 1


async def test_a_worker_drains_at_a_deadline_unless_it_is_uncordoned(stage: GatewayStage) -> None:
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    path = f"{WORKERS}/{fence.worker_id}"
    before = stage.log.now_ms(POOL)
    for seconds in (600, 60):
        body = {"reason": "the kernel is updated", "deadline_seconds": seconds}
        answer = await stage.ask("POST", f"{path}/drain", json=body)
        row = answer.json
        assert (answer.status, row["status"], row["cordoned"]) == (
            202, "active", "the kernel is updated",
        )  # fmt: skip
        assert 0 <= row["drain_at"] - before - seconds * 1000 < 10_000
    answer = await stage.ask("POST", f"{path}/uncordon")
    assert (answer.json["cordoned"], answer.json["drain_at"]) == ("", None)
    refused = await stage.ask("POST", f"{path}/drain", json={"deadline_seconds": -1})
    assert (refused.status, refused.fields) == (400, ["deadline_seconds"])


async def test_a_replacement_is_started_once_and_can_be_cancelled(stage: GatewayStage) -> None:
    await stage.worker()
    path = f"{AGENTS}/pools/{POOL}/replace"
    started = await stage.ask("POST", path, json={"reason": "version 2", "max_unavailable": 3})
    shown = started.json["replacement"]
    assert (started.status, shown["status"], shown["reason"], shown["workers"]) == (
        202, "running", "version 2", 1,
    )  # fmt: skip
    again = await stage.ask("POST", path)
    assert (again.status, again.kind) == (409, "replacement-runs")
    refused = await stage.ask("POST", path, json={"max_unavailable": 0})
    assert (refused.status, refused.fields) == (400, ["max_unavailable"])
    unknown = await stage.ask("POST", f"{AGENTS}/pools/none/replace")
    assert (unknown.status, unknown.kind) == (404, "pool-not-found")
    cancelled = await stage.ask("POST", f"{path}/cancel", json={"reason": "too early"})
    shown = cancelled.json["replacement"]
    assert (cancelled.status, shown["status"], shown["detail"]) == (200, "stopped", "too early")
    assert (await stage.ask("POST", f"{path}/cancel")).json["replacement"] == shown


async def test_a_worker_that_is_none_or_has_not_started_is_not_drained(stage: GatewayStage) -> None:
    unknown = await stage.ask("POST", f"{WORKERS}/01a2b3c4-0000-7000-8000-000000000000/drain")
    assert (unknown.status, unknown.kind) == (404, "worker-not-found")
    await stage.pool.order("ordered")
    await stage.stage.settle(POOL)
    for command in ("drain", "cordon"):
        early = await stage.ask("POST", f"{WORKERS}/ordered/{command}")
        assert (early.status, early.kind) == (409, "worker-not-started")
    refused = await stage.ask("POST", f"{WORKERS}/ordered/drain", json={"reason": ""})
    assert (refused.status, refused.fields) == (400, ["reason"])
