"""Spans by OpenTelemetry, as a collector gets them from a complete Muster."""

import time
from pathlib import Path

import pytest

from tests.e2e.conftest import CONFIG
from tests.e2e.system import System
from tests.otlp import ReceivedSpan, Receiver
from tests.waiting import until

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CONSUMER = 2, 5
SPAWN = "POST /api/v1/agents/spawn"
STOP_SECONDS = 15.0
"""Of a Muster whose receiver is gone; with all waits of 30 s that the SDK has it takes minutes."""

ACTING = """\
import asyncio

from muster import Agent


class Actor(Agent):
    async def start(self, context):
        with context.tracer.start_as_current_span("prepare"):
            pass

    async def run(self, context):
        with context.tracer.start_as_current_span("think") as span:
            span.set_attribute("agent", context.agent_id)
            print("it thinks")
        if context.incarnation == 1 and context.input.get("crash"):
            raise ValueError("as asked")
        await asyncio.Event().wait()
"""


UNTRACED = """\
import sys

from muster import Agent


class Actor(Agent):
    async def start(self, context):
        with context.tracer.start_as_current_span("prepare") as span:
            span.set_attribute("nothing", "happens")
        loaded = [name for name in sys.modules if name.startswith("opentelemetry")]
        assert not loaded, loaded
"""


def exporting_to(receiver: Receiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BLRP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }


def figure(receiver: Receiver, name: str) -> float:
    """Of the projector, over all pools."""
    points = receiver.metrics.get(("muster-projector", name), [])
    return sum(point.as_double for point in points)


def lines_of_roles(receiver: Receiver) -> set[tuple[str, str]]:
    return {(line.resource["service.name"], line.body) for line in receiver.lines}


async def received(receiver: Receiver, name: str, count: int = 1) -> list[ReceivedSpan]:
    await until(lambda: len(receiver.named(name)) >= count, timeout=20)
    return receiver.named(name)


async def test_a_spawn_is_one_trace_from_the_request_to_the_views(project: Path) -> None:
    """Of the client's trace: the request, its commit, claim, start, what the agent does, views."""
    (project / "acting.py").write_text(ACTING)
    with Receiver() as receiver:
        env = exporting_to(receiver)
        async with System(project, "--otel", config=CONFIG, env=env) as system:
            headers = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "Prefer": "wait=30"}
            of = {"project_id": "p", "role_type": "developer", "pool_name": "developer_pool"}
            body = {**of, "input": {"crash": True}}
            path = "/api/v1/agents/spawn"
            status, agent = await system.call("POST", path, body, headers=headers)
            assert status == 200, agent
            [request] = await received(receiver, SPAWN)
            [commit] = await received(receiver, "commit")
            [first_claim, second_claim] = await received(receiver, "claim developer", 2)
            [first_start, _] = await received(receiver, "start developer", 2)
            [prepare, _] = await received(receiver, "prepare", 2)
            [think, _] = await received(receiver, "think", 2)
            [requested] = await received(receiver, "project agent.requested")
            [started, _] = await received(receiver, "project agent.started", 2)
            await until(lambda: figure(receiver, "muster_spawns_total") == 1, timeout=20)
            await until(lambda: figure(receiver, "muster_worker_slots_used") == 1, timeout=20)
            await until(lambda: any(it.body == "it thinks" for it in receiver.lines), timeout=20)
            requests = "muster-gateway", "muster_http_requests_total"
            await until(lambda: requests in receiver.metrics, timeout=20)
            launched = "muster-supervisor", "worker.launched"
            await until(lambda: launched in lines_of_roles(receiver), timeout=20)
            restarted = "muster-projector", "muster_agent_start_seconds"
            await until(lambda: receiver.metrics[restarted][0].count == 2, timeout=20)
            workers = (await system.get("/api/v1/agents/workers"))["workers"]
            pids = {name: system.role(name).pid for name in ("gateway", "projector")}

    chain = [request, first_claim, first_start, think]
    assert [span.parent_id for span in chain] == [CLIENT, *(span.span_id for span in chain[:-1])]
    of_request, of_start = (commit, requested), (prepare, started)
    assert [span.parent_id for span in of_request] == [request.span_id] * 2
    assert [span.parent_id for span in of_start] == [first_start.span_id] * 2
    assert {span.trace_id for span in (*chain, *of_request, *of_start)} == {TRACE}
    assert (request.kind, first_claim.kind) == (SERVER, CONSUMER)
    assert request.attributes["http.response.status_code"] == 200
    assert think.attributes == {"agent": agent["agent_id"]}

    assert second_claim.trace_id != TRACE  # an agent may be started for years
    assert second_claim.links == (TRACE,)

    thought = next(line for line in receiver.lines if line.body == "it thinks")
    assert (thought.trace_id, thought.span_id) == (TRACE, think.span_id)
    assert thought.attributes["agent_id"] == agent["agent_id"]
    assert thought.resource["service.instance.id"] == think.resource["service.instance.id"]
    assert sum(receiver.metrics[restarted][0].bucket_counts) == 2

    worker = think.resource
    assert worker["service.name"] == "muster-worker"
    assert worker["service.instance.id"] == first_start.resource["service.instance.id"]
    assert worker["service.instance.id"] in {each["worker_id"] for each in workers}
    assert worker["muster.pool"] == "developer_pool"
    assert {request.resource["process.pid"], started.resource["process.pid"]} == {*pids.values()}
    assert all(span.resource["deployment.environment.name"] == "test" for span in chain)
    assert all(span.resource["host.name"] for span in chain)


@pytest.mark.timeout(90)
@pytest.mark.long
async def test_a_receiver_that_hangs_or_is_gone_delays_nothing(project: Path) -> None:
    """Its spans are lost, which is said once."""
    (project / "acting.py").write_text(ACTING)
    with Receiver(hangs=True) as receiver:
        async with System(project, "--otel", config=CONFIG, env=exporting_to(receiver)) as system:
            await system.spawn()
            await until(lambda: receiver.requests >= 3, timeout=20)  # of each process
            hanging = [await system.spawn(wait=5) for _ in range(8)]
            receiver.stop()
            gone = [await system.spawn(wait=5) for _ in range(8)]
            assert {agent["status"] for agent in (*hanging, *gone)} == {"running"}
            gateway_log = system.data / "logs" / "gateway.jsonl"
            failed = "telemetry.export_failed"
            await until(lambda: failed in gateway_log.read_text(), timeout=20)
            assert gateway_log.read_text().count(failed) == 1
            assert "Transient error" not in gateway_log.read_text()
            began = time.monotonic()
            assert await system.stop() == 0
            assert time.monotonic() - began < STOP_SECONDS


async def test_nothing_of_it_is_imported_where_it_is_off(project: Path) -> None:
    """All roles run in the process of the agent that finds out. Its tracer does nothing."""
    (project / "acting.py").write_text(UNTRACED)
    async with System(project, "--single-process", config=CONFIG) as system:
        agent = await system.spawn()
        assert (agent["status"], agent["reason"]) == ("running", "")
