"""`GET /api/v1/lookup`: what a name or a part of an id stands for, and what was probably meant."""

from typing import Any

from tests.integration.gateway.stage import GatewayStage
from tests.integration.projector.stage import POOL

WORKER = "01900000-0000-7000-8000-0000000000aa"


async def found(stage: GatewayStage, name: str, kind: str = "") -> list[tuple[str, str]]:
    params = {"name": name, **({"kind": kind} if kind else {})}
    answer: Any = (await stage.get("/api/v1/lookup", params=params)).json
    return [(match["kind"], match["name"]) for match in answer["matches"]]


async def test_an_id_is_found_by_any_beginning_or_end_of_six_characters(stage):
    first, second = sorted([await stage.pending() for _ in range(2)])
    await stage.worker(WORKER)
    await stage.stage.settle(POOL)
    for part in (first[:36], first[-6:], first[-8:], first[-13:], first.upper()[-7:]):
        assert await found(stage, part) == [("agent", first)]
    assert await found(stage, first[:6]) == [("agent", first), ("agent", second)]
    assert await found(stage, first[-5:]) == []
    assert await found(stage, first[2:12]) == []
    assert await found(stage, f"{first[:12]}%") == []
    assert await found(stage, "0000aa") == [("worker", WORKER)]
    assert await found(stage, "0000aa", "agent") == []


async def test_what_was_just_acknowledged_is_found(stage):
    agent = await stage.pending()
    assert await found(stage, agent[-12:]) == [("agent", agent)]


async def test_pools_roles_and_projects_are_found_by_name(stage):
    await stage.pending(project_id="apollo")
    assert await found(stage, POOL) == [("pool", POOL)]
    assert await found(stage, "developer") == [("role", "developer")]
    assert await found(stage, "apollo") == [("project", "apollo")]


EXPLAINED = (
    ("pool", "develper_pool", "no pool `develper_pool`; did you mean `developer_pool`?"),
    ("role", "Devloper", "no role `Devloper`; did you mean `developer`?"),
    ("project", "appolo", "no project `appolo`; did you mean `apollo`?"),
    ("project", "x", "no project `x`; there are: apollo, gemini"),
    ("agent", "123456", "no agent `123456`"),
    ("agent,pool", "developer_pol", "no agent or pool `developer_pol`; did you mean"),
    ("", "123456", "no agent, worker, pool, project or role `123456`"),
)


async def test_a_name_that_nothing_bears_is_explained(stage, subtests):
    for project in ("apollo", "apollo", "gemini"):
        await stage.pending(project_id=project)
    for kind, name, message in EXPLAINED:
        with subtests.test(name, kind=kind):
            asked = {"name": name, "kind": kind} if kind else {"name": name}
            answer = await stage.get("/api/v1/lookup", params=asked)
            assert answer.json["matches"] == []
            assert answer.json["message"].startswith(message)


async def test_commands_name_the_pool_or_role_that_was_probably_meant(stage):
    for method, path in (("GET", "/develper_pool"), ("PATCH", "/develper_pool")):
        body: Any = {"config": {}} if method == "PATCH" else None
        answer = await stage.ask(method, f"/api/v1/agents/pools{path}", json=body)
        assert answer.status == 404
        assert answer.json["detail"] == "no pool `develper_pool`; did you mean `developer_pool`?"
    answer = await stage.spawn(role_type="develper")
    assert answer.json["detail"] == "no role `develper`; did you mean `developer`?"


async def test_at_most_ten_agents_are_answered(stage):
    agents = [await stage.pending() for _ in range(11)]
    await stage.stage.settle(POOL)
    answer = (await stage.get("/api/v1/lookup", params={"name": agents[0][:6]})).json
    assert (len(answer["matches"]), answer["more"]) == (10, True)


async def test_a_pool_that_the_views_do_not_have_yet_is_answered(unprojected):
    """It is not said not to exist, with its own name as the one that was probably meant."""
    await unprojected.stage.pool("newer_pool")
    answer = await unprojected.get("/api/v1/agents/pools/newer_pool")
    assert (answer.status, answer.json["pool_name"]) == (200, "newer_pool")
    assert answer.headers["Muster-Stale"] == "true"
    assert await found(unprojected, "newer_pool", "pool") == [("pool", "newer_pool")]


async def test_a_pool_that_did_not_exist_yet_is_not_suggested(stage):
    answer = await stage.get(f"/api/v1/agents/pools/{POOL}", params={"as_of": ":0"})
    assert (answer.status, answer.json["detail"]) == (404, f"no pool `{POOL}`")
