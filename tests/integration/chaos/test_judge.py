"""The judge on real servers: it finds nothing in what Muster did, and what is planted by hand."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.log.log import Log
from tests.chaos.judge import judge
from tests.chaos.judging.offences import Offence
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool
from tests.waiting import until

ROOT = Path(__file__).parents[3]
EVENTS = f"pool:{{{POOL}}}:events"
COMMANDS = f"pool:{{{POOL}}}:commands"
META = f"pool:{{{POOL}}}:meta"


class Case:
    """A story that was written and projected, with no worker left."""

    def __init__(self, stage: Stage, pool: TestPool, living: list[str], client: Any) -> None:
        self.stage, self.pool, self.living, self.client = stage, pool, living, client

    def judged(self, **how: Any) -> list[Offence]:
        return judge(self.stage.redis_url, views=self.stage.database_url, **how)

    def forge(self, **changes: Any) -> None:
        """Append an event as a script would, but without its checks."""
        last_id, last = self.client.xrevrange(EVENTS, count=1)[0]
        milliseconds = int(last_id.partition("-")[0]) + 1
        seq = self.client.hincrby(META, "seq", 1)
        forged = {**last, "seq": seq, "event_id": "forged", "ts": milliseconds, **changes}
        self.client.xadd(EVENTS, forged, id=f"{milliseconds}-0")


async def limited(stage: Stage, name: str = POOL) -> TestPool:
    """A pool in which some agents fail at once, and others are started again."""
    pool = await stage.pool(name, restart_limit=0)
    unlimited = lambda config: replace(config, restart_limit=None)  # noqa: E731
    await stage.catalogue.change_pool(name, unlimited, ORIGIN)
    return pool


async def played(stage: Stage) -> Case:
    pool = await limited(stage)
    async with stage.projecting():
        living = await stage.play(pool)
        await stage.settle(POOL)
    client = redis.Redis.from_url(stage.redis_url, decode_responses=True)
    return Case(stage, pool, living, client)


@pytest.fixture
async def case(redis_url: str, tmp_path: Path) -> AsyncIterator[Case]:
    async with open_stage(redis_url, f"sqlite+aiosqlite:///{tmp_path / 'views.db'}") as stage:
        made = await played(stage)
        yield made
        made.client.close()


async def test_a_history_of_muster_has_no_offence(redis_url: str, database_url: str) -> None:
    """On SQLite and on PostgreSQL; and a stream that was trimmed below the archive is none."""
    async with open_stage(redis_url, database_url) as stage:
        case = await played(stage)
        assert case.judged(acknowledged=case.living) == []
        case.client.xtrim(EVENTS, maxlen=3, approximate=False)
        assert case.judged(acknowledged=case.living) == []
        await stage.sql("DELETE FROM {}events WHERE seq = 2 AND pool = :pool", pool=POOL)
        found = case.judged()
        assert [(o.invariant, o.seq, o.why) for o in found if o.invariant == 5] == [
            (5, 3, "in the archive seq 3 follows 1"),
            (5, 3, "seq 2 is missing: 1 comes before it"),
        ]
        case.client.close()


def _cut_an_event_out(case: Case) -> None:
    stream_id, _ = case.client.xrange(EVENTS, count=5)[4]
    case.client.xdel(EVENTS, stream_id)


def _forge(**changes: Any) -> Callable[[Case], None]:
    def forge(case: Case) -> None:
        fields = {"incarnation": "", "worker_id": "", "epoch": "", "data": "{}", **changes}
        fields["subject"] = fields["subject"] or case.living[0]
        case.forge(**fields)

    return forge


def _command(*words: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        named = [word.replace("AGENT", case.living[0]) for word in words]
        case.client.execute_command(*named)

    return run


PLANTED: list[tuple[int, Callable[[Case], None], str]] = [
    (5, _cut_an_event_out, "in the stream seq 6 follows 4"),
    (
        4,
        _forge(type="agent.claimed", subject="", incarnation="2", worker_id="w1", epoch="1"),
        "after a fence at 3",
    ),
    (2, _forge(type="agent.requested", subject="", incarnation="1"), "requested twice"),
    (5, _forge(type="agent.cloned", subject=""), "an unknown event"),
    (6, _command("HSET", f"agent:{{{POOL}}}:AGENT", "status", "running"), "status is"),
    (2, _command("DEL", f"agent:{{{POOL}}}:AGENT"), "it is gone"),
    (6, _command("SREM", f"pool:{{{POOL}}}:agents", "AGENT"), "in agents: absent"),
    (6, _command("ZADD", f"pool:{{{POOL}}}:processes", "9", "w2"), "in processes"),
    (6, _command("HINCRBY", META, "waiting", "1"), "meta.waiting is"),
    (2, _command("XTRIM", COMMANDS, "MAXLEN", "1"), "with 0 commands"),
    (2, _command("XGROUP", "DESTROY", COMMANDS, "workers"), "no consumer group"),
    (7, _command("SET", "stray", "1"), "neither expires nor is permanent"),
    (6, _command("HSET", "{muster:catalogue}:meta", f"version:{POOL}", "9"), "version is 9"),
]


async def test_planted_offences_are_found(case: Case, subtests: pytest.Subtests) -> None:
    """Each in the same story, whose keys are restored in between."""
    with redis.Redis.from_url(case.stage.redis_url) as client:
        story = {key: (client.dump(key), max(client.pttl(key), 0)) for key in client.scan_iter()}
        for invariant, plant, why in PLANTED:
            with subtests.test(why):
                plant(case)
                found = [o for o in case.judged() if why in o.why]
                assert {o.invariant for o in found} == {invariant}, case.judged()
            client.flushall()
            for key, (content, ttl_ms) in story.items():
                client.restore(key, ttl_ms, content)
    assert case.judged() == []


async def test_each_thing_that_was_changed_is_one_offence(case: Case) -> None:
    """An archived event, a row, and the hash of an ended agent, which would stay."""
    changed, ended = case.living[0], {"failed", "terminated"}
    await case.stage.sql("UPDATE {}events SET actor = 'x' WHERE seq = 5 AND pool = :p", p=POOL)
    await case.stage.sql("UPDATE {}agents SET incarnation = 9 WHERE agent_id = :a", a=changed)
    key, *_ = [
        key for key in case.client.keys("agent:*") if case.client.hget(key, "status") in ended
    ]
    case.client.persist(key)
    found = sorted(case.judged(), key=lambda o: o.invariant)
    assert [o.invariant for o in found] == [5, 6, 7]
    assert (found[0].seq, "differ in actor" in found[0].why) == (5, True)
    assert [o.subject for o in found[1:]] == [changed, key]


async def test_a_system_below_a_prefix_is_judged_by_itself(redis_url: str) -> None:
    client = Client(redis_url)
    try:
        log = Log(client, Keys("some:"))
        await log.create_catalogue()
        await log.initialise(POOL)
        await TestPool(log).spawn()
    finally:
        await client.aclose()
    with redis.Redis.from_url(redis_url) as plain:
        plain.set("of another program", 1)
        assert judge(redis_url, prefix="some:") == []
        plain.set("some:stray", 1)
        assert [o.subject for o in judge(redis_url, prefix="some:")] == ["some:stray"]


async def test_a_running_system_is_judged_at_one_point_in_time(
    redis_url: str, tmp_path: Path
) -> None:
    """Everything is compared at one position, however fast it moves."""
    async with open_stage(redis_url, f"sqlite+aiosqlite:///{tmp_path / 'views.db'}") as stage:
        pool = await limited(stage)
        rounds = 0

        async def move() -> None:
            nonlocal rounds
            while True:
                await stage.play(pool, f"round{rounds}-")
                rounds += 1

        async with stage.projecting():
            moving = asyncio.create_task(move())
            try:
                for _ in range(4):
                    enough = rounds + 2
                    await until(lambda: rounds >= enough)  # noqa: B023  # asked at once
                    found = await asyncio.to_thread(judge, redis_url, views=stage.database_url)
                    assert found == []
            finally:
                moving.cancel()
                await asyncio.gather(moving, return_exceptions=True)


async def test_the_command_prints_the_offences_and_ends_with_1(case: Case, tmp_path: Path) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.chaos.judge", "--redis", case.stage.redis_url]
        command += ["--views", case.stage.database_url, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"kind": "spawn", "pool": POOL, "agent_id": case.living[0]}))
    well = run("--acknowledged", str(journal))
    assert (well.returncode, well.stdout.startswith("0 offences in ")) == (0, True), well.stderr
    journal.write_text(json.dumps({"kind": "spawn", "pool": POOL, "agent_id": "unknown"}))
    ill = run("--acknowledged", str(journal), "--json")
    assert ill.returncode == 1, ill.stderr
    [offence] = json.loads(ill.stdout)["offences"]
    assert (offence["invariant"], offence["subject"]) == (8, "unknown")
