"""`Muster-Durability`: a level is refused, reached, or said not to be reached; never made up."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.language.catalogue import Pool
from eventstore.language.durability import Level
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from gateway.resources.durability import DurabilityRequest
from gateway.wire.decoding import WaitPreference
from gateway.wire.problems import Problem
from tests.integration.gateway.stage import AGENTS, QUICK, asked, gateway_stage
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.replication import Replication
from tests.servers import RedisServer, ValkeyServer
from tests.waiting import until

LEVEL, PENDING = "Muster-Durability", "Muster-Durability-Pending"


def views(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'v.db'}"


async def spawn(stage, level: str = "", *, key: str = "", prefer: str = "respond-async"):
    headers = {"Prefer": prefer, **({LEVEL: level} if level else {})}
    if key:
        headers["Idempotency-Key"] = key
    return await stage.ask("POST", f"{AGENTS}/spawn", json=asked(), headers=headers)


async def test_a_level_is_reached_or_refused_before_anything_is_written(redis_url, tmp_path):
    async with gateway_stage(redis_url, views(tmp_path)) as stage:
        answer = await spawn(stage, "eternal")
        assert (answer.status, answer.kind, answer.fields) == (400, "invalid-request", [LEVEL])
        answer = await spawn(stage, "replicated")
        assert (answer.status, answer.kind) == (422, "durability-unavailable")
        assert "0 of 1 replicas follow it" in answer.json["detail"]
        assert await stage.events() == []
        answer = await spawn(stage)
        assert (answer.status, answer.headers[LEVEL]) == (202, "accepted")
        assert PENDING not in answer.headers


@pytest.mark.parametrize("kind", [ValkeyServer, RedisServer], ids=["valkey", "redis7.0"])
async def test_with_appendfsync_always_every_command_is_on_disk(redis_server, kind, tmp_path):
    """Spawn, its repetition, both ways to end, and all three commands on pools."""
    server = redis_server(kind, appendfsync="always")
    fsynced = {LEVEL: "fsynced"}
    async with gateway_stage(server.url, views(tmp_path)) as stage:
        first = await spawn(stage, "fsynced", key="k")
        again = await spawn(stage, "fsynced", key="k")
        assert again.headers["Idempotency-Replayed"] == "true"
        agent_id = first.json["agent_id"]
        body = {"pool_name": POOL, "agent_id": agent_id}
        ended = await stage.ask("POST", f"{AGENTS}/terminate", json=body, headers=fsynced)
        deleted = await stage.ask("DELETE", f"{AGENTS}/{agent_id}", headers=fsynced)
        pool = {"role_type": "tester", "pool_name": "second"}
        made = await stage.ask("POST", f"{AGENTS}/pools", json=pool, headers=fsynced)
        change = {"config": {"max_workers": 3}}
        path = f"{AGENTS}/pools/second"
        changed = await stage.ask("PATCH", path, json=change, headers=fsynced)
        unchanged = await stage.ask("PATCH", path, json=change, headers=fsynced)
        gone = await stage.ask("DELETE", f"{path}?force=true", headers=fsynced)
        assert (await spawn(stage)).status == 202
        # No worker can end its agent, so the wait for that takes longer than a level may.
        await stage.run(await stage.worker())
        own = f"{AGENTS}/pools/{POOL}?force=true"
        late = await stage.ask("DELETE", own, headers={**fsynced, "Prefer": "wait=1"})
        assert (late.status, late.json["status"]) == (202, "deleting")
        assert late.headers[LEVEL] == "fsynced"
        answers = [first, again, ended, deleted, made, changed, unchanged, gone]
        assert [a.headers.get(LEVEL) for a in answers] == ["fsynced"] * len(answers)
        assert [a.status for a in answers] == [202, 202, 200, 200, 201, 200, 200, 200]
        metrics = (await stage.get("/metrics")).body.decode()
        assert 'muster_commands_total{asked="fsynced",reached="fsynced"} 9.0' in metrics


async def test_agents_of_a_pool_created_again_are_not_part_of_an_earlier_deletion(
    redis_server, tmp_path, monkeypatch
):
    """They live on: what they are does not show that the deletion was lost."""
    server = redis_server(appendfsync="always")
    close = CatalogueLog.close_pool

    async def close_and_create_anew(catalogue: CatalogueLog, pool: Pool, *args: Any, **how: Any):
        assert await close(catalogue, pool, *args, **how)
        monkeypatch.undo()
        await stage.stage.catalogue.delete_pool(pool, ORIGIN, reason="by another gateway")
        await stage.stage.catalogue.create_pool(POOL, "developer", PoolConfig(), ORIGIN)
        stage.pool.pool = stage.stage.catalogue.state.live_pools()[POOL]
        await stage.pool.spawn()
        return True

    async with gateway_stage(server.url, views(tmp_path)) as stage:
        monkeypatch.setattr(CatalogueLog, "close_pool", close_and_create_anew)
        path = f"{AGENTS}/pools/{POOL}?force=true"
        answer = await stage.ask("DELETE", path, headers={LEVEL: "fsynced"})
        assert (answer.status, answer.json["agent_count"]) == (200, 0)
        assert answer.headers[LEVEL] == "fsynced"
        assert len(await stage.log.live(POOL)) == 1


NO_FSYNC = (
    ({"appendfsync": "everysec"}, "appendfsync is everysec; set appendfsync always"),
    ({"appendfsync": "no"}, "appendfsync is no; set appendfsync always"),
    ({"appendfsync": "always", "no-appendfsync-on-rewrite": "yes"},
     "set no-appendfsync-on-rewrite no"),
    ({"appendonly": "no"}, "it has no append-only file"),
)  # fmt: skip


async def test_a_server_that_does_not_fsync_at_once_cannot_reach_fsynced(
    redis_server, tmp_path, monkeypatch, subtests
):
    """Refused before anything is written, with what would be right; known beforehand too."""
    monkeypatch.setattr("gateway.backend.durability_levels.REFRESH_SECONDS", 3600.0)
    server = redis_server(appendfsync="always")
    async with gateway_stage(server.url, views(tmp_path)) as stage:
        capabilities = stage.backend.capabilities
        await until(lambda: capabilities.capability)
        with server.client() as client:
            for configuration, why in NO_FSYNC:
                with subtests.test(why):
                    for name, value in configuration.items():
                        client.config_set(name, value)
                    capabilities.capability = None  # as before it is asked for the first time
                    answer = await spawn(stage, "fsynced")
                    assert (answer.status, answer.kind) == (422, "durability-unavailable")
                    assert why in answer.json["detail"]
                    assert answer.fields == [LEVEL]
                    figures = (await stage.get(f"{AGENTS}/monitor/system")).json
                    levels = figures["durability"]["levels"]
                    assert why in levels["fsynced"]
                    assert (levels["accepted"], levels["archived"]) == ("", "")
            assert await stage.events() == []
            client.acl_setuser("default", enabled=True, commands=["-info"])
        capabilities.capability = None
        answer = await spawn(stage, "fsynced")
        assert (answer.status, answer.kind) == (503, "redis-refuses")
        assert "info" in answer.json["detail"]
        assert (await spawn(stage)).status == 202


async def test_a_command_is_archived_once_the_projector_has_it(redis_url, tmp_path):
    limits = type(QUICK)(durability_seconds=0.3, wait_default=0.1)
    stages = gateway_stage(redis_url, views(tmp_path), projecting=False, limits=limits)
    async with stages as stage:
        early = await spawn(stage, "archived", key="k")
        assert (early.status, early.headers[LEVEL]) == (202, "accepted")
        assert early.headers[PENDING].startswith("archived; reason=")
        end = {"pool_name": POOL, "agent_id": early.json["agent_id"]}
        wish = {LEVEL: "archived"}
        ended = await stage.ask("POST", f"{AGENTS}/terminate", json=end, headers=wish)
        assert (ended.status, ended.headers[LEVEL]) == (202, "accepted"), "done, but not archived"
        assert ended.json["status"] == "terminated"
        stage.backend.limits = QUICK
        await stage.projector.start()
        await stage.stage.settle()
        late = await spawn(stage, "archived", key="k")
        assert late.headers[LEVEL] == "archived"
        again = await stage.ask("POST", f"{AGENTS}/terminate", json=end, headers=wish)
        assert (again.status, again.headers[LEVEL]) == (200, "archived")
        new = await spawn(stage, "archived")
        assert new.headers[LEVEL] == "archived"


async def test_many_commands_share_the_waits_and_notice_a_policy_that_was_changed(
    redis_server, tmp_path
):
    """A few connections confirm what many requests ask for at once, each by what holds then."""
    server = redis_server(appendfsync="always")
    async with gateway_stage(server.url, views(tmp_path)) as stage:
        answers = await asyncio.gather(*(spawn(stage, "fsynced") for _ in range(80)))
        assert {answer.headers[LEVEL] for answer in answers} == {"fsynced"}
        known = stage.backend.capabilities.capability
        assert known is not None
        assert known.no_fsync_reason == ""
        with server.client() as client:
            confirmed = client.info("commandstats")["cmdstat_config|get"]["calls"]
            client.config_set("appendfsync", "everysec")
        assert confirmed < 80
        answer = await spawn(stage, "fsynced")
        assert (answer.status, answer.headers[LEVEL]) == (202, "accepted")
        assert answer.headers[PENDING] == 'fsynced; reason="appendfsync was changed"'


@pytest.mark.parametrize(("recovered_seq", "saved"), [(1, True), (0, False)])
async def test_a_command_whose_log_was_recovered_meanwhile_was_saved_or_is_lost(
    redis_server, recovered_seq, saved, tmp_path
):
    """The position from which the rebuilt log went on shows which."""
    server = redis_server(appendfsync="always")
    async with gateway_stage(server.url, views(tmp_path)) as stage:
        proof = (await stage.pool.spawn()).proof
        assert proof is not None
        with server.client() as client:
            head = {"generation": 2, "recovered_seq": recovered_seq}
            client.hset(f"pool:{{{POOL}}}:meta", mapping=head)
        request = DurabilityRequest(
            stage.backend, Level.FSYNCED, WaitPreference(10.0, explicit=True)
        )
        request.start(proof)
        if saved:
            headers = await request.headers("a")
            assert headers[LEVEL] == "accepted"
            assert headers[PENDING] == 'fsynced; reason="the log was recovered meanwhile"'
        else:
            with pytest.raises(Problem) as raised:
                await request.headers("a")
            assert (raised.value.body.kind, raised.value.body.agent_id) == ("command-lost", "a")


# ---- replicas --------------------------------------------------------------------------------


async def test_a_default_level_out_of_reach_makes_the_gateway_not_ready(redis_url, tmp_path):
    """Else every command would be refused by a gateway that seems healthy."""
    async with gateway_stage(redis_url, views(tmp_path), durability="replicated") as stage:
        answer = await spawn(stage)
        assert (answer.status, answer.kind) == (422, "durability-unavailable")
        assert "the default of this gateway" in answer.json["detail"]
        assert (await spawn(stage, "accepted")).headers[LEVEL] == "accepted"
        ready = await stage.get("/readyz")
        assert ready.status == 503
        assert "the default durability, replicated, cannot be given" in ready.json["reasons"][0]


async def test_what_is_replicated_is_on_the_replica(replication: Replication, tmp_path):
    """An unreachable one is named: the command is accepted, the level pending, then reached."""
    limits = type(QUICK)(durability_seconds=5.0, wait_default=0.1)
    async with gateway_stage(replication.primary.url, views(tmp_path), limits=limits) as stage:
        answer = await spawn(stage, "replicated")
        assert answer.headers[LEVEL] == "replicated"
        with replication.replica.client() as client:
            there = client.exists(f"agent:{{{POOL}}}:{answer.json['agent_id']}")
        assert there == 1
        replication.replica.pause()
        stage.backend.limits = replace(limits, durability_seconds=0.5)  # waited in vain
        late = await spawn(stage, "replicated", key="k")
        stage.backend.limits = limits
        assert (late.status, late.headers[LEVEL]) == (202, "accepted")
        assert late.headers[PENDING].startswith("replicated; reason=")
        replication.replica.resume()
        again = await spawn(stage, "replicated", key="k")
        assert again.headers[LEVEL] == "replicated"
        assert again.json["agent_id"] == late.json["agent_id"]
