"""What one agent does to the event loop that it shares does not reach its neighbours."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from typing import Any, ClassVar

import pytest
import structlog
import uvloop

from tests.unit.workers.calls import ended
from tests.unit.workers.test_errors import raises
from workers.output.lines import Owner
from workers.runtime.calls import AgentTask
from workers.runtime.loop_guard import SHARED, guard_loop, keep_running

Code = Callable[[], Awaitable[None]]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Neighbours:
    """Two agents on one loop, and a task of the worker's."""

    made: ClassVar[list[AgentTask]] = []

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        working = asyncio.current_task()
        assert working is not None
        self.working = working
        guard_loop(self.loop)
        keep_running(self.loop, until=working)
        self.one, self.other = Owner({"agent_id": "one"}), Owner({"agent_id": "other"})
        self.tasks = [AgentTask(self.loop, owner, "a") for owner in (self.one, self.other)]
        self.made.extend(self.tasks)
        self.ours = asyncio.create_task(asyncio.sleep(60))
        self.theirs = self.tasks[1].call(lambda: asyncio.sleep(60))

    async def run(self, code: Code) -> str:
        """Run code of the first agent; returns the type of what it raised."""
        call = self.tasks[0].call(code)
        await ended(call)
        await asyncio.sleep(0.01)
        return call.error.type if call.error else ""

    async def check(self) -> None:
        """The worker and the other agent go on as before."""
        assert [self.ours.done(), self.theirs.done, self.working.cancelling()] == [False, False, 0]
        assert not self.loop.get_debug()
        call = self.tasks[1].call_apart(lambda: asyncio.to_thread(lambda: None))
        await ended(call)
        assert call.error is None
        await self.loop.run_in_executor(None, lambda: None)

    async def end(self) -> None:
        for task in self.tasks:
            await task.end()
        self.ours.cancel()


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], None]]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:

        async def closing(main: Awaitable[None]) -> None:
            try:
                await main
            finally:  # else a test that fails would wait for ever: these end for no cancellation
                for task in Neighbours.made:
                    task.close()
                Neighbours.made.clear()

        yield lambda main: runner.run(closing(main))


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def in_thread(function: Callable[..., object], *arguments: object) -> None:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def in_pool(function: Callable[..., object], *arguments: object) -> object:
    return loop().run_in_executor(None, function, *arguments)


async def cancel_all_tasks() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def stop_by(schedule: Callable[..., object], *arguments: Any, **options: Any) -> None:
    schedule(*arguments, loop().stop, **options)
    await asyncio.sleep(0.01)


REFUSED: dict[str, Code] = {
    "stop": lambda: stop_by(lambda stop: stop()),
    "stop soon": lambda: stop_by(loop().call_soon),
    "stop later": lambda: stop_by(loop().call_later, 0.001),
    "stop safely": lambda: stop_by(loop().call_soon_threadsafe),
    "stop from a thread": lambda: stop_by(in_thread, loop().call_soon_threadsafe),
    "stop from a pool": lambda: stop_by(in_pool, loop().call_soon_threadsafe),
    "stop as no agent": lambda: stop_by(loop().call_soon, context=Context()),
    "generators": lambda: loop().shutdown_asyncgens(),
    "debug": lambda: asyncio.sleep(0, loop().set_debug(True)),
    "tasks": lambda: asyncio.sleep(0, loop().set_task_factory(None)),
}
CONTAINED: dict[str, Code] = {
    "close": lambda: asyncio.sleep(0, loop().close()),
    "run": lambda: asyncio.sleep(0, loop().run_forever()),
    "run until": lambda: asyncio.sleep(0, loop().run_until_complete(loop().create_future())),
    "cancel all": cancel_all_tasks,
    "executor": lambda: loop().shutdown_default_executor(),
}


@pytest.mark.parametrize("name", [*REFUSED, *CONTAINED])
def test_what_an_agent_does_to_the_loop_does_not_reach_others(run, name: str):
    async def main() -> None:
        neighbours = Neighbours()
        with structlog.testing.capture_logs() as lines:
            await neighbours.run({**REFUSED, **CONTAINED}[name])
        await neighbours.check()
        refused = [line.get("agent_id") for line in lines if line["event"] == "agent.refused"]
        named = [None] if name == "stop as no agent" else ["one"]
        assert refused == (named if name in REFUSED else [])
        await neighbours.end()

    run(main())


def test_an_agent_sees_its_own_tasks_only(run):
    """`gather` over all tasks but one's own would else wait for ever."""
    seen: list[set[asyncio.Task[Any]]] = []
    left: list[asyncio.Task[Any]] = []

    async def look() -> None:
        left.append(asyncio.create_task(asyncio.sleep(60)))
        seen.append(asyncio.all_tasks() - {asyncio.current_task()})

    async def main() -> None:
        neighbours = Neighbours()
        await neighbours.run(look)
        assert seen == [set(left)]
        assert neighbours.ours in asyncio.all_tasks()
        await neighbours.end()

    run(main())


def test_a_loop_of_its_own_in_a_thread_is_an_agents_own(run):
    async def inner() -> int:
        task = asyncio.create_task(asyncio.sleep(60), context=Context())
        count = len(asyncio.all_tasks())
        task.cancel()
        asyncio.get_running_loop().set_debug(True)
        return count

    counts: list[int] = []

    async def outer() -> None:
        counts.append(await asyncio.to_thread(asyncio.run, inner()))

    async def main() -> None:
        neighbours = Neighbours()
        assert (await neighbours.run(outer), counts) == ("", [2])
        await neighbours.check()
        await neighbours.end()

    run(main())


def test_no_agent_cancels_what_it_has_hold_of(run):
    """The worker's tasks, and the calls of a neighbour; its own it may."""
    answers: list[bool] = []

    async def main() -> None:
        neighbours = Neighbours()
        mine = neighbours.tasks[0].call_apart(lambda: asyncio.sleep(60))

        async def cancel() -> None:
            for task in (neighbours.ours, neighbours.theirs.task, mine.task):
                assert task is not None
                answers.append(task.cancel())

        with structlog.testing.capture_logs() as lines:
            await neighbours.run(cancel)
        assert answers == [False, False, True]
        assert [line["agent_id"] for line in lines] == ["one", "one"]
        await neighbours.check()
        await neighbours.end()

    run(main())


def test_an_agent_may_cancel_the_tasks_of_what_agents_share(run):
    """A client that the set-up of the role made: its reader, say, when the client is closed."""
    answers: list[bool] = []

    async def main() -> None:
        neighbours = Neighbours()
        SHARED.set(True)
        reader = asyncio.create_task(asyncio.sleep(60))

        async def cancel() -> None:
            answers.append(reader.cancel())

        await neighbours.run(cancel)
        assert answers == [True]
        await neighbours.end()

    run(main())


async def fail(error: BaseException) -> None:
    raise error


def raise_(error: BaseException) -> None:
    raise error


async def forget(make: Callable[[], object]) -> None:
    make()
    await asyncio.sleep(0.01)
    gc.collect()


UNOBSERVED: dict[str, Callable[[BaseException], object]] = {
    "task": lambda error: asyncio.create_task(fail(error)),
    "callback": lambda error: loop().call_soon(raise_, error),
    "later": lambda error: loop().call_later(0.001, raise_, error),
    "executor": lambda error: loop().run_in_executor(None, raise_, error),
    "done": lambda error: (
        loop().create_task(asyncio.sleep(0)).add_done_callback(lambda _: raise_(error))
    ),
}


@pytest.mark.parametrize("name", UNOBSERVED)
def test_what_fails_unobserved_is_logged_with_the_ids_of_its_agent(run, name: str):
    async def main() -> None:
        neighbours = Neighbours()
        with structlog.testing.capture_logs() as lines:
            await neighbours.run(lambda: forget(lambda: UNOBSERVED[name](ValueError("lost"))))
        [line] = lines
        assert (line["event"], line["agent_id"]) == ("agent.task_failed", "one")
        assert (line["error"], line["message"]) == ("ValueError", "lost")
        assert "raise error" in line["exception"]
        await neighbours.end()

    run(main())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_task_is_its_failure(run, kind: type[BaseException]):
    class Hostile(kind):  # type: ignore[valid-type,misc]
        __str__ = raises

    async def main() -> None:
        neighbours = Neighbours()
        with structlog.testing.capture_logs() as lines:
            await neighbours.run(lambda: forget(lambda: asyncio.create_task(fail(Hostile()))))
        assert "message unreadable" in lines[0]["message"]
        await neighbours.check()
        await neighbours.end()

    run(main())


def test_a_handler_of_exceptions_is_an_agents_own(run):
    seen: list[Any] = []

    async def handle() -> None:
        loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
        await forget(lambda: loop().call_soon(raise_, ValueError("one")))

    async def main() -> None:
        neighbours = Neighbours()
        await neighbours.run(handle)
        assert [str(error) for error in seen] == ["one"]
        with structlog.testing.capture_logs() as lines:
            other = neighbours.tasks[1].call_apart(
                lambda: forget(lambda: loop().call_soon(raise_, ValueError("other")))
            )
            await ended(other)
        assert ([line["agent_id"] for line in lines], len(seen)) == (["other"], 1)
        await neighbours.end()

    run(main())


def test_a_handler_of_exceptions_that_fails_is_logged(run):
    async def handle() -> None:
        loop().set_exception_handler(lambda *_: raise_(SystemExit("worse")))
        await forget(lambda: loop().call_soon(raise_, ValueError("one")))

    async def main() -> None:
        neighbours = Neighbours()
        with structlog.testing.capture_logs() as lines:
            await neighbours.run(handle)
        assert [line["message"] for line in lines] == ["worse"]
        await neighbours.check()
        await neighbours.end()

    run(main())


def test_a_task_cancelled_before_it_began_leaves_no_warning(run):
    """Warnings are errors here."""

    async def cancel() -> None:
        task = asyncio.create_task(fail(ValueError()))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        gc.collect()

    async def main() -> None:
        neighbours = Neighbours()
        assert await neighbours.run(cancel) == ""
        await neighbours.end()

    run(main())
