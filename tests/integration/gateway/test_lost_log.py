"""A gateway whose log is lost: it refuses, reads on, reports what it acknowledged, and resumes."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from eventstore.errors import OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.log.reader import Entry
from eventstore.log.replies import LogHead, Reply
from eventstore.recovery.loss_reports import read_reports
from eventstore.steps.step import Step
from gateway.health.facts import view_facts
from tests.chaos.judging.commands import Command, named_lost, read_lost_commands
from tests.integration.gateway.stage import AGENTS, QUICK, GatewayStage, gateway_stage
from tests.integration.gateway.test_event_stream import following
from tests.integration.projector.recovering import recovered
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until

HASTY = msgspec.structs.replace(QUICK, catch_up_seconds=0.2)
"""Where the projector is stopped, an answer waits for the views in vain."""


@pytest.fixture(autouse=True)
def _soon(no_leases: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the gateway take its time to see that a log is lost."""
    monkeypatch.setattr("gateway.backend.acknowledgements.CHECK_INTERVAL_SECONDS", 0.1)


@pytest.fixture
def views_url(tmp_path: object) -> str:
    return f"sqlite:///{tmp_path}/views.db"


def wipe(shown: GatewayStage) -> None:
    with redis.Redis.from_url(shown.stage.redis_url) as client:
        client.flushall()


async def test_commands_are_refused_and_reads_go_on(redis_url: str, views_url: str) -> None:
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        fence = await shown.worker()
        await shown.pending()
        (agent_id,) = await shown.run(fence)
        wipe(shown)
        refused = await shown.spawn()
        assert (refused.status, refused.kind) == (503, "log-missing")
        assert int(refused.headers["Retry-After"]) > 0
        ending = await shown.ask(
            "POST", f"{AGENTS}/terminate", json={"pool_name": POOL, "agent_id": agent_id}
        )
        assert ending.status == 503
        found = await shown.get(f"{AGENTS}/{agent_id}")
        assert (found.status, found.json["status"]) == (200, "running")

        async def told_as_of_before() -> bool:
            """Once the projector has noticed; from when on it is wrong is not known."""
            paths = ("", f"/{agent_id}", "/pools", f"/pools/{POOL}", "/workers")
            answers = [await shown.get(f"{AGENTS}{path}") for path in paths]
            assert all("Muster-Age-Ms" not in answer.headers for answer in answers)
            return all(answer.headers.get("Muster-Stale") == "true" for answer in answers)

        await until(told_as_of_before, timeout=10)


async def test_what_was_acknowledged_and_not_archived_is_reported(
    redis_url: str, views_url: str
) -> None:
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        archived = await shown.pending()
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        lost = [await shown.pending() for _ in range(3)]
        wipe(shown)

        async def reported() -> list[str]:
            found = await read_reports(shown.log, POOL)
            return [one.agent_id for one in found if one.kind == "spawn"]

        async def all_reported() -> bool:
            return set(lost) <= set(await reported())

        await until(all_reported, timeout=10)
        done = (await recovered(shown.stage))[POOL]
        assert [one.agent_id for one in done.unsaved] == lost
        assert archived not in await reported() or all(
            one.agent_id != archived for one in done.unsaved
        )


async def test_a_command_acknowledged_while_the_head_is_read_is_not_reported_as_lost(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is from before it, and below it."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        stand, asked = shown.backend.log.head, 0

        async def late(pool: str) -> LogHead:
            nonlocal asked
            answer = await stand(pool)
            if pool == POOL:
                asked += 1
                await shown.pending()
            return answer

        await shown.pending()
        monkeypatch.setattr(shown.backend.log, "head", late)
        assert (
            await shown.backend.log.require_intact(POOL)
        ).seq < shown.backend.log.high_water_mark(POOL)[1]
        asked = 0
        await until(lambda: asked >= 2, timeout=10)
        monkeypatch.undo()
        assert not await read_reports(shown.log, POOL)


async def test_what_could_not_be_reported_in_time_is_named_afterwards(
    redis_url: str, views_url: str
) -> None:
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        lost = await shown.pending()
        wipe(shown)
        await recovered(shown.stage)
        after = await shown.pending()
        await until(lambda: shown.backend.acknowledged_commands.lost, timeout=10)
        assert [one.agent_id for one in shown.backend.acknowledged_commands.lost] == [lost]
        alerts = (await shown.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        (alert,) = [one for one in alerts if one["name"] == "commands-unsaved"]
        assert lost in alert["message"]
        assert after not in alert["message"]


async def test_what_was_written_after_a_recovery_and_is_asked_for_again_is_not_named(
    redis_url: str, views_url: str
) -> None:
    """Through a gateway that does not know of the recovery yet."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        agent_id = (await shown.pool.spawn()).agent_id
        await shown.stage.settle()
        await shown.projector.stop()
        await shown.backend.tail.stop()
        await shown.backend.positions()
        wipe(shown)
        await recovered(shown.stage)
        await shown.log.act(POOL, agent_id, Terminate(), ORIGIN)
        assert shown.backend.log.high_water_mark(POOL)[0] == 1
        body = {"pool_name": POOL, "agent_id": agent_id}
        again = await shown.ask("POST", f"{AGENTS}/terminate", json=body)
        assert (again.status, again.json["status"]) == (200, "terminated")
        await shown.backend.acknowledged_commands._check(POOL)
        assert not shown.backend.acknowledged_commands.lost


async def test_an_event_of_before_a_recovery_says_nothing_of_the_log_after_it(
    redis_url: str, views_url: str
) -> None:
    """A waiting client is answered when its log may have been recovered from before that event."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        log = shown.backend.log
        log.raise_high_water_mark(POOL, 2, 3)
        shown.backend.mark_observed(None, POOL, 9)
        assert log.high_water_mark(POOL) == (2, 3)
        assert log.acknowledged(POOL) < (2, 0)
        shown.backend.mark_observed(None, POOL, 3)
        assert log.acknowledged(POOL) == (2, 3)


async def test_a_gateway_that_starts_on_an_emptied_redis_has_its_high_water_mark_from_the_archive(
    redis_url: str, views_url: str
) -> None:
    """It must not take spawns into a log that is older than the archive."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        with redis.Redis.from_url(redis_url) as client:
            dumps = {key: client.dump(key) for key in client.keys("*")}
            await shown.pending()
            await shown.stage.settle(POOL)
            client.flushall()
            for key, dump in dumps.items():
                client.restore(key, 0, dump)
        async with _another(shown) as second:
            refused = await second.spawn()
            assert (refused.status, refused.kind) == (503, "log-rolled-back")


def _another(shown: GatewayStage):
    from contextlib import asynccontextmanager

    from gateway.server.listener import Gateway
    from tests.integration.gateway.stage import options

    @asynccontextmanager
    async def opened():
        gateway = Gateway(options(shown.stage.redis_url, shown.stage.database_url))
        await gateway.start()
        other = GatewayStage(shown.stage, gateway, shown.pool, shown.projector)
        try:
            yield other
        finally:
            await other.session.close()
            await gateway.stop()

    return opened()


async def _change_pools(shown: GatewayStage) -> None:
    """Create one and spawn in it, change another, delete a third."""
    pools = f"{AGENTS}/pools"
    created = {"role_type": "developer", "pool_name": "created"}
    assert (await shown.ask("POST", pools, json=created)).status == 201
    await shown.pending(pool_name="created")
    change = {"config": {"max_workers": 3}}
    assert (await shown.ask("PATCH", f"{pools}/{POOL}", json=change)).status == 200
    assert (await shown.ask("DELETE", f"{pools}/third?force=true")).status == 200


def _lose_a_reply(shown: GatewayStage, monkeypatch: pytest.MonkeyPatch, count: int = 1) -> None:
    """The next steps of the gateway are written, and it does not hear of it."""
    commit, left = shown.backend.log.commit, iter(range(count))

    async def lose(step: Step, **said: Any) -> Reply:
        reply = await commit(step, **said)
        if next(left, None) is not None:
            raise OutcomeUnknown("the reply was lost")
        return reply

    monkeypatch.setattr(shown.backend.log, "commit", lose)


async def test_what_was_acknowledged_after_a_lost_reply_is_reported(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, and when it was requested again: the client relies on that answer."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        (running, stopping) = [await shown.pending() for _ in range(2)]
        await shown.run(await shown.worker(), 2)
        await shown.stage.settle(POOL)
        await shown.stage.settle(CATALOGUE)
        await shown.projector.stop()

        async def terminate(agent_id: str) -> int:
            body = {"pool_name": POOL, "agent_id": agent_id}
            headers = {"Prefer": "respond-async"}
            path = f"{AGENTS}/terminate"
            return (await shown.ask("POST", path, json=body, headers=headers)).status

        async def change() -> int:
            body = {"config": {"max_workers": 3}}
            return (await shown.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=body)).status

        _lose_a_reply(shown, monkeypatch)
        spawned = await shown.pending()
        _lose_a_reply(shown, monkeypatch, 2)
        doubted = await shown.spawn(prefer="respond-async", key="k")
        assert (doubted.status, doubted.kind) == (503, "outcome-unknown")
        asked_again = await shown.spawn(prefer="respond-async", key="k")
        assert asked_again.status == 202
        again = asked_again.json["agent_id"]
        _lose_a_reply(shown, monkeypatch)
        assert await terminate(running) == 202
        await shown.log.act(POOL, stopping, Terminate(), ORIGIN)  # and the answer was lost
        assert await terminate(stopping) == 202
        _lose_a_reply(shown, monkeypatch)
        assert await change() == 200
        shown.backend.acknowledged_commands._commands.pop(
            CATALOGUE
        )  # as if another gateway had written it
        assert await change() == 200
        wipe(shown)
        wanted = {
            ("spawn", spawned), ("spawn", again), ("terminate", running), ("terminate", stopping)
        }  # fmt: skip

        async def all_reported() -> bool:
            found = await read_reports(shown.log, POOL)
            changes = await read_reports(shown.log, CATALOGUE)
            found_losses = {(one.kind, one.agent_id) for one in found}
            return wanted <= found_losses and [one.kind for one in changes] == ["change_pool"]

        await until(all_reported, timeout=10)
        done = await recovered(shown.stage)
        named = [(one.kind, one.agent_id) for one in done[POOL].unsaved]
        assert sorted(one for one in named if one[0] != "holds") == sorted(wanted)


async def test_a_repeated_spawn_that_is_archived_is_not_named(
    redis_url: str, views_url: str
) -> None:
    """However far the log had gone when it was repeated: its client would ask for another."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        saved = await shown.spawn(prefer="respond-async", key="k")
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        lost = await shown.pending()
        again = await shown.spawn(prefer="respond-async", key="k")
        assert again.json["agent_id"] == saved.json["agent_id"]
        wipe(shown)

        async def reported() -> bool:
            found = await read_reports(shown.log, POOL)
            return lost in {one.agent_id for one in found}

        await until(reported, timeout=10)
        done = (await recovered(shown.stage))[POOL]
        assert [one.agent_id for one in done.unsaved] == [lost]


NAMED = [("create_pool", "created"), ("change_pool", POOL), ("delete_pool", "third")]


async def test_commands_on_pools_are_reported_and_named(
    redis_url: str, views_url: str, tmp_path: Path
) -> None:
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.pool("third")
        await shown.stage.settle(CATALOGUE)
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        await _change_pools(shown)
        wipe(shown)

        async def reported() -> bool:
            return bool(await read_reports(shown.log, "created")) and bool(
                await read_reports(shown.log, CATALOGUE)
            )

        await until(reported, timeout=10)
        done = await recovered(shown.stage)
        unsaved = done[CATALOGUE].unsaved
        assert [(one.kind, one.agent_id) for one in unsaved if not one.pool] == NAMED
        (inside,) = [one for one in unsaved if one.pool]
        assert (inside.pool, inside.kind) == ("created", "spawn"), "its pool went with it"
        assert await read_reports(shown.log, "created") == []
        report = tmp_path / "unsaved.json"
        report.write_bytes(msgspec.json.encode({"logs": list(done.values())}))
        commands = [Command(kind, pool=name) for kind, name in NAMED]
        commands.append(Command("spawn", pool="created", agent_id=inside.agent_id))
        assert named_lost(commands, read_lost_commands(report)) == set(commands)


async def test_a_catalogue_that_was_lost_alone_waits_for_what_gateways_report(
    redis_url: str, views_url: str
) -> None:
    """No lease has to expire, so nothing else gives them the time."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.pool("third")
        await shown.stage.settle(CATALOGUE)
        await shown.projector.stop()
        await _change_pools(shown)
        with redis.Redis.from_url(redis_url) as client:
            client.delete("muster:catalogue", "{muster:catalogue}:meta")
        done = await recovered(shown.stage)
        assert set(done) == {CATALOGUE}
        named = [(one.kind, one.agent_id) for one in done[CATALOGUE].unsaved if not one.pool]
        assert named == NAMED


async def test_pool_commands_that_could_not_be_reported_are_named_afterwards(
    redis_url: str, views_url: str
) -> None:
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.pool("third")
        await shown.stage.settle(CATALOGUE)
        await shown.projector.stop()
        await _change_pools(shown)
        wipe(shown)
        await recovered(shown.stage)
        unsaved = shown.backend.acknowledged_commands.lost
        await until(lambda: len(unsaved) == len(NAMED), timeout=10)
        assert [(one.kind, one.agent_id) for one in unsaved] == NAMED
        alerts = (await shown.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        (alert,) = [one for one in alerts if one["name"] == "commands-unsaved"]
        assert "create_pool created" in alert["message"]


async def test_a_lost_log_has_its_cure_in_the_alert_and_in_readyz(
    redis_url: str, views_url: str
) -> None:
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.pending()
        await shown.stage.settle(POOL)
        wipe(shown)

        async def stopped() -> dict[str, Any] | None:
            alerts = (await shown.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
            found = {one["subject"]: one for one in alerts if one["name"] == "projection-stopped"}
            return found.get(POOL)

        alert: Any = await until(stopped, timeout=10)
        assert alert["action"].startswith("`muster recover` rebuilds the log")
        assert 0 <= time.time() * 1000 - alert["since"] < 10_000
        again: Any = await stopped()
        assert again["since"] == alert["since"]
        reasons = (await shown.get("/readyz")).json["reasons"]
        (reason,) = [one for one in reasons if one.startswith(f"the views of {POOL} are stopped")]
        assert "missing: the log is gone" in reason
        assert "`muster recover`" in reason


async def test_views_of_a_recovered_log_do_not_lag_behind_what_was_lost(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway had seen more than was archived, and the log went on below that."""
    monkeypatch.setattr("gateway.health.alerts.LAG_SECONDS", 0.0)
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        for _ in range(5):
            await shown.pending()
        for name in ("a", "b"):
            created = {"role_type": "developer", "pool_name": name}
            await shown.ask("POST", f"{AGENTS}/pools", json=created)
        await shown.pending(pool_name="a")
        seen = shown.backend.tail.heads
        await until(lambda: seen[POOL].seq >= 5 and seen[CATALOGUE].seq >= 3, timeout=10)
        wipe(shown)
        done = await recovered(shown.stage)
        async with shown.stage.projecting():
            for pool in (POOL, CATALOGUE):
                after = done[pool].seq + 1
                await until(lambda: seen[pool].seq == after, timeout=10)  # noqa: B023

            async def level() -> bool:
                facts = {fact.pool: fact for fact in await view_facts(shown.backend)}
                return all(facts[pool].seq == seen[pool].seq for pool in (POOL, CATALOGUE))

            await until(level, timeout=10)
            lags = {fact.pool: fact.lag_seconds for fact in await view_facts(shown.backend)}
            assert (lags[POOL], lags[CATALOGUE]) == (0, 0)
            alerts = (await shown.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
            assert [one for one in alerts if one["name"] == "projection-lag"] == []


async def test_what_was_read_before_a_recovery_is_not_demanded_of_the_log_after_it(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail is still reading what it missed when the log is recovered and spawned into."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.pending()
        await shown.stage.settle()
        await shown.projector.stop()
        for _ in range(4):
            await shown.pool.spawn()
        tail, log = shown.backend.tail, shown.backend.log
        await until(lambda: tail.heads[POOL].seq == 5, timeout=10)
        fill = tail._fill_gap
        read: list[tuple[tuple[int, int], int]] = []

        async def late(pool: str, following: Entry, *arguments: Any) -> None:
            if pool == POOL and not read:
                wipe(shown)
                await recovered(shown.stage)
                await shown.pending()
                read.append((log.high_water_mark(POOL), int(following[1][5])))
            await fill(pool, following, *arguments)

        monkeypatch.setattr(tail, "_fill_gap", late)
        await shown.pool.spawn()
        await until(lambda: tail.heads[POOL].seq == 3, timeout=10)
        assert read == [((2, 3), 6)]
        assert log.high_water_mark(POOL) == (2, 3)
        await shown.pending()


async def test_a_client_that_comes_back_to_a_lost_log_misses_nothing_of_it(
    redis_url: str, views_url: str
) -> None:
    """An event that it never got is in neither stream nor feed until the log is recovered."""
    async with gateway_stage(redis_url, views_url, limits=HASTY) as shown:
        await shown.stage.pool("intact")
        async with following(shown) as client:
            await shown.pending()
            await client.next()
            last = client.last
        missed = await shown.pending()
        await shown.stage.settle(POOL)
        await until(lambda: shown.backend.tail.heads[POOL].seq == 2)
        with redis.Redis.from_url(redis_url) as plain:
            plain.delete(*plain.keys(f"*{{{POOL}}}*"))
        async with following(shown, last=last) as client:
            body = {"config": {"max_workers": 3}}
            changed = await shown.ask("PATCH", f"{AGENTS}/pools/intact", json=body)
            assert changed.status == 200
            assert (await client.next())["type"] == "pool.changed", "it gets events of other logs"
            await recovered(shown.stage)
            events = await client.take(2)
            assert [event["type"] for event in events] == ["agent.requested", "log.recovered"]
            assert events[0]["subject"] == missed
