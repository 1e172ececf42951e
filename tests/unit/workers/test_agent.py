"""What an agent gets, how its errors are described, and how its tasks are tracked."""

import asyncio

import pytest

from eventstore.errors import ConfigurationError
from eventstore.language.agents import Agent as State
from workers.api.agent import Agent, Context, FencingToken, Spec, overrides, read_spec
from workers.api.engine import Database
from workers.output.lines import Owner
from workers.runtime.calls import (
    MESSAGE_MAX,
    TRACEBACK_MAX,
    Call,
    Stuck,
    cancel_all,
    describe,
    track_tasks,
)


def context(*, works: bool, database: Database | None = None) -> Context:
    state = State(agent_id="a", pool_name="p", role_type="r", project_id="x")
    token = FencingToken(1, 7)
    passed = database or Database("")
    return Context(state, Spec(), token, logger=None, database=passed, has_run=works)


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


# ---- faults --------------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_error_is_described_within_bounds():
    def deep(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 10_000)
        deep(depth - 1)

    with pytest.raises(ValueError, match="x") as caught:
        deep(100)
    error = describe(caught.value)
    assert (error.type, len(error.message)) == ("ValueError", MESSAGE_MAX)
    assert len(error.traceback) <= TRACEBACK_MAX


def test_an_error_that_cannot_be_printed_is_described_too():
    error = describe(Unspeakable())
    assert error.type.endswith("Unspeakable")
    assert "RuntimeError" in error.message


# ---- tasks ---------------------------------------------------------------------------------------


async def test_end_all_ends_the_remaining_tasks_of_an_agent_and_nothing_else():
    track_tasks(asyncio.get_running_loop())
    owner, left = Owner({}), []
    ours = asyncio.create_task(asyncio.Event().wait())

    async def litter() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))

    call = Call(litter, owner.context(), "litter")
    await call.task
    await cancel_all(owner, [call])
    assert left[0].cancelled()
    assert not ours.done()
    ours.cancel()


async def test_code_that_swallows_a_cancellation_is_cancelled_again():
    """One that is swallowed by mistake is not yet a stuck agent."""
    track_tasks(asyncio.get_running_loop())
    owner, swallowed = Owner({}), 0

    async def swallow() -> None:
        nonlocal swallowed
        while swallowed < 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    call = Call(swallow, owner.context(), "swallow")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cancel_all(owner, [call])
    assert (swallowed, call.error) == (1, None)


async def test_code_that_cannot_be_ended_is_stuck(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.runtime.calls.STUCK_SECONDS", 1)
    track_tasks(asyncio.get_running_loop())
    owner, free = Owner({}), asyncio.Event()

    async def deaf() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    call = Call(deaf, owner.context(), "deaf")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Stuck):
        await cancel_all(owner, [call])
    free.set()
    await call.task
