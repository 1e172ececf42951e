"""Lists of agents, and reads that show what was acknowledged."""

from msgspec.structs import replace

from eventstore.errors import LogUnreachable
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage
from tests.integration.projector.stage import POOL

POOLS = f"{AGENTS}/pools"


async def test_pages_list_every_agent_once_in_the_order_of_their_ids(redis_url, database_url):
    async with gateway_stage(redis_url, database_url) as stage:
        ids = sorted([await stage.pending() for _ in range(7)])
        pages, path = [], f"{AGENTS}?limit=3&pool_name={POOL}"
        while path:
            answer = await stage.get(path)
            pages.append([row["agent_id"] for row in answer.json["agents"]])
            path = answer.json["next"]
            link = answer.headers.get("Link")
            assert link == (f'<{path}>; rel="next"' if path else None)
        assert pages == [ids[:3], ids[3:6], ids[6:]]


async def test_health_pages_list_every_agent_once_too(redis_url, database_url):
    async with gateway_stage(redis_url, database_url) as stage:
        fence = await stage.worker()
        ids = sorted([await stage.pending() for _ in range(4)])
        await stage.run(fence)
        first = (await stage.get(f"{AGENTS}/health?limit=2")).json
        second = (await stage.get(f"{AGENTS}/health?limit=2&cursor={first['next']}")).json
        agents = [*first["pools"][POOL], *second["pools"][POOL]]
        assert [agent["agent_id"] for agent in agents] == ids
        assert sorted(agent["health"] for agent in agents) == ["healthy", *["waiting"] * 3]
        assert (first["total"], second["total"], second["next"]) == (2, 2, None)
        assert first["healthy"] + second["healthy"] == 1


FILTERS = {
    "project_id=apollo": "running pending",
    "project_id=gemini": "gemini",
    "project_id=soyuz": "",
    "status=running": "running",
    "status=running,pending": "running pending gemini",
    "status=running&status=terminated": "running ended",
    "process_id={worker}": "running",
    "label=team:core": "gemini",
    "label=team:": "",
    "text=GEMI": "gemini",
    "text=core": "gemini",
    "text=gem_ni": "",
    "text=100%25": "",
    "text=velop&status=running": "running",
    "include_ended=true": "running pending gemini ended",
    "role_type=developer": "running pending gemini",
    "role_type=tester": "",
}


async def test_lists_are_filtered(redis_url, database_url, subtests):
    async with gateway_stage(redis_url, database_url) as stage:
        worker = "01900000-0000-7000-8000-000000000001"
        fence = await stage.worker(worker)
        ids = {"running": await stage.pending()}
        await stage.run(fence)
        ids["pending"] = await stage.pending()
        ids["gemini"] = await stage.pending(project_id="gemini", labels={"team": "core"})
        ids["ended"] = await stage.pending()
        assert (await stage.ask("DELETE", f"{AGENTS}/{ids['ended']}")).status == 200
        for query, found in FILTERS.items():
            with subtests.test(query):
                answer = await stage.get(f"{AGENTS}?{query.format(worker=worker)}")
                listed = {row["agent_id"] for row in answer.json["agents"]}
                assert listed == {ids[name] for name in found.split()}


async def test_a_list_of_a_pool_that_there_never_was_says_so(stage, monkeypatch):
    """A pool of which this gateway and its views have not read yet is no such pool."""
    for path in ("", "/workers", "/health"):
        answer = await stage.get(f"{AGENTS}{path}?pool_name=develper_pool")
        assert (answer.status, answer.kind) == (404, "pool-not-found")
        assert answer.fields == ["pool_name"]
        assert answer.json["detail"].endswith(f"did you mean `{POOL}`?")
    await stage.projector.stop()
    await stage.backend.tail.stop()
    await stage.stage.pool("elsewhere")
    assert (await stage.get(f"{AGENTS}?pool_name=elsewhere")).json["agents"] == []

    async def unreachable(*_: object) -> None:
        raise LogUnreachable("as in an outage")

    monkeypatch.setattr(stage.backend, "with_catalogue", unreachable)
    assert (await stage.get(f"{AGENTS}?pool_name=unknown")).json["agents"] == []


async def test_a_project_has_its_agents(stage):
    mine = await stage.pending(project_id="gemini:1")
    await stage.pending()
    answer = await stage.get(f"{AGENTS}/project/gemini:1")
    assert [row["agent_id"] for row in answer.json["agents"]] == [mine]


async def test_every_read_shows_what_was_acknowledged(redis_url, database_url):
    async with gateway_stage(redis_url, database_url) as stage:
        for count in range(1, 11):
            agent_id = await stage.pending()
            one = await stage.get(f"{AGENTS}/{agent_id}")
            pool = await stage.get(f"{POOLS}/{POOL}")
            assert (one.status, pool.json["pending_count"]) == (200, count)
            assert "Muster-Stale" not in {*one.headers, *pool.headers}


async def test_a_read_without_a_projector_is_stale_and_says_so(redis_url, tmp_path):
    limits = type(QUICK)(catch_up_seconds=0.1, wait_default=0.5)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        first = await stage.pending()
        await stage.stage.settle(POOL)
        assert (await stage.get(f"{AGENTS}/{first}")).status == 200
        await stage.projector.stop()
        spawned = await stage.spawn(prefer="wait=1")
        assert spawned.status == 202
        listed = await stage.get(AGENTS)
        assert listed.headers["Muster-Stale"] == "true"
        assert [row["agent_id"] for row in listed.json["agents"]] == [first]
        behind = dict(p.rsplit(":", 1) for p in listed.headers["Muster-Position"].split(","))
        assert behind[POOL] == "1"
        ended = await stage.ask("DELETE", f"{AGENTS}/{spawned.json['agent_id']}")
        assert (ended.status, ended.json["status"]) == (200, "terminated")


async def test_a_position_from_another_gateway_is_waited_for(redis_url, tmp_path):
    """What one gateway acknowledged, another shows when asked with its position."""
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database) as stage:
        submitted = await stage.pool.spawn()
        position = {"Muster-Position": f"{POOL}:{submitted.seq}"}
        answer = await stage.get(AGENTS, headers=position)
        assert [row["agent_id"] for row in answer.json["agents"]] == [submitted.agent_id]
        stage.backend.limits = replace(QUICK, catch_up_seconds=0.2)  # waited in vain
        ahead = {"Muster-Position": f"{POOL}:{submitted.seq + 100}"}
        late = await stage.get(AGENTS, headers=ahead)
        assert (late.status, late.headers["Muster-Stale"]) == (200, "true")
