"""Threads of agents: each incarnation's own, bounded, and ended before the incarnation is."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from tests.unit.workers.calls import ended
from tests.waiting import until
from workers.output.lines import CURRENT, Owner
from workers.runtime import threads
from workers.runtime.calls import AgentTask
from workers.runtime.loop_guard import guard_loop
from workers.runtime.threads import call_stacks, end_thread_calls, report_threads

SHARED = ThreadPoolExecutor(2, thread_name_prefix="of-a-module")


class Incarnation:
    def __init__(self, name: str) -> None:
        self.owner = Owner({"agent_id": name}, threads_max=3)
        self.task = AgentTask(asyncio.get_running_loop(), self.owner, name)

    async def run(self, code: Callable[[], Awaitable[object]]) -> None:
        async def call() -> None:
            await code()

        made = self.task.call(call)
        await ended(made)
        assert made.error is None

    async def start(self, function: Callable[[], object], count: int = 1) -> None:
        """Let it have something in its pool, and not wait for that."""

        async def submit() -> None:
            loop = asyncio.get_running_loop()
            self.futures = [loop.run_in_executor(None, function) for _ in range(count)]

        await self.run(submit)


@pytest.fixture
async def agents() -> AsyncIterator[tuple[Incarnation, Incarnation]]:
    guard_loop(asyncio.get_running_loop())
    made = Incarnation("one"), Incarnation("other")
    yield made
    for one in made:
        await one.task.end()


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Lets go what is parked in threads."""
    event = threading.Event()
    yield event
    event.set()


async def test_parked_threads_of_an_agent_hold_up_nobody_else(agents, go: threading.Event):
    one, other = agents
    await one.start(go.wait, 100)
    await other.run(lambda: asyncio.to_thread(lambda: None))
    await asyncio.to_thread(lambda: None)
    assert len({call.thread_id for call in one.owner.calls.values()} - {0}) == 3


async def test_an_agent_has_ended_when_its_calls_have(agents, go: threading.Event):
    """Those that have not begun never do."""
    one, _ = agents
    done: list[int] = []

    def work() -> None:
        go.wait()
        done.append(1)

    await one.start(work, 10)
    await until(lambda: len(call_stacks(one.owner)) == 3)
    ending = asyncio.create_task(end_thread_calls(one.owner, 10))
    await asyncio.sleep(0.01)
    assert not ending.done()
    go.set()
    assert await ending
    assert len(done) == 3


async def test_a_call_that_does_not_end_in_time_is_shown(agents, go: threading.Event):
    one, _ = agents
    await one.start(go.wait)
    await until(lambda: call_stacks(one.owner))
    assert not await end_thread_calls(one.owner, 0)
    [stack] = call_stacks(one.owner)
    assert "threading.py" in stack


@pytest.mark.parametrize("kind", ["own", "module's", "default"])
async def test_a_call_belongs_to_whoever_submitted_it(agents, go: threading.Event, kind: str):
    """In any pool, whose threads another agent may have started."""
    own = ThreadPoolExecutor(2)
    pool = {"own": own, "module's": SHARED, "default": ThreadPoolExecutor(2)}[kind]

    async def submit() -> None:
        if kind == "default":
            asyncio.get_running_loop().set_default_executor(pool)
        executor = None if kind == "default" else pool
        owners.append(await asyncio.get_running_loop().run_in_executor(executor, CURRENT.get))
        pool.submit(go.wait)

    owners: list[Owner | None] = []
    for agent in agents:
        await agent.run(submit)
    assert owners == [agent.owner for agent in agents]
    for agent in agents:
        await until(functools.partial(call_stacks, agent.owner))
        assert not await end_thread_calls(agent.owner, 0)
    go.set()
    for agent in agents:
        assert await end_thread_calls(agent.owner, 10)
    assert await asyncio.wrap_future(pool.submit(CURRENT.get)) is None


async def test_a_pool_that_an_agent_was_given_is_not_shut_down_with_it(agents):
    one, _ = agents

    async def use() -> None:
        asyncio.get_running_loop().set_default_executor(SHARED)

    await one.run(use)
    assert await end_thread_calls(one.owner, 0)
    await asyncio.wrap_future(SHARED.submit(lambda: None))


async def test_other_threads_are_reported_by_name(agents, go: threading.Event):
    """They cannot be ended. What they print has the agent's ids."""
    one, other = agents
    owners: list[Owner | None] = []

    def park() -> None:
        owners.append(CURRENT.get())
        go.wait()

    async def start() -> None:
        ended = threading.Thread(target=lambda: None, name="ended")
        ended.start()
        ended.join()
        threading.Thread(target=park, name="left", daemon=True).start()
        await asyncio.to_thread(lambda: None)
        SHARED.submit(lambda: None)

    await one.run(start)
    await until(lambda: len(one.owner.threads) == 1 and owners)
    with structlog.testing.capture_logs() as lines:
        report_threads(one.owner)
        report_threads(other.owner)
    [line] = lines
    assert (line["event"], line["agent_id"]) == ("agent.threads_left", "one")
    assert (line["count"], line["threads"]) == (1, ["left"])
    assert owners == [one.owner]


async def test_what_is_submitted_keeps_its_meaning(agents):
    """Arguments, results, errors, `map`; a thread's `run` in a subclass; starting it twice."""
    one, _ = agents
    results: list[object] = []

    class Own(threading.Thread):
        def run(self) -> None:
            results.append(self.name)

    async def use() -> None:
        with ThreadPoolExecutor(1) as pool:
            results.append(pool.submit(divmod, 7, 2).result())
            results.append(pool.submit(dict, fn=1, self=2).result())
            results.append(list(pool.map(abs, (-1, -2))))
            failing = pool.submit(divmod, 1, 0)
            results.append(type(failing.exception()))
        thread = Own(name="own")
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError):
            thread.start()

    await one.run(use)
    assert results == [(3, 1), {"fn": 1, "self": 2}, [1, 2], ZeroDivisionError, "own"]


def test_threads_that_start_others_while_they_are_listed_are_no_error() -> None:
    """Else the worker would count as stuck for what an agent left."""
    owner = Owner({"agent_id": "a1"})

    class Starts(threading.Thread):
        def is_alive(self) -> bool:
            owner.threads.add(threading.Thread())
            return True

    owner.threads.update(Starts(name=str(number)) for number in range(3))
    with structlog.testing.capture_logs() as lines:
        report_threads(owner)
    assert [line["count"] for line in lines] == [3]


async def test_a_thread_that_cannot_start_is_not_kept(
    agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object would remain until the agent ends."""
    one, _ = agents

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def start() -> None:
        with pytest.raises(RuntimeError, match="can't start"):
            threading.Thread(target=int).start()

    monkeypatch.setattr(threads, "_start", refuse)
    await one.run(start)
    assert one.owner.threads == set()
