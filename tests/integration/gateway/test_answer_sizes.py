"""Answers are bounded in bytes, whatever they are about."""

import msgspec

from gateway.following import subscriptions
from gateway.resources import event_stream
from projector.store.rows import PAGE_BYTES, page
from tests.integration.gateway.event_client import following
from tests.integration.gateway.parked_agents import damage
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.stage import POOL


class Row(msgspec.Struct):
    text: str


LONG = {"x": "y" * 60_000}


async def pages(stage: GatewayStage, path: str, name: str) -> list[list[str]]:
    """The ids on each page, following `next`; no page is longer than a little over the bound."""
    found = []
    while path:
        answer = await stage.get(path)
        assert answer.status == 200, answer.body
        assert len(answer.body) < PAGE_BYTES + 70_000
        body = answer.json
        found.append(
            [row.get("agent_id") or row.get("id") or row["pool_name"] for row in body[name]]
        )
        path = body["next"]
        linked = answer.headers.get("Link")
        assert linked == (f'<{path}>; rel="next"' if path else None)
    return found


async def test_a_page_with_long_inputs_ends_early_and_says_where_it_goes_on(stage):
    ids = [await stage.pending(input=LONG) for _ in range(40)]
    await stage.stage.settle()
    for query in ("", f"&as_of={POOL}:40"):
        found = await pages(stage, f"{AGENTS}?limit=1000&include=input{query}", "agents")
        assert [one for page in found for one in page] == ids
        assert [len(page) for page in found] == [18, 18, 4]
        [alone] = await pages(stage, f"{AGENTS}?limit=1000{query}", "agents")
        assert alone == ids


async def test_a_list_has_inputs_only_if_it_is_asked_for_them(stage):
    agent_id = await stage.pending(input={"a": 1})
    for path in (AGENTS, f"{AGENTS}/project/apollo"):
        [row] = (await stage.get(path)).json["agents"]
        assert "input" not in row
        [row] = (await stage.get(f"{path}?include=input")).json["agents"]
        assert row["input"] == {"a": 1}
    assert (await stage.get(f"{AGENTS}/{agent_id}")).json["input"] == {"a": 1}


async def test_lists_of_pools_and_of_what_is_parked_have_pages(stage, plain_redis):
    for name in ("a", "b", "c"):
        await stage.stage.pool(name)
    await stage.stage.settle("")
    assert await pages(stage, f"{AGENTS}/pools?limit=2", "pools") == [["a", "b"], ["c", POOL]]
    for _ in range(5):
        damage(plain_redis, await stage.pending(), "field")
    await stage.pool.claim(await stage.worker())
    found = await pages(stage, "/api/v1/parked?limit=2", "parked")
    assert [len(page) for page in found] == [2, 2, 1]
    assert len({one for page in found for one in page}) == 5


async def test_the_dashboard_shows_as_many_events_as_are_short(stage):
    for _ in range(12):
        await stage.pending(input=LONG)
    await stage.stage.settle()
    answer = await stage.get(f"{AGENTS}/monitor/dashboard")
    assert len(answer.json["events"]) == 4
    assert len(answer.body) < 300_000


async def test_events_wait_for_a_client_up_to_a_size(stage, monkeypatch):
    """One that falls behind is sent away, and comes back to the event after its last."""
    monkeypatch.setattr(subscriptions, "QUEUE_BYTES_MAX", 150_000)
    with stage.backend.subscriptions.subscribe() as slow:
        ids = [await stage.pending(input=LONG) for _ in range(4)]
        await stage.stage.settle()
        assert (slow.overflowed, len(slow.items)) == (True, 0)
    monkeypatch.setattr(event_stream, "PAGE_BYTES", 1)
    async with following(stage, "?after=0&type=agent.requested") as client:
        assert [event["subject"] for event in await client.read(4)] == ids


async def test_a_page_is_cut_where_it_is_too_long_and_not_before() -> None:
    rows = [Row("x" * 400_000) for _ in range(4)]
    assert (len(page(rows, 10)[0]), page(rows, 10)[1]) == (3, True)
    assert (len(page(rows[:2], 10)[0]), page(rows[:2], 10)[1]) == (2, False)
    assert (len(page(rows, 2)[0]), page(rows, 2)[1]) == (2, True)
    assert page([], 10) == ([], False)
