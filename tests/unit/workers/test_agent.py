"""What an agent gets, and how its code is called and ended."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from eventstore.errors import ConfigurationError
from eventstore.language.agents import Agent as State
from tests.unit.workers.calls import ended
from workers.api.agent import (
    Agent,
    Context,
    FencingToken,
    Spec,
    overrides,
    read_spec,
    starts_at_once,
)
from workers.api.engine import Database
from workers.output.lines import Owner
from workers.runtime.calls import AgentTask, Stuck
from workers.runtime.loop_guard import guard_loop


def context(*, works: bool, database: Database | None = None) -> Context:
    state = State(agent_id="a", pool_name="p", role_type="r", project_id="x")
    token = FencingToken(1, 7)
    passed = database or Database("")
    return Context(state, Spec(), token, new_logger=lambda: None, database=passed, has_run=works)


def test_fencing_tokens_grow_by_generation_then_seq():
    assert sorted([FencingToken(2, 1), FencingToken(1, 10), FencingToken(1, 9)]) == [
        FencingToken(1, 9),
        FencingToken(1, 10),
        FencingToken(2, 1),
    ]
    assert str(FencingToken(1, 10)) == "1:10"


def test_a_spec_may_be_empty():
    assert read_spec(b"") == Spec()
    assert read_spec(b'{"input":{"n":1},"labels":{}}').input == {"n": 1}


async def test_an_agent_with_a_run_is_busy_except_within_idle():
    working, observed = context(works=True), []
    observed.append(working.busy)
    async with working.idle():
        async with working.idle():
            pass
        observed.append(working.busy)
    observed.append(working.busy)
    assert observed == [True, False, True]
    assert working.idle_seconds == 0
    assert not context(works=False).busy


def test_an_engine_needs_a_url():
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        context(works=False).engine()


def test_only_overridden_methods_count():
    class Partly(Agent):
        async def run(self, context: Context) -> None:
            pass

    class Child(Partly):
        pass

    assert [overrides(Child, name) for name in ("run", "check")] == [True, False]


def test_only_a_role_without_code_of_its_own_before_run_starts_at_once():
    class Runs(Agent):
        async def run(self, context: Context) -> None:
            pass

    class Starts(Runs):
        async def start(self, context: Context) -> None:
            pass

    class Makes(Runs):
        def __init__(self) -> None:
            self.made = True

    class News(Runs):
        def __new__(cls) -> "News":
            return super().__new__(cls)

    class Meta(type):
        pass

    class Metaclass(Runs, metaclass=Meta):
        pass

    roles = (Agent, Runs, Starts, Makes, News, Metaclass)
    assert [starts_at_once(role) for role in roles] == [True, True, False, False, False, False]


# ---- tasks ---------------------------------------------------------------------------------------


@pytest.fixture
async def task() -> AsyncIterator[AgentTask]:
    guard_loop(asyncio.get_running_loop())
    owner = Owner({})
    made = AgentTask(asyncio.get_running_loop(), owner, "a")
    yield made
    made.close()


async def test_the_end_of_an_agent_ends_its_remaining_tasks_and_nothing_else(task: AgentTask):
    left = []
    ours = asyncio.create_task(asyncio.Event().wait())

    async def litter() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))

    await ended(task.call(litter))
    await task.end()
    assert left[0].cancelled()
    assert not ours.done()
    ours.cancel()


async def test_code_that_swallows_a_cancellation_is_cancelled_again(
    task: AgentTask, monkeypatch: pytest.MonkeyPatch
):
    """One that is swallowed by mistake is not yet a stuck agent."""
    monkeypatch.setattr("workers.runtime.calls.CANCEL_SECONDS", 0.05)
    swallowed = 0

    async def swallow() -> None:
        nonlocal swallowed
        while swallowed < 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    call = task.call(swallow)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await task.end()
    assert (swallowed, call.done) == (1, True)


async def test_code_that_cannot_be_ended_is_stuck(task: AgentTask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.runtime.calls.STUCK_SECONDS", 0.1)
    monkeypatch.setattr("workers.runtime.calls.CANCEL_SECONDS", 0.05)
    free = asyncio.Event()

    async def deaf() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    call = task.call(deaf)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Stuck):
        await task.end()
    free.set()
    await ended(call)


async def test_what_one_call_enters_the_next_may_leave(task: AgentTask):
    """A task group, a time-out, a context variable: they belong to the task, which is one."""
    group, limit = asyncio.TaskGroup(), asyncio.timeout(60)
    variable, found = ContextVar("variable", default=""), []
    children: list[asyncio.Task[bool]] = []

    async def start() -> None:
        await group.__aenter__()
        await limit.__aenter__()
        variable.set("start")

    async def run() -> None:
        children.append(group.create_task(asyncio.Event().wait()))
        await asyncio.Event().wait()

    async def stop() -> None:
        found.append(variable.get())
        await limit.__aexit__(None, None, None)
        children[0].cancel()
        await group.__aexit__(None, None, None)

    await ended(task.call(start))
    running = task.call(run)
    await asyncio.sleep(0.01)
    running.cancel()
    await ended(running)
    stopping = task.call(stop)
    await ended(stopping)
    assert (running.error, stopping.error, found) == (None, None, ["start"])
    await task.end()


async def test_what_a_call_left_open_may_cancel_the_next_only(task: AgentTask):
    """The time-out that `start` entered expires in `run`, or before it."""

    async def start() -> None:
        await asyncio.timeout(0.01).__aenter__()

    async def cancel_itself() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()

    async def wait() -> None:
        await asyncio.sleep(0.05)

    for pause in (0.05, 0.0):
        await ended(task.call(start))
        await asyncio.sleep(pause)
        call = task.call(wait)
        await ended(call)
        assert call.interrupted
        assert call.error is not None
        after = task.call(wait)
        await ended(after)
        assert after.error is None
    for function in (start, cancel_itself):
        await ended(task.call(function))
        await asyncio.sleep(0.05)
        sheltered = task.call(wait, sheltered=True)
        await ended(sheltered)
        assert sheltered.error is None
    await task.end()


async def test_a_call_apart_has_a_copy_of_the_variables(task: AgentTask):
    variable, seen = ContextVar("variable", default=""), []

    async def set_to(value: str) -> None:
        seen.append(variable.get())
        variable.set(value)

    await ended(task.call(lambda: set_to("start")))
    await ended(task.call_apart(lambda: set_to("check")))
    await ended(task.call(lambda: set_to("run")))
    assert seen == ["", "start", "start"]
    await task.end()


async def test_a_call_that_is_cancelled_before_it_began_has_ended(task: AgentTask):
    called = []

    async def note() -> None:
        called.append(1)

    for make in (task.call_apart, task.call, task.call):
        call = make(note)
        call.cancel()
        await ended(call)
    assert called == []
    await task.end()


@pytest.mark.parametrize("make", [AgentTask.call, AgentTask.call_apart])
async def test_a_call_whose_task_its_agent_cancels_before_it_began_has_ended(task: AgentTask, make):
    """Such as by a task that `__init__` created and that cancels all it finds."""
    called = []

    async def note() -> None:
        called.append(1)

    call = make(task, note)
    assert call.task is not None
    task.variables.run(call.task.cancel)
    await ended(call)
    assert called == []
    await ended(task.call(note))
    assert called == [1]
    await task.end()
