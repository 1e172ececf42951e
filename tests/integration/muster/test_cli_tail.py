"""`muster tail` on a real log: every form of start position, filters, following."""

import asyncio
import json
import threading
import time
from collections.abc import Iterable

import pytest

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.language.agent_commands import Terminate
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster.__main__ import main
from muster.cli.events.lines import RecordedEvent
from muster.cli.events.streams import Streams
from muster.cli.events.tail import TailOptions, read_events
from projector.intake.source import Source
from tests.pools import ORIGIN, TestPool
from tests.waiting import until


class Record:
    """A log with a catalogue and two pools, and what is written to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = Client(url)
        self.log = Log(self.client, Keys())
        self.reader = Reader(url)
        self.catalogue = CatalogueLog(self.log, self.reader)
        self.pools: dict[str, TestPool] = {}

    async def create(self, name: str) -> TestPool:
        await self.catalogue.create_pool(name, "developer", PoolConfig(), ORIGIN)
        self.pools[name] = TestPool(self.log, name)
        return self.pools[name]

    async def tail(self, **options) -> list[RecordedEvent]:
        return [event async for event in read_events(TailOptions(redis_url=self.url, **options))]

    async def close(self) -> None:
        await self.reader.close()
        await self.client.aclose()


@pytest.fixture
async def record(redis_url):
    """Ten agents in each of two pools; one of the first pool is terminated again."""
    record = Record(redis_url)
    await record.catalogue.create()
    for name in ("alpha", "beta"):
        pool = await record.create(name)
        for _ in range(10):
            await pool.spawn(project=name)
    last = int((await record.reader.last_id("pool:{beta}:events")).partition("-")[0])
    await until(lambda: time.time_ns() // 1_000_000 > last, interval=0.001, what="a later time")
    agents = await record.log.live("alpha")
    await record.log.act("alpha", agents[0], Terminate(reason="enough"), ORIGIN)
    yield record
    await record.close()


def places(events: list[RecordedEvent]) -> list[str]:
    return [f"{event.pool}:{event.seq}" for event in events]


async def follow(options: TailOptions, seen: list[str]) -> None:
    """Collect the position of every event as it is shown."""
    async for event in read_events(options):
        seen += places([event])


async def test_from_the_start_all_events_are_shown_in_order_of_time(record):
    events = await record.tail(start="0")
    assert len(events) == 2 + 10 + 10 + 2
    assert [event.ms for event in events] == sorted(event.ms for event in events)
    for pool, last in (("catalogue", 2), ("alpha", 12), ("beta", 10)):
        assert [e.seq for e in events if e.pool == pool] == list(range(1, last + 1))


async def test_without_a_position_the_last_events_are_shown(record):
    assert places(await record.tail(count=2)) == ["alpha:11", "alpha:12"]
    assert len(await record.tail()) == 20


async def test_the_last_events_of_a_kind_are_found_behind_many_others(record, monkeypatch):
    """The reading goes back page by page until it has enough."""
    monkeypatch.setattr("muster.cli.events.streams.CHUNK", 3)
    events = await record.tail(count=2, types=("agent.requested",), pools=("alpha",))
    assert places(events) == ["alpha:9", "alpha:10"]
    assert len(await record.tail(start="0")) == 24


async def test_a_position_starts_with_that_event(record):
    """`pool:seq` is found by halving time, whatever the stream's ids are."""
    for seq in range(1, 13):
        events = await record.tail(start=f"alpha:{seq}")
        assert [event.seq for event in events] == list(range(seq, 13))


async def test_a_stream_id_and_a_time_start_after_what_was_shown(record):
    everything = await record.tail(start="0", pools=("beta",))
    after = await record.tail(start=everything[6].stream_id, pools=("beta",))
    assert places(after) == places(everything[7:])
    since = await record.tail(start=str(everything[6].ms), pools=("beta",))
    assert places(since) == places([e for e in everything if e.ms >= everything[6].ms])


async def test_filters_choose_by_type_agent_and_pool(record):
    ended = await record.tail(start="0", types=("agent.term*",))
    assert places(ended) == ["alpha:11", "alpha:12"]
    agent = ended[0].fields["subject"]
    history = await record.tail(start="0", agent=agent)
    assert [event.fields["type"] for event in history] == [
        "agent.requested",
        "agent.termination_requested",
        "agent.terminated",
    ]
    assert {event.pool for event in await record.tail(pools=("catalogue",))} == {"catalogue"}


async def test_following_shows_new_events_also_of_new_pools(record):
    seen: list[str] = []
    options = TailOptions(redis_url=record.url, count=1, follow=True)
    task = asyncio.create_task(follow(options, seen))
    try:
        await until(lambda: seen == ["alpha:12"])
        await record.pools["beta"].spawn()
        await until(lambda: "beta:11" in seen)
        await (await record.create("gamma")).spawn()
        await until(lambda: "gamma:1" in seen)
    finally:
        task.cancel()
    assert sorted(seen) == ["alpha:12", "beta:11", "catalogue:3", "gamma:1"]


async def test_following_survives_a_restart_of_redis(redis_server):
    server = redis_server(appendfsync="always")
    record = Record(server.url)
    await record.catalogue.create()
    pool = await record.create("alpha")
    await pool.spawn()
    seen: list[str] = []
    options = TailOptions(redis_url=server.url, pools=("alpha",), follow=True)
    task = asyncio.create_task(follow(options, seen))
    try:
        await until(lambda: seen == ["alpha:1"])
        await asyncio.to_thread(server.restart)
        await record.close()
        again = Record(server.url)
        await TestPool(again.log, "alpha").spawn()
        await again.close()
        await until(lambda: seen == ["alpha:1", "alpha:2"])
    finally:
        task.cancel()


async def test_following_reports_a_log_that_is_lost_and_recovered(redis_server, capsys):
    """Nothing more comes of it, for ever: that is not silence as any other."""
    server = redis_server()
    record = Record(server.url)
    await record.catalogue.create()
    await (await record.create("alpha")).spawn()
    seen: list[str] = []
    options = TailOptions(redis_url=server.url, count=1, follow=True, block_seconds=0.05)
    task = asyncio.create_task(follow(options, seen))
    said = ""

    def printed(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return text in said

    try:
        await until(lambda: seen == ["alpha:1"])
        await record.client.execute_command("RENAME", "pool:{alpha}:events", "{alpha}")
        await until(
            lambda: printed("alpha: the log is missing; `muster recover --dry-run` says more")
        )
        await record.client.execute_command("RENAME", "{alpha}", "pool:{alpha}:events")
        await until(lambda: printed("alpha: the log is available again"))
        await record.client.execute_command("HSET", "pool:{alpha}:meta", "halted", "by hand")
        await until(lambda: printed("alpha: the log is halted: by hand; "))
    finally:
        task.cancel()
        await record.close()
    assert said.count("alpha: the log is missing") == 1


async def test_a_log_that_is_created_during_the_check_is_not_missing(record, monkeypatch):
    source = Source(record.url, "")
    original, initialise = source.intact, record.log.initialise

    async def later(_: str) -> None:
        """Its process is slow."""

    async def made_meanwhile(pools: Iterable[str]) -> dict[str, bool]:
        answer = await original(pools)
        await initialise("gamma")
        return answer

    monkeypatch.setattr(record.log, "initialise", later)
    await record.create("gamma")
    monkeypatch.setattr(source, "intact", made_meanwhile)
    try:
        assert await Streams(source).problems(["gamma"]) == {}
        assert await source.created(["gamma"]) == {"gamma"}
    finally:
        await source.close()


# ---- as a command ----------------------------------------------------------------------------


def run(*words: str) -> int:
    """The command, which has an event loop of its own, in a thread."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(list(words))))
    thread.start()
    thread.join(20)
    return codes[0]


async def test_lines_are_readable_and_json_is_complete(record, capsys):
    assert run("tail", "--redis-url", record.url, "-n", "1") == 0
    words = capsys.readouterr().out.split()
    assert words[1:3] == ["alpha:12", "agent.terminated"]
    assert words[-1] == "enough"
    assert run("tail", "--redis-url", record.url, "--from", "catalogue:2", "--json") == 0
    event = json.loads(capsys.readouterr().out)
    assert (event["pool"], event["seq"], event["type"]) == ("catalogue", 2, "pool.created")
    assert event["data"]["role_type"] == "developer"


async def test_invalid_input_is_one_line(record, capsys):
    assert run("tail", "--redis-url", record.url, "--pool", "gamma") == 1
    for wrong in ("soon", f"{2**64}-0", "1-" + "9" * 5000, "٣-٣", "alpha:" + "9" * 5000):
        assert run("tail", "--redis-url", record.url, "--from", wrong) == 2
    assert run("tail", "--redis-url", record.url, "-n", "-1") == 2
    assert run("tail", "--redis-url", "redis://127.0.0.1:1") == 3
    assert run("tail", "--redis-url", "what") == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("muster tail: ") for line in said] == [True] * 9
    assert said[0].endswith("no pool `gamma`; there are: alpha, beta, catalogue")


async def test_a_lost_log_is_reported_as_lost(record, capsys):
    assert run("tail", "--redis-url", record.url, "-n", "0") == 0
    assert capsys.readouterr().err == ""
    await record.client.execute_command("DEL", "pool:{alpha}:events")
    assert run("tail", "--redis-url", record.url, "-n", "0") == 0
    assert capsys.readouterr().err.startswith("alpha: the log is missing; `muster recover")
    await record.client.execute_command("FLUSHDB")
    for words in (["-n", "3"], ["--pool", "alpha"], ["--pool", "alpha", "--follow"]):
        assert run("tail", "--redis-url", record.url, *words) == 1
        said = capsys.readouterr().err
        assert said.startswith("muster tail: there is no log in this Redis: it was never created")
