"""Why over HTTP: agents, workers and pools, now and at an earlier time."""

from tests.integration.gateway.log_time import last_event, passed
from tests.integration.gateway.stage import AGENTS, Answer, GatewayStage
from tests.integration.projector.stage import POOL

UNKNOWN = "01a2b3c4-0000-7000-8000-000000000000"


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [line["text"] for line in answer.json["lines"]]


async def explained(stage: GatewayStage, path: str, query: str = "") -> Answer:
    return await stage.get(f"{AGENTS}/{path}/explain{query}")


async def test_an_agent_is_explained_from_its_request_to_its_end(stage: GatewayStage) -> None:
    agent_id = await stage.pending()
    waiting = await explained(stage, agent_id)
    assert waiting.json["now"].startswith("pending for ")
    fence = await stage.worker()
    await stage.run(fence)
    running = await explained(stage, agent_id)
    assert running.json["now"].startswith(f"running in worker {fence.worker_id}")
    assert (await stage.terminate(agent_id, prefer="respond-async")).status == 202
    answer = await explained(stage, agent_id)
    assert [line.split(" after ")[0].split(";")[0] for line in texts(answer)] == [
        "Requested over HTTP for project apollo, role developer",
        f"Claimed by worker {fence.worker_id} on host h",
        "Started",
        "Its termination was requested over HTTP",
    ]
    requested, claimed, *_ = answer.json["lines"]
    assert claimed["cause"]["event"] == requested["event"]
    assert claimed["position"] == f"{POOL}:{last_event(stage)[0] - 2}"


async def test_a_worker_and_its_pool_are_explained(stage: GatewayStage) -> None:
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    path = f"{AGENTS}/workers/{fence.worker_id}/drain"
    await stage.ask("POST", path, json={"reason": "the kernel is updated"})
    of_worker = await explained(stage, f"workers/{fence.worker_id}")
    assert texts(of_worker)[-1] == "Drained over HTTP: the kernel is updated"
    assert of_worker.json["now"].startswith("draining")
    config = {"config": {"max_workers": 7}}
    assert (await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=config)).status == 200
    of_pool = await explained(stage, f"pools/{POOL}")
    assert texts(of_pool)[-1].endswith("→ 7")
    assert of_pool.json["lines"][-1]["position"].startswith(":")


async def test_only_the_first_and_the_last_events_are_answered(stage: GatewayStage) -> None:
    for number in range(1, 5):
        config = {"config": {"max_workers": number}}
        await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=config)
    answer = await explained(stage, f"pools/{POOL}", "?limit=2")
    assert [text.split(":")[0] for text in texts(answer)][1:] == ["Settings changed over HTTP"] * 2
    assert "max_workers 2 → 3" in texts(answer)[1]
    assert answer.json["left_out"] == 2


async def test_what_was_then_is_explained_with_the_events_up_to_then(stage: GatewayStage) -> None:
    agent_id = await stage.pending()
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    seq, _ = last_event(stage)
    await passed(stage)
    await stage.run(fence)
    await stage.stage.settle(POOL)
    for path, lines in ((agent_id, 1), (f"workers/{fence.worker_id}", 2)):
        answer = await explained(stage, path, f"?as_of={POOL}:{seq}")
        assert len(texts(answer)) == lines
        assert answer.headers["Muster-As-Of"]
    then = await explained(stage, agent_id, f"?as_of={POOL}:{seq}")
    assert then.json["now"].startswith("pending for ")
    of_pool = await explained(stage, f"pools/{POOL}", f"?as_of={POOL}:{seq}")
    assert of_pool.json["now"].startswith("1 worker, 0 of ")
    before = await explained(stage, f"workers/{fence.worker_id}", f"?as_of={POOL}:1")
    assert (before.status, before.kind) == (404, "worker-not-found")


async def test_what_cannot_be_explained_is_said(stage: GatewayStage) -> None:
    kinds = {
        UNKNOWN: "agent-not-found",
        f"workers/{UNKNOWN}": "worker-not-found",
        "pools/nothing": "pool-not-found",
    }
    for path, kind in kinds.items():
        answer = await explained(stage, path)
        assert (answer.status, answer.kind) == (404, kind)
    refused = await explained(stage, UNKNOWN, "?limit=0")
    assert (refused.status, refused.fields) == (400, ["limit"])
