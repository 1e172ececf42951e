"""Every query of the dashboards finds something in a Muster in which all happens that they show."""

import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest

from tests.dashboards import (
    PROMETHEUS,
    VIEWS,
    Asked,
    documented,
    left_over,
    promql,
    queries,
    sql,
    variables,
)
from tests.e2e.system import POOL, System
from tests.e2e.test_metrics import two_free_ports
from tests.process import free_port
from tests.prometheus import PrometheusServer, configuration
from tests.waiting import until

SMALL = "small_pool"
CONFIG = """
[roles.developer]
agent = "acting:Actor"
[pools.developer_pool]
role = "developer"
renew_seconds = 0.3
backoff_min_seconds = 0.1
backoff_max_seconds = 0.2
restart_limit = 1
[pools.small_pool]
role = "developer"
max_workers = 1
agents_per_worker = 1
"""
ACTING = """
from muster import Agent, Unavailable


class Actor(Agent):
    async def run(self, context):
        if context.input.get("crash"):
            raise ValueError("as asked")
        if context.input.get("waits"):
            raise Unavailable("as asked", retry_after=600)
        if not context.input.get("completes"):
            await context.stopping.wait()
"""
Chosen: TypeAlias = dict[str, list[str]]
Views: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
SCRAPED_EVERY, INTERVAL, SPAN = "500ms", "4s", timedelta(minutes=30)


@pytest.fixture
async def system(tmp_path: Path, postgres_url: str) -> AsyncIterator[System]:
    """With its figures on three ports, and its views in PostgreSQL."""
    (tmp_path / "acting.py").write_text(ACTING)
    env = {"MUSTER_PORT": str(free_port()), "MUSTER_DATABASE_URL": postgres_url}
    flags = ("--metrics-port", str(two_free_ports()))
    async with System(tmp_path, *flags, config=CONFIG, env=env) as running:
        yield running


@pytest.fixture
async def prometheus(system: System, tmp_path: Path) -> AsyncIterator[PrometheusServer]:
    """One that scrapes it, with the rules."""
    token, port = tmp_path / "token", int(system.arguments[1])
    token.write_text("a-token")
    addresses = {
        "muster-gateway": system.url.removeprefix("http://"),
        "muster-supervisor": f"127.0.0.1:{port}",
        "muster-projector": f"127.0.0.1:{port + 1}",
    }
    server = PrometheusServer(tmp_path, configuration(addresses, token, SCRAPED_EVERY))
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


async def test_every_query_of_the_dashboards_finds_something(
    system: System, prometheus: PrometheusServer, postgres_url: str
) -> None:
    await start(system)
    await until(lambda: prometheus.ask(f'muster_agents{{pool="{SMALL}", state="pending"}}'))
    await fail(system)
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as views:
        left = [*queries(PROMETHEUS)], [*queries(VIEWS), *documented()]

        async def all_answered() -> bool:
            await keep_moving(system)
            chosen = {
                name: await prometheus.label_values(*label_values(query))
                for name, query in variables(PROMETHEUS).items()
            }
            left[0][:] = [one for one in left[0] if not await found(prometheus, one, chosen)]
            chosen = choices(views)
            left[1][:] = [one for one in left[1] if not selected(views, one, chosen)]
            return not any(left)

        try:
            await until(all_answered, timeout=30, interval=0.5, what="every query finds something")
        except AssertionError as error:
            error.add_note(
                "\n".join(f"{one.where}: {one.text[:300]}" for one in (*left[0], *left[1]))
            )
            raise
        await end_all(system)
        used = rows_of(views, "By project and month A")
        assert in_order(used) == in_order(await usage_of_the_api(system))
        steps = rows_of(views, "Arrivals and ends A")
        for column, shown in (("agents requested", "arrivals"), ("restarts", "restarts")):
            assert sum(row[column] for row in used) == sum(row[shown] for row in steps) > 0


async def start(system: System) -> None:
    """Agents that run, in two pools, and one that waits for a slot."""
    await system.spawn()
    await system.spawn(SMALL)
    await system.spawn(SMALL, wait=0)


async def fail(system: System) -> None:
    """An agent that fails for good, one in a back-off, and a worker that is killed."""
    await system.spawn(input={"waits": True}, wait=0)
    failing = await system.spawn(input={"crash": True}, wait=0)
    await system.is_status(failing["agent_id"], "failed")
    worker = next(one for one in await registered(system) if one["pool_name"] == POOL)
    os.kill(worker["pid"], signal.SIGKILL)


async def registered(system: System) -> list[Any]:
    """The workers that have started."""
    listed = (await system.get("/api/v1/agents/monitor/dashboard"))["workers"]
    return [worker for worker in listed if worker["pid"]]


async def keep_moving(system: System) -> None:
    """One more agent that ends by itself, and one that is refused."""
    await system.spawn(input={"completes": True}, wait=0)
    refused = {"project_id": "demo", "role_type": "tester", "pool_name": POOL}
    status, _ = await system.call("POST", "/api/v1/agents/spawn", refused)
    assert status == 422


def label_values(query: str) -> tuple[str, str]:
    """The metric and the label of a variable."""
    metric, _, label = query.removeprefix("label_values(").removesuffix(")").partition(", ")
    return metric, label


async def found(prometheus: PrometheusServer, asked: Asked, chosen: Chosen) -> bool:
    """Whether there is a number: of a histogram without values there is none."""
    text = promql(asked.text, chosen, INTERVAL)
    assert not left_over(text), asked
    return any(series["value"][1] != "NaN" for series in await prometheus.ask(text))


def choices(views: Views) -> Chosen:
    """All values of the variables."""
    return {
        name: [str(value) for (value,) in views.execute(query.encode()).fetchall()]
        for name, query in variables(VIEWS).items()
    }


def selected(views: Views, asked: Asked, chosen: Chosen) -> bool:
    """Whether there is a row with a value."""
    text = sql(asked.text, chosen, SPAN)
    assert not left_over(text), asked
    rows = views.execute(text.encode()).fetchall()
    return any(value is not None for row in rows for value in row)


async def end_all(system: System) -> None:
    """So that what they used does not change any more."""
    for agent in await system.agents():
        body = {"pool_name": agent["pool_name"], "agent_id": agent["agent_id"], "graceful": False}
        await system.call("POST", "/api/v1/agents/terminate", body, headers={"Prefer": "wait=20"})
    await system.running(0)


async def usage_of_the_api(system: System) -> list[dict[str, Any]]:
    """Of this month and the last one, in the columns of the dashboard."""
    last = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    path = f"/api/v1/agents/usage?by=project&by=pool&per=month&since={last:%Y-%m}-01T00:00:00Z"
    return [
        {
            "month": row["since_time"][:7],
            "project": row["project_id"],
            "pool": row["pool_name"],
            **{
                f"{name} hours": pytest.approx(row[f"{key}_seconds"] / 3600, abs=1e-6)
                for name, key in (("slot", "slot"), ("waiting", "waiting"), ("agent", "agent"))
            },
            "agents requested": row["requested"],
            "ended": row["ended"],
            "claims": row["claims"],
            "cold starts": row["cold_starts"],
            "restarts": row["restarts"],
            "failures": row["failures"],
            "losses": row["losses"],
        }
        for row in (await system.get(path))["rows"]
    ]


def rows_of(views: Views, where: str) -> list[dict[str, Any]]:
    """What a query of the dashboard finds."""
    [asked] = [one for one in queries(VIEWS) if one.where == where]
    cursor = views.execute(sql(asked.text, choices(views), SPAN).encode())
    names = [column.name for column in cursor.description or ()]
    return [
        {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in zip(names, row, strict=True)
        }
        for row in cursor.fetchall()
    ]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By month and pool."""
    return sorted(rows, key=itemgetter("month", "pool"))
