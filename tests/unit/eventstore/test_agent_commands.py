"""The rules of an agent: given events, when a command, then events."""

# ruff: noqa: E501  # the table reads best with one case a line

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventstore.language.agent_commands import (
    Command,
    End,
    Fail,
    MarkLost,
    Release,
    Restart,
    Spawn,
    Started,
    Terminate,
    Withdraw,
    decide,
)
from eventstore.language.agents import TERMINAL, Agent, Status, evolve
from eventstore.language.events import (
    AgentBody,
    AgentClaimed,
    AgentCrashed,
    AgentFailed,
    AgentLost,
    AgentReleased,
    AgentRequested,
    AgentRestarting,
    AgentStarted,
    AgentTerminated,
    AgentTerminationRequested,
    Error,
    Event,
)
from eventstore.language.pool_config import RestartPolicy
from eventstore.steps import hashes

BOOM = Error(type="ValueError", message="boom")
POLICY = RestartPolicy(limit=2, window_ms=60_000, backoff_min_ms=1_000, backoff_max_ms=8_000)

REQUESTED = AgentRequested(role_type="developer", project_id="p")
EXPIRING = AgentRequested(role_type="developer", project_id="p", expires_ms=1)
CLAIMED, STARTED = AgentClaimed(), AgentStarted()
RELEASED = AgentReleased(reason="drain", next_incarnation=2)
ASKED = AgentTerminationRequested(reason="requested", graceful=True)
RUNNING = (REQUESTED, CLAIMED, STARTED)


def given(*bodies: AgentBody) -> Agent | None:
    """The agent after these events."""
    agent: Agent | None = None
    for seq, body in enumerate(bodies, 1):
        agent = apply(agent, body, seq)
    return agent


def apply(agent: Agent | None, body: AgentBody, seq: int) -> Agent:
    claimed = isinstance(body, AgentClaimed)
    event = Event(
        body=body,
        event_id=str(seq),
        subject="a",
        incarnation=agent.incarnation if agent else 1,
        worker_id="w" if claimed else agent.worker_id if agent else "",
        epoch=7 if claimed else 0,
        seq=seq,
        ts=seq,
    )
    return evolve(agent, event, "pool")


def fail(during: str = "run", *, now_ms: int = 10_000, jitter: float = 0.0) -> Fail:
    return Fail(during=during, error=BOOM, now_ms=now_ms, policy=POLICY, jitter=jitter)


def crashed(at_ms: int, due_ms: int = 0) -> AgentCrashed:
    return AgentCrashed(error=BOOM, at_ms=at_ms, window_ms=POLICY.window_ms, due_ms=due_ms)


CASES: list[tuple[str, Sequence[AgentBody], Command, Sequence[AgentBody]]] = [
    ("a spawn is accepted once", (), Spawn(request=REQUESTED), (REQUESTED,)),
    ("a spawn of a known id is not repeated", (REQUESTED,), Spawn(request=REQUESTED), ()),
    ("what waits ends at once", (REQUESTED,), Terminate(), (ASKED, AgentTerminated(reason="requested"))),
    ("what waits too long is withdrawn", (EXPIRING,), Withdraw(), (AgentTerminated(reason="pending-timeout"),)),
    ("what may wait for ever is not withdrawn", (REQUESTED,), Withdraw(), ()),
    ("what was claimed is not withdrawn", (EXPIRING, CLAIMED), Withdraw(), ()),
    ("what waits again after it ran is not withdrawn", (EXPIRING, CLAIMED, STARTED, RELEASED), Withdraw(), ()),
    ("a claimed agent starts", (REQUESTED, CLAIMED), Started(), (STARTED,)),
    ("a start is settled once", RUNNING, Started(), ()),
    ("a start that crosses a termination does not run", (REQUESTED, CLAIMED, ASKED), Started(), ()),
    ("terminating what starts sets the flag only", (REQUESTED, CLAIMED), Terminate(), (ASKED,)),
    ("terminating what runs sets the flag only", RUNNING, Terminate(), (ASKED,)),
    ("terminating twice is once", (*RUNNING, ASKED), Terminate(), ()),
    ("a graceful end can be hurried", (*RUNNING, ASKED), Terminate(graceful=False), (AgentTerminationRequested(reason="requested", graceful=False),)),
    ("the flag decides how it ends", (*RUNNING, ASKED), End(reason="completed"), (AgentTerminated(reason="requested"),)),
    ("without the flag it ends as it did", RUNNING, End(reason="completed"), (AgentTerminated(reason="completed"),)),
    ("a crash is put off", RUNNING, fail(), (crashed(10_000, due_ms=11_000),)),
    ("a crash under the flag is the end", (*RUNNING, ASKED), fail(), (AgentTerminated(reason="requested", error=BOOM),)),
    ("a crash past the budget fails", (*RUNNING, crashed(1), AgentRestarting(reason="crashed", next_incarnation=2), CLAIMED, crashed(2), AgentRestarting(reason="crashed", next_incarnation=3), CLAIMED), fail(), (crashed(10_000), AgentFailed(reason="restart-budget-spent", failures=3))),
    ("old crashes are forgiven", (*RUNNING, crashed(1), AgentRestarting(reason="crashed", next_incarnation=2), CLAIMED, crashed(2), AgentRestarting(reason="crashed", next_incarnation=3), CLAIMED), fail(now_ms=70_000), (crashed(70_000, due_ms=71_000),)),
    ("what is due goes back into the queue", (*RUNNING, crashed(1)), Restart(), (AgentRestarting(reason="crashed", next_incarnation=2),)),
    ("a restart happens once", (*RUNNING, crashed(1), AgentRestarting(reason="crashed", next_incarnation=2)), Restart(), ()),
    ("what waits for its restart can be ended", (*RUNNING, crashed(1)), Terminate(), (ASKED, AgentTerminated(reason="requested"))),
    ("a released agent runs again", RUNNING, Release(reason="drain"), (AgentReleased(reason="drain", next_incarnation=2),)),
    ("a release under the flag is the end", (*RUNNING, ASKED), Release(reason="drain"), (AgentTerminated(reason="requested"),)),
    ("a lost agent runs again", RUNNING, MarkLost(worker_id="w", reason="killed", now_ms=5), (AgentLost(reason="killed", at_ms=5), AgentRestarting(reason="lost", next_incarnation=2))),
    ("what another worker holds by now is not lost", RUNNING, MarkLost(worker_id="v", reason="killed", now_ms=5), ()),
    ("a lost agent under the flag is the end", (*RUNNING, ASKED), MarkLost(worker_id="w", reason="killed", now_ms=5), (AgentTerminated(reason="requested"),)),
    ("a terminal state is never left", (REQUESTED, AgentTerminated(reason="x")), Terminate(), ()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("history", "command", "events"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_decisions(
    history: Sequence[AgentBody], command: Command, events: Sequence[AgentBody]
) -> None:
    assert decide(command, given(*history)) == tuple(events)


def test_back_off_doubles_up_to_its_limit_and_jitter_takes_off_up_to_half() -> None:
    assert [POLICY.delay_ms(n, 0.0) for n in range(1, 6)] == [1_000, 2_000, 4_000, 8_000, 8_000]
    assert POLICY.delay_ms(4, 0.5) == 6_000
    assert POLICY.delay_ms(1, 0.99) == 1_000, "never below the minimum"


class Life(RuleBasedStateMachine):
    """Any commands in any order: what was terminated never runs, and nothing is left hanging."""

    def __init__(self) -> None:
        super().__init__()
        self.agent: Agent | None = None
        self.seq = 0
        self.now_ms = 0
        self.flagged = False
        self.started_after_flag = False
        self.starts: list[int] = []

    def do(self, command: Command) -> None:
        was_ended = self.agent is not None and self.agent.ended
        bodies = decide(command, self.agent)
        assert not (was_ended and bodies), "a terminal state is never left"
        for body in bodies:
            self.record(body)

    def record(self, body: AgentBody) -> None:
        self.seq += 1
        self.agent = apply(self.agent, body, self.seq)
        if isinstance(body, AgentTerminationRequested):
            self.flagged = True
        if isinstance(body, AgentStarted):
            self.started_after_flag |= self.flagged
            self.starts.append(self.agent.incarnation)

    @rule()
    def spawn(self) -> None:
        self.do(Spawn(request=EXPIRING))

    @precondition(lambda self: self.agent is not None and self.agent.status is Status.PENDING)
    @rule()
    def claim(self) -> None:
        self.record(CLAIMED)

    @rule()
    def start(self) -> None:
        self.do(Started())

    @rule(during=st.sampled_from(["start", "run", "check"]), jitter=st.floats(0, 0.99))
    def crash(self, during: str, jitter: float) -> None:
        self.do(fail(during, now_ms=self.now_ms, jitter=jitter))

    @rule(reason=st.sampled_from(["completed", "idle"]))
    def end(self, reason: str) -> None:
        self.do(End(reason=reason))

    @rule(graceful=st.booleans())
    def terminate(self, graceful: bool) -> None:
        self.do(Terminate(graceful=graceful))

    @rule()
    def release(self) -> None:
        self.do(Release(reason="drain"))

    @rule()
    def lose(self) -> None:
        self.do(MarkLost(worker_id="w", reason="killed", now_ms=self.now_ms))

    @rule()
    def restart(self) -> None:
        self.do(Restart())

    @rule()
    def withdraw(self) -> None:
        self.do(Withdraw())

    @rule(milliseconds=st.integers(0, 100_000))
    def time_passes(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @invariant()
    def what_was_terminated_never_starts(self) -> None:
        assert not self.started_after_flag

    @invariant()
    def an_incarnation_starts_once(self) -> None:
        assert len(self.starts) == len(set(self.starts))

    @invariant()
    def a_slot_is_held_exactly_while_a_worker_is_named(self) -> None:
        if self.agent is not None:
            assert self.agent.held == bool(self.agent.worker_id)

    @invariant()
    def a_flagged_agent_is_held_or_ended(self) -> None:
        if self.agent is not None and self.agent.stop:
            assert self.agent.held or self.agent.status in TERMINAL

    @invariant()
    def the_hash_gives_back_what_decides(self) -> None:
        if self.agent is not None:
            stored = hashes.AGENT.to_hash(self.agent)
            restored = hashes.AGENT.from_hash("a", stored)
            assert hashes.AGENT.to_hash(restored) == stored
            for command in (Terminate(), Restart(), fail(now_ms=self.now_ms), Release(reason="x")):
                assert decide(command, restored) == decide(command, self.agent)


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
