"""What a spawn leaves out is as the pool says, and what the pool leaves out, as its role."""

from typing import Any

from tests.integration.gateway.stage import AGENTS, GatewayStage, asked, gateway_stage

POOL = "quiet_pool"
DEFAULTS = {"developer": {"max_idle_time": "never", "labels": {"team": "core"}}}


async def create(stage: GatewayStage, **config: Any) -> Any:
    body = {"pool_name": POOL, "role_type": "developer", "config": config}
    answer = await stage.ask("POST", f"{AGENTS}/pools", json=body)
    return answer.json["config"] if answer.status == 201 else answer


async def spawned(stage: GatewayStage, **fields: Any) -> tuple[Any, Any, Any]:
    body = {"project_id": "p", "role_type": "developer", "pool_name": POOL, **fields}
    headers = {"Prefer": "respond-async"}
    answer = await stage.ask("POST", f"{AGENTS}/spawn", json=body, headers=headers)
    assert answer.status == 202, answer.body
    row = answer.json
    return row["heartbeat_interval"], row["max_idle_time"], row["labels"]


async def test_a_spawn_counts_before_the_pool_and_the_pool_before_the_default(stage):
    config = await create(stage, heartbeat_interval=20, max_idle_time="never", labels={"a": "1"})
    assert (config["heartbeat_interval"], config["max_idle_time"]) == (20.0, 0.0)
    assert await spawned(stage) == (20.0, None, {"a": "1"})
    assert await spawned(stage, heartbeat_interval=30.0, max_idle_time=300.0) == (
        30.0,
        300.0,
        {"a": "1"},
    )
    labels = {"a": "2", "b": "3"}
    assert await spawned(stage, max_idle_time=None, labels=labels) == (20.0, None, labels)


async def test_a_change_counts_for_later_spawns_and_null_restores_the_default(stage):
    await create(stage, max_idle_time=600, labels={"a": "1"})
    assert await spawned(stage) == (30.0, 600.0, {"a": "1"})
    patch: Any = {"config": {"max_idle_time": None, "labels": {}, "heartbeat_interval": 15}}
    assert (await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=patch)).status == 200
    assert await spawned(stage) == (15.0, 300.0, {})


async def test_a_role_counts_before_the_default(redis_url, database_url):
    async with gateway_stage(redis_url, database_url, role_defaults=DEFAULTS) as stage:
        assert (await create(stage, heartbeat_interval=20))["labels"] == {"team": "core"}
        assert await spawned(stage) == (20.0, None, {"team": "core"})
        for idle, expected in ((90, 90.0), (None, None)):
            patch = {"config": {"max_idle_time": idle}}
            await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=patch)
            assert (await spawned(stage))[1] == expected


async def test_a_key_is_remembered_by_what_was_sent(stage):
    await create(stage)
    body = {"project_id": "p", "role_type": "developer", "pool_name": POOL}
    headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    first = await stage.ask("POST", f"{AGENTS}/spawn", json=body, headers=headers)
    patch = {"config": {"max_idle_time": "never"}}
    await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=patch)
    again = await stage.ask("POST", f"{AGENTS}/spawn", json=body, headers=headers)
    assert again.json["agent_id"] == first.json["agent_id"]
    assert again.json["max_idle_time"] == 300.0


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"heartbeat_interval": 1}, "config.heartbeat_interval"),
    ({"max_idle_time": 5}, "config.max_idle_time"),
    ({"max_idle_time": "sometimes"}, "config.max_idle_time"),
    ({"labels": {"-": "x"}}, "config.labels"),
    ({"labels": {str(n): "x" for n in range(17)}}, "config.labels"),
)


async def test_defaults_that_no_spawn_may_have_are_refused(stage, subtests):
    for config, field in REFUSED:
        with subtests.test("created", config=config):
            answer = await create(stage, **config)
            assert (answer.status, answer.fields) == (400, [field])
    await create(stage)
    for config, field in REFUSED:
        with subtests.test("changed", config=config):
            patch = {"config": config}
            answer = await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=patch)
            assert (answer.status, answer.fields) == (400, [field])


async def test_a_spawn_may_not_have_too_many_labels_with_those_of_its_pool(stage):
    await create(stage, labels={f"a{n}": "x" for n in range(10)})
    answer = await stage.spawn(pool_name=POOL, labels={f"b{n}": "x" for n in range(7)})
    assert (answer.status, answer.fields) == (400, ["labels"])


async def test_the_role_is_that_of_the_pool_where_it_is_left_out(stage):
    body = asked()
    del body["role_type"]
    for sent in (body, {**body, "role_type": None}):
        answer = await stage.ask(
            "POST", f"{AGENTS}/spawn", json=sent, headers={"Prefer": "respond-async"}
        )
        assert (answer.status, answer.json["role_type"]) == (202, "developer")
