"""State that moves, in `muster.testing`: the calls and their order are those of a worker."""

import asyncio

import pytest

from eventstore.language.agent_commands import RequestRestart
from muster import Agent, Context, SaveFailed
from muster.testing import TestedAgent, run, running


class Counter(Agent):
    """Counts from where it was."""

    def __init__(self) -> None:
        self.count = 0
        self.calls = ["init"]

    async def restore(self, state: bytes) -> None:
        self.count = int(state)
        self.calls.append("restore")

    async def start(self, context: Context) -> None:
        self.calls.append("start")

    async def run(self, context: Context) -> None:
        while not context.stopping.is_set():
            self.count += 1
            context.touch()
            await asyncio.sleep(0.001)
        self.calls.append("run")

    async def stop(self, context: Context) -> None:
        self.calls.append("stop")

    async def save(self) -> bytes:
        self.calls.append("save")
        return str(self.count).encode()


def counted(agent: TestedAgent) -> bool:
    return agent.touches >= 3


def released(role: type[Agent], **options: float) -> TestedAgent:
    return run(role, until=lambda agent: agent.started, release=True, **options)  # type: ignore[arg-type]


def test_what_is_released_saves_after_stop_and_is_restored_before_start() -> None:
    first = run(Counter, until=counted, release=True)
    assert first.instance.calls == ["init", "start", "run", "stop", "save"]
    assert (first.outcome, first.error) == ("released", None)
    assert first.events[-2:] == ("agent.saved", "agent.released")
    assert first.state == str(first.instance.count).encode()
    second = run(Counter, until=counted, release=True, state=first.state)
    assert second.instance.calls == ["init", "restore", "start", "run", "stop", "save"]
    assert second.instance.count >= first.instance.count + 3


def test_what_ends_saves_nothing() -> None:
    agent = run(Counter, until=counted)
    assert agent.instance.calls == ["init", "start", "run", "stop"]
    assert (agent.outcome, agent.state) == ("requested", None)


def test_an_agent_saves_whenever_it_asks_for_that() -> None:
    class Careful(Counter):
        async def run(self, context: Context) -> None:
            for self.count in (1, 2):
                await context.save()
            self.count = 3
            raise ValueError("boom")

    agent = run(Careful)
    assert (agent.outcome, agent.state) == ("crashed", b"2")
    assert agent.events.count("agent.saved") == 2


def test_saves_at_the_same_time_are_stored_in_their_order() -> None:
    class Busy(Counter):
        async def save(self) -> bytes:
            self.count += 1
            state = await super().save()
            await asyncio.sleep(0.002 if self.count == 1 else 0)
            return state

        async def run(self, context: Context) -> None:
            await asyncio.gather(*(context.save() for _ in range(3)))

    agent = run(Busy)
    assert (agent.outcome, agent.state) == ("completed", b"3")


def test_a_save_that_raises_hangs_or_is_no_state_does_not_prevent_a_release() -> None:
    class Raises(Counter):
        async def save(self) -> bytes:
            raise ValueError("boom")

    class Hangs(Counter):
        async def save(self) -> bytes:
            await asyncio.sleep(60)
            return b""

    class Long(Counter):
        async def save(self) -> bytes:
            return b"x" * (2**20 + 1)

    class NoBytes(Counter):
        async def save(self) -> bytes:
            return "text"  # type: ignore[return-value]

    for role, why in (
        (Raises, "ValueError: boom"),
        (Hangs, "save() did not return within"),
        (Long, "the state has 1048577 bytes, 1048576 is the maximum"),
        (NoBytes, "`save` of NoBytes must return bytes, not str"),
    ):
        agent = released(role, stop_grace=0.5)
        assert agent.outcome == "released"
        assert agent.state is None
        [body] = [body for body in agent._agent._log.events if body.type == "agent.released"]
        assert why in body.save_error  # type: ignore[union-attr]


def test_a_state_of_one_mebibyte_and_an_empty_one_are_stored() -> None:
    class Sized(Counter):
        size = 2**20

        async def restore(self, state: bytes) -> None:
            self.restored = len(state)

        async def save(self) -> bytes:
            return b"x" * self.size

    class Empty(Sized):
        size = 0

    for role in (Sized, Empty):
        first = released(role)
        assert first.state == b"x" * role.size
        second = run(role, until=lambda agent: agent.started, state=first.state)
        assert second.instance.restored == role.size


def test_a_class_that_cannot_restore_any_more_fails_to_start_and_says_so() -> None:
    class Forgot(Agent):
        async def run(self, context: Context) -> None:
            raise AssertionError("it must not run without its state")

    agent = run(Forgot, state=b"1")
    assert agent.outcome == "start_failed"
    assert agent.error is not None
    assert "Forgot has no `save` and `restore` any more" in agent.error.message
    assert "--discard-state" in agent.error.message


def test_a_restore_that_raises_is_a_failed_start() -> None:
    agent = run(Counter, state=b"no number")
    assert (agent.outcome, agent.error and agent.error.type) == ("start_failed", "ValueError")
    assert "start" not in agent.instance.calls


def test_a_class_with_a_method_of_that_name_only_is_left_as_it_is() -> None:
    class OwnMethod(Agent):
        async def save(self, path: str) -> bytes:  # type: ignore[override]
            raise AssertionError(path)

    agent = released(OwnMethod)
    assert (agent.outcome, agent.state) == ("released", None)
    assert "agent.saved" not in agent.events


async def test_saving_needs_both_methods() -> None:
    class Half(Agent):
        async def save(self) -> bytes:
            return b""

    async with running(Half) as agent:
        with pytest.raises(TypeError, match="Half needs both a `save` and a `restore`"):
            await agent.context.save()


async def test_what_was_discarded_is_not_saved_again() -> None:
    async with running(Counter) as agent:
        log = agent._agent._log
        await log.act(log.agent.agent_id, RequestRestart(reason="x", discard_state=True))
        with pytest.raises(SaveFailed, match="discarded"):
            await agent.context.save()
