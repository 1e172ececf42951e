"""The handover between two real logs: which agents are handed over, and which are named."""

import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path

import msgspec
import pytest
import redis
from msgspec.structs import replace

from eventstore.errors import ConfigurationError
from eventstore.language.agent_commands import End, Fail, Save, Started, Terminate
from eventstore.language.events import Error
from gateway.fallback import read_handover_failures
from muster.fallback import directory
from muster.settings.settings import Settings
from tests.integration.muster.fallback_stage import (
    DAY,
    NARROW,
    OTHER,
    POLICY,
    POOL,
    TESTERS,
    Fallback,
    do_handover,
    ids,
    spawn_for_real,
)
from tests.pools import ORIGIN, raw_events


async def test_an_agent_is_handed_over_with_its_state_and_waits_if_that_is_lost(
    settings: Settings,
) -> None:
    async with Fallback(settings) as fallback:
        saved, lost = await fallback.spawn(), await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        await fallback.pool.claim(fence)
        for agent_id, state in ((saved, b"\x00\xff"), (lost, b"s")):
            sha256 = hashlib.sha256(state).hexdigest()
            save = Save(after=0, size=len(state), sha256=sha256)
            await fallback.log.act(POOL, agent_id, save, ORIGIN, fence=fence, state=state)
        await fallback.log.client.execute_command("DEL", f"state:{{{POOL}}}:{lost}")
    assert "2 handed over" in (await do_handover(settings))[0]
    with redis.Redis.from_url(settings.redis_url) as real:
        assert real.get(f"state:{{{POOL}}}:{saved}") == b"\x00\xff"
        assert real.hget(f"agent:{{{POOL}}}:{saved}", "save") == b"1"
        assert real.hget(f"agent:{{{POOL}}}:{lost}", "reason") == b"state-lost"
        assert real.xlen(f"pool:{{{POOL}}}:commands") == 1
    assert ids(settings.redis_url, "agent.saved") == [saved]
    assert ids(settings.redis_url, "agent.state_lost") == [lost]


async def test_living_agents_are_handed_over_as_they_were_requested(settings: Settings) -> None:
    """Pending, running under a worker that was killed, or restarting."""
    async with Fallback(settings) as fallback:
        log = fallback.log
        running, failing = await fallback.spawn(), await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        for claimed in await fallback.pool.claim(fence):
            await log.act(
                POOL, claimed.agent.agent_id, Started(now_ms=log.now_ms(POOL)), ORIGIN, fence=fence
            )
        crash = Fail(during="run", error=Error(type="E"), now_ms=log.now_ms(POOL), policy=POLICY)
        await log.act(POOL, failing, crash, ORIGIN, fence=fence)
        waiting = await fallback.spawn(
            key=DAY,
            digest="d",
            project="apollo",
            labels={"team": "red"},
            input=msgspec.Raw(b'{"task":[1]}'),
            max_idle_time=None,
            heartbeat_interval=12.5,
        )
    lines = await do_handover(settings)
    assert "3 handed over" in lines[0]
    assert ids(settings.redis_url) == sorted([running, failing, waiting])
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as real:
        known = real.hgetall(f"agent:{{{POOL}}}:{waiting}")
        assert (known["status"], known["incarnation"], known["project_id"]) == (
            "pending", "1", "apollo",
        )  # fmt: skip
        assert (known["heartbeat_interval"], known["max_idle_time"]) == ("12.5", "")
        spec = json.loads(real.get(f"pool:{{{POOL}}}:spec:{waiting}"))
        assert spec == {"input": {"task": [1]}, "labels": {"team": "red"}}
        key = f"pool:{{{POOL}}}:operation:{DAY}"
        assert real.hmget(key, "digest", "answer") == ["d", waiting]
        assert 86_000_000 < real.pttl(key) <= 86_400_000
        assert real.xlen(f"pool:{{{POOL}}}:commands") == 3


async def test_a_repeated_key_of_an_ended_agent_is_known_and_runs_nothing(
    settings: Settings,
) -> None:
    async with Fallback(settings) as fallback:
        keyed, unkeyed = await fallback.spawn(key=DAY, digest="d"), await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        await fallback.pool.claim(fence)
        for agent_id in (keyed, unkeyed):
            await fallback.log.act(
                POOL, agent_id, Started(now_ms=fallback.log.now_ms(POOL)), ORIGIN, fence=fence
            )
            done = End(reason="completed")
            await fallback.log.act(POOL, agent_id, done, ORIGIN, fence=fence)
    settings = replace(settings, retention_ended_seconds=30.0)
    assert "1 recorded as ended" in (await do_handover(settings))[0]
    events = raw_events(settings.redis_url)
    assert [(event["type"], event["subject"]) for event in events] == [
        ("agent.requested", keyed),
        ("agent.terminated", keyed),
    ]
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as real:
        assert real.hget(f"pool:{{{POOL}}}:operation:{DAY}", "answer") == keyed
        assert real.xlen(f"pool:{{{POOL}}}:commands") == 0
        assert real.smembers(f"pool:{{{POOL}}}:agents") == set()
        assert 0 < real.pttl(f"agent:{{{POOL}}}:{keyed}") <= 30_000
    assert not settings.handover_failures_file.exists()


async def test_agents_that_cannot_be_handed_over_are_named_with_the_reason(
    settings: Settings,
) -> None:
    """In the output, in the file that an alert is made of, and in the report."""
    before = await spawn_for_real(settings, key=DAY, digest="d")
    async with Fallback(settings) as fallback:
        twice = await fallback.spawn(key=DAY, digest="d")
        flagged = await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        await fallback.pool.claim(fence)  # both, so that its end is asynchronous
        await fallback.log.act(POOL, flagged, Terminate(), ORIGIN)
        homeless = await fallback.spawn(await fallback.make(OTHER))
        mistaken = await fallback.spawn(await fallback.make(TESTERS, "configuration"))
        narrow = await fallback.make(NARROW, "configuration")
        first = await fallback.spawn(narrow)
        await asyncio.sleep(0.005)  # ids of one millisecond have no order
        second = await fallback.spawn(narrow)
    printed = "\n".join(await do_handover(settings))
    assert "1 handed over, 4 not handed over" in printed
    reasons = {
        twice: f"its Idempotency-Key is known in the real log, for agent {before}",
        homeless: f"the real log has no pool {OTHER!r}",
        mistaken: "pool 'tester_pool' of the real log is for role 'tester'",
        second: f"pool {NARROW!r} takes no more",
    }
    found = read_handover_failures(str(settings.handover_failures_file))
    assert found is not None
    described = {one.agent_id or one.pool_name: one.description for one in found.left}
    assert sorted(described) == sorted([*reasons, OTHER])
    for agent_id, reason in reasons.items():
        assert f"agent {agent_id} of pool" in described[agent_id]
        assert reason in described[agent_id]
        assert described[agent_id] in printed
    assert "it is not in the real log" in described[OTHER]
    assert ids(settings.redis_url) == [before]
    assert ids(settings.redis_url, pool=NARROW) == [first]
    assert archived_spawns(Path(found.report)) == sorted(
        [twice, flagged, homeless, mistaken, first, second]
    )


def archived_spawns(folder: Path) -> list[str]:
    """The agents that were requested in a fallback, as its own archive has them."""
    with sqlite3.connect(f"file:{folder / 'views.db'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT subject FROM events WHERE type = 'agent.requested'")
        return sorted(subject for (subject,) in rows)


async def test_agents_not_handed_over_of_several_fallbacks_are_all_listed(
    settings: Settings,
) -> None:
    for number in (1, 2):
        async with Fallback(settings) as fallback:
            await fallback.spawn(await fallback.make(OTHER))
        await do_handover(settings)
        found = read_handover_failures(str(settings.handover_failures_file))
        assert found is not None
        assert len([one for one in found.left if one.agent_id]) == number


async def test_a_fallback_without_its_identity_is_neither_started_again_nor_skipped(
    settings: Settings,
) -> None:
    """Under another identity its agents could be requested twice; skipped, they would be lost."""
    async with Fallback(settings) as fallback:
        await fallback.spawn()
        (fallback.folder.path / "identity.json").unlink()
    with pytest.raises(ConfigurationError, match=r"identity.json cannot be read"):
        fallback.folder.open("redis://real", "again")
    with pytest.raises(ConfigurationError, match=r"identity.json cannot be read"):
        await do_handover(settings)
    assert ids(settings.redis_url) == []


async def test_a_fallback_whose_log_is_damaged_is_not_skipped(settings: Settings) -> None:
    """An operator has to decide: its agents would be lost silently."""
    async with Fallback(settings) as fallback:
        await fallback.spawn()
    [manifest] = fallback.folder.path.glob("redis/*/*.manifest")
    manifest.write_text("not a manifest\n")
    with pytest.raises(ConfigurationError, match=r"cannot be opened.*move the folder elsewhere"):
        await do_handover(settings)
    assert directory.not_handed_over(settings.data_dir)
