"""The plan of a pool's consolidation over HTTP, and asking for it."""

from eventstore.steps import clauses
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.stage import POOL

PATH = f"{AGENTS}/pools/{POOL}"


async def fragmented(stage: GatewayStage) -> list[str]:
    """Two workers with an agent each; the leader has said that one fewer would do."""
    agents = []
    for name in ("w1", "w2"):
        agents.append(await stage.pending())
        await stage.run(await stage.worker(name))
    await surplus(stage, 1)
    return agents


async def surplus(stage: GatewayStage, workers: int) -> None:
    step = stage.pool.pool_log.step()
    step.write(clauses.SetMeta("surplus", workers or ""))
    await stage.log.commit(step)


async def test_the_plan_says_which_workers_would_be_emptied_and_why(stage: GatewayStage) -> None:
    agents = await fragmented(stage)
    plan = (await stage.get(f"{PATH}/plan")).json
    assert (plan["workers_fewer"], plan["moves"], plan["running"]) == (1, 1, False)
    first, second = plan["workers"]
    assert (first["worker_id"], first["action"], first["moves"]) == ("w1", "empty", agents[:1])
    assert (first["agents"], first["busy"], first["free"]) == (1, 0, 9)
    assert (second["action"], second["why"]) == ("keep", "its slots are needed")
    await surplus(stage, 0)
    plan = (await stage.get(f"{PATH}/plan")).json
    assert plan["workers_fewer"] == 0
    assert "down.window_seconds" in plan["why"]
    await stage.ask("POST", f"{PATH}/pause", json={"reason": "the database moves"})
    assert "the database moves" in (await stage.get(f"{PATH}/plan")).json["why"]


async def test_what_is_asked_for_is_recorded_once_with_who_and_why(stage: GatewayStage) -> None:
    await fragmented(stage)
    answer = await stage.ask("POST", f"{PATH}/consolidate", json={"reason": "the night begins"})
    assert (answer.status, answer.json["running"]) == (202, True)
    again = await stage.ask("POST", f"{PATH}/consolidate")
    assert (again.status, again.json["workers_fewer"]) == (202, 1)
    assert (await stage.events()).count("pool.consolidation_requested") == 1
    request = (await stage.log.survey(POOL)).consolidation
    assert request is not None
    assert not request.busy
    await stage.ask("POST", f"{PATH}/consolidate", json={"busy": True})
    request = (await stage.log.survey(POOL)).consolidation
    assert request is not None
    assert request.busy


async def test_where_there_is_nothing_to_do_nothing_is_recorded(stage: GatewayStage) -> None:
    answer = await stage.ask("POST", f"{PATH}/consolidate")
    assert (answer.status, answer.json["workers"]) == (200, [])
    assert "pool.consolidation_requested" not in await stage.events()
    unknown = await stage.ask("POST", f"{AGENTS}/pools/none/consolidate")
    assert (unknown.status, unknown.kind) == (404, "pool-not-found")
    wrong = await stage.ask("POST", f"{PATH}/consolidate", json={"busy": "yes"})
    assert (wrong.status, wrong.fields) == (400, ["busy"])
    assert (await stage.get(f"{PATH}/plan?busy=maybe")).status == 400
