"""A log that breaks its promise stops its pool's projection; unreachable servers only delay it."""

import json
import math
import random
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from eventstore.language.events import ENTRY_FIELDS
from eventstore.log.reader import Entry
from eventstore.recovery.restore import halt_generation
from projector.intake.source import Source
from projector.queries.views import AgentFilter, Position
from projector.service.active import Active
from projector.service.projector import Phase
from tests.conftest import MakeServer
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.waiting import until

EVENTS = f"pool:{{{POOL}}}:events"
META = f"pool:{{{POOL}}}:meta"
LONG = random.Random(0).randbytes(5000).hex()
"""A name that no index of PostgreSQL holds."""


def write_entry(
    url: str,
    seq: int,
    *,
    kind: str = "agent.started",
    version: int = 1,
    data: str = "{}",
    subject: str = "a",
    pool: str = POOL,
) -> None:
    """An entry such as no script of ours writes."""
    events, meta = f"pool:{{{pool}}}:events", f"pool:{{{pool}}}:meta"
    values = {"type": kind, "version": version, "seq": seq, "event_id": f"e{seq}"}
    values |= {"subject": subject, "data": data, "ts": 1}
    fields = {name: values.get(name, "") for name in ENTRY_FIELDS}
    with redis.Redis.from_url(url) as client:
        client.xadd(events, fields)
        client.hset(meta, "seq", max(seq, int(client.hget(meta, "seq"))))


def order(**changes: int | str) -> str:
    """The body of a `worker.requested`."""
    return json.dumps({"host": "h", "max_agents": 1, "deadline_ms": 1, **changes})


def requested(project: str) -> str:
    """The body of an `agent.requested`."""
    return json.dumps({"role_type": "r", "project_id": project})


async def stopped_at(stage: Stage, pool: str = POOL) -> Position:
    async def position() -> Position | None:
        position = (await stage.views.positions()).get(pool)
        return position if position and position.status != "ok" else None

    found = await until(position, what=f"{pool} is stopped")
    assert found is not None
    return found


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"seq": 5}, r"gap: seq 3 is missing before seq 5 \(.+\)"),
    ({"seq": 2}, r"out of order: another event came at seq 2 \(.+\), after seq 2"),
    ({"seq": 3, "kind": "agent.abducted"}, r"unreadable event: seq 3 .+ does not know that"),
    ({"seq": 3, "version": 9}, r"unreadable event: seq 3 .+ reads up to version 1"),
    ({"seq": 3, "kind": "agent.lost"}, r"unreadable event: seq 3 .+"),
    ({"seq": 3}, r"contradiction: seq 3 \(agent.started of a\): no such agent"),
    (
        {"seq": 3, "kind": "worker.requested", "data": order(deadline_ms=2**63)},
        r"unreadable event: seq 3 .+ its data is damaged",
    ),
    (
        {"seq": 3, "kind": "worker.requested", "data": order(max_agents=2**31)},
        r"unreadable event: seq 3 .+ its data is damaged",
    ),
    (
        {"seq": 3, "kind": "worker.requested", "data": order(), "subject": LONG},
        r"unreadable event: seq 3 .+ a name of more than 512 characters",
    ),
    (
        {"seq": 3, "kind": "agent.requested", "data": requested(LONG)},
        r"unreadable event: seq 3 .+ its data is damaged",
    ),
    ({"seq": 3, "kind": "pool.deleted"}, r"contradiction: seq 3 .+ belongs in the catalogue"),
]
"""Entries after seq 2, and how the log of each is stopped."""


async def test_logs_that_break_their_promise_stop_their_own_pools_only(
    redis_url: str, database_url: str, subtests: pytest.Subtests
) -> None:
    names = [f"broken{number}" for number in range(len(BROKEN))]
    async with open_stage(redis_url, database_url) as stage:
        sound, *pools = [await stage.pool(name) for name in ("sound", *names)]
        for pool in pools:
            await pool.spawn()
            await pool.spawn()
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                for name, (entry, _) in zip(names, BROKEN, strict=True):
                    write_entry(redis_url, **entry, pool=name)
                stopped = {name: await stopped_at(stage, name) for name in names}
                await sound.spawn()
                await stage.settle("sound")
                positions = await stage.views.positions()
                assert {name: positions[name] for name in names} == stopped
        said = [entry for entry in logs if entry["event"] == "projection.stopped"]
        assert len(said) == len(BROKEN)
        for name, (entry, status) in zip(names, BROKEN, strict=True):
            with subtests.test(status, entry=entry):
                assert stopped[name].seq == 2
                assert re.match(status, stopped[name].status)
                reasons = [line["reason"] for line in said if line["pool"] == name]
                assert reasons == [stopped[name].status]
                assert len(await stage.views.events(name)) == 2


async def test_text_that_postgresql_does_not_hold_stops_nothing(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        await (await stage.pool()).spawn()
        write_entry(redis_url, 2, kind="worker.requested", data=order(host="h\0"))
        spawn = json.dumps({"role_type": "r\0", "project_id": "p\0"})
        write_entry(redis_url, 3, kind="agent.requested", data=spawn)
        async with stage.projecting():
            await stage.settle()
            shown = await stage.views.agent("a")
            assert shown is not None
            assert (shown.role_type, shown.project_id) == ("r\ufffd", "p\ufffd")


async def test_events_before_the_damage_in_one_batch_are_applied(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await pool.spawn()
        write_entry(redis_url, 3)
        async with stage.projecting():
            position = await stopped_at(stage)
        assert position.seq == 2
        assert len(await stage.views.agents(AgentFilter())) == 2
        assert len(await stage.views.events(POOL)) == 2


async def test_a_projector_with_nothing_left_to_follow_rests(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All logs are lost at once: until they are recovered it checks now and then."""
    rounds: list[float] = []
    take_round = Active._round

    async def counted(active: Active) -> None:
        rounds.append(time.monotonic())
        await take_round(active)

    monkeypatch.setattr(Active, "_round", counted)
    async with open_stage(redis_url, database_url) as stage:
        await (await stage.pool()).spawn()
        async with stage.projecting(audit_seconds=0.2):
            await stage.settle()
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            await stopped_at(stage)
            rounds.clear()
            await until(lambda: len(rounds) > 3)
    assert rounds[3] - rounds[0] > 0.5


@pytest.mark.parametrize("idle", [True, False])
async def test_a_log_that_was_rolled_back_is_noticed(
    redis_url: str, database_url: str, idle: bool
) -> None:
    """By an idle projector soon, and by one that starts at once."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        for _ in range(3):
            await pool.spawn()

        def roll_back() -> None:
            with redis.Redis.from_url(redis_url) as client:
                client.xtrim(EVENTS, maxlen=0)
                client.hset(META, "seq", 1)

        async with stage.projecting():
            await stage.settle()
            if idle:
                roll_back()
                assert (await stopped_at(stage)).status.startswith("rolled back: the log ends at")
        if not idle:
            roll_back()
            async with stage.projecting():
                assert (await stopped_at(stage)).status.startswith("rolled back: the log ends at")


async def test_a_log_that_was_halted_does_not_go_on_by_what_was_read_of_it_before(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of it and of another pool are at hand when the audit finds it halted."""
    wait, take_round = Source.wait, Active._round
    halted = applied = False

    async def halted_meanwhile(
        self: Source, positions: Mapping[str, Position], *, count: int
    ) -> dict[str, list[Entry]]:
        nonlocal halted
        entries = await wait(self, positions, count=count)
        if POOL in entries and positions[POOL].seq == 1:
            await other.spawn()
            entries |= await wait(self, {"other": positions["other"]}, count=count)
            halted = await halt_generation(stage.log, POOL, 1, "by hand")
        return entries

    async def audited(active: Active) -> None:
        nonlocal applied
        active._audited_at = -math.inf
        await take_round(active)
        applied = halted

    monkeypatch.setattr(Source, "wait", halted_meanwhile)
    monkeypatch.setattr(Active, "_round", audited)
    async with open_stage(redis_url, database_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        await pool.spawn()
        await other.spawn()
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                await pool.spawn()
                await until(lambda: applied)
                at = await stage.views.positions()
        assert (at[POOL].seq, at[POOL].status) == (1, "halted: by hand")
        assert (at["other"].seq, at["other"].status) == (2, "ok")
        assert "projection.resumed" not in [entry["event"] for entry in logs]


async def test_a_log_of_another_generation_is_noticed(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        await (await stage.pool()).spawn()
        await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            client.hset(META, "generation", 2)
        assert (await stopped_at(stage)).status == "generation 2 replaced generation 1"


async def test_a_log_with_another_event_where_the_views_are_is_noticed(
    redis_url: str, database_url: str
) -> None:
    """Redis lost its tail and was written to again before anybody looked."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await stage.catch_up()
        with redis.Redis.from_url(redis_url) as client:
            [(stream_id, fields)] = client.xrange(EVENTS)
            client.delete(EVENTS)
            client.xadd(EVENTS, {**fields, b"event_id": b"another"}, id=stream_id)
        async with stage.projecting():
            assert (await stopped_at(stage)).status == "rewritten: another event at seq 1"


async def test_a_repaired_pool_continues_with_the_next_start(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        async with stage.projecting():
            await stage.settle()
            write_entry(redis_url, 3)
            await stopped_at(stage)
        with redis.Redis.from_url(redis_url) as client:
            client.xdel(EVENTS, client.xrevrange(EVENTS, count=1)[0][0])
            client.hset(META, "seq", 1)
        await pool.spawn()
        async with stage.projecting():
            await stage.settle()
            assert (await stage.views.positions())[POOL].status == "ok"


async def test_a_stream_that_was_trimmed_up_to_the_views_is_gone_on_with(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await stage.catch_up()
        await pool.spawn()
        with redis.Redis.from_url(redis_url) as client:
            client.xtrim(EVENTS, maxlen=1, approximate=False)
        async with stage.projecting():
            await stage.settle()
            await pool.spawn()
            await stage.settle()
        assert len(await stage.views.events(POOL)) == 3


async def test_an_unreachable_redis_delays_and_is_logged_once(
    redis_server: MakeServer, database_url: str
) -> None:
    server = redis_server()
    async with open_stage(server.url, database_url) as stage:
        pool = await stage.pool()
        with capture_logs() as logs:
            async with stage.projecting(backoff_max_seconds=0.2) as projector:
                await pool.spawn()
                await stage.settle()
                server.stop()
                await until(lambda: projector.phase is Phase.WAITING)
                await until(lambda: projector.phase is Phase.STANDBY)  # it tried again
                await until(lambda: projector.phase is Phase.WAITING)
                server.start()
                await until(lambda: projector.phase is Phase.ACTIVE)
        said = [entry["event"] for entry in logs if "projector." in entry["event"]]
    assert said == [
        "projector.active",
        "projector.unavailable",
        "projector.resumed",
        "projector.active",
    ]


async def test_a_database_that_drops_its_connections_delays_and_is_said_once(
    redis_url: str, postgres_url: str
) -> None:
    drop = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        with capture_logs() as logs:
            async with stage.projecting() as projector:
                await pool.spawn()
                await stage.settle()
                await stage.sql(drop)
                assert len(await stage.views.agents(AgentFilter())) == 1  # asked once more
                await pool.spawn()
                await until(lambda: "projector.resumed" in [entry["event"] for entry in logs])
                assert projector.phase is Phase.ACTIVE
                await stage.settle()
        assert [entry["event"] for entry in logs].count("projector.unavailable") == 1
        assert len(await stage.views.events(POOL)) == 2


async def test_tables_that_vanish_under_it_are_built_again(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting() as projector:
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        before = await stage.contents()
        await stage.sql("DROP VIEW {}pool_capacity")
        await stage.sql("DROP TABLE {}agents")
        await pool.spawn()
        await until(lambda: projector.phase is not Phase.ACTIVE)
        await until(lambda: projector.phase is Phase.ACTIVE)
        await stage.settle()
        after = await stage.contents()
        known = {row["agent_id"]: row for row in after["agents"]}
        assert len(known) == len(before["agents"]) + 1
        assert [known[row["agent_id"]] for row in before["agents"]] == before["agents"]
