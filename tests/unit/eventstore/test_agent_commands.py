"""The rules of an agent: given events, when a command, then events."""

# ruff: noqa: E501  # the table reads best with one case a line

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from eventstore.language.agent_commands import (
    Command,
    End,
    Fail,
    FindState,
    LoseState,
    MarkLost,
    Release,
    RequestRestart,
    Restart,
    Save,
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
    AgentRestartRequested,
    AgentSaved,
    AgentStarted,
    AgentStartFailed,
    AgentStateLost,
    AgentTerminated,
    AgentTerminationRequested,
    AgentUnhealthy,
    Error,
    Event,
)
from eventstore.language.restart_policy import RestartPolicy
from eventstore.steps import hashes

BOOM = Error(type="ValueError", message="boom")
LATER = Error(type="muster.Unavailable", message="no model", retry_after_ms=30_000)
FAILED = AgentFailed(reason="restart-budget-spent", failures=3)
POLICY = RestartPolicy(limit=2, window_ms=60_000, backoff_min_ms=1_000, backoff_max_ms=8_000)

REQUESTED = AgentRequested(role_type="developer", project_id="p")
EXPIRING = AgentRequested(role_type="developer", project_id="p", expires_ms=1)
CLAIMED, STARTED = AgentClaimed(), AgentStarted(at_ms=3)
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


def fail(
    during: str = "run",
    *,
    now_ms: int = 10_000,
    jitter: float = 0.0,
    error: Error = BOOM,
    policy: RestartPolicy = POLICY,
) -> Fail:
    return Fail(during=during, error=error, now_ms=now_ms, policy=policy, jitter=jitter)


def crashed(
    at_ms: int, due_ms: int = 0, failures: int = 0, window_ms: int = 60_000, error: Error = BOOM
) -> AgentCrashed:
    return AgentCrashed(error, at_ms, window_ms, due_ms, failures)


def start_failed(
    at_ms: int, due_ms: int, failures: int, window_ms: int = 60_000
) -> AgentStartFailed:
    return AgentStartFailed(BOOM, at_ms, window_ms, due_ms, failures)


def again(incarnation: int) -> tuple[AgentBody, ...]:
    """It is started again."""
    return AgentRestarting(reason="crashed", next_incarnation=incarnation), CLAIMED, STARTED


def lose(now_ms: int, *, only: bool = False) -> MarkLost:
    return MarkLost(worker_id="w", reason="killed", now_ms=now_ms, only=only, policy=POLICY)


def lost(
    at_ms: int, losses: int, due_ms: int = 0, window_ms: int = 0, failures: int = 0
) -> AgentLost:
    body = AgentLost(reason="killed", at_ms=at_ms, window_ms=window_ms, due_ms=due_ms)
    return replace(body, failures=failures, losses=losses)


def save(sha256: str, after: int) -> Save:
    return Save(after=after, size=3, sha256=sha256)


def saved(number: int, sha256: str) -> AgentSaved:
    return AgentSaved(save=number, size=3, sha256=sha256)


STATE_LOST = AgentStateLost(save=1, sha256="s")
CASES: list[tuple[str, Sequence[AgentBody], Command, Sequence[AgentBody]]] = [
    ("a spawn is accepted once", (), Spawn(request=REQUESTED), (REQUESTED,)),
    ("a spawn of a known id is not repeated", (REQUESTED,), Spawn(request=REQUESTED), ()),
    ("what waits ends at once", (REQUESTED,), Terminate(), (ASKED, AgentTerminated(reason="requested"))),
    ("what waits too long is withdrawn", (EXPIRING,), Withdraw(), (AgentTerminated(reason="pending-timeout"),)),
    ("what may wait for ever is not withdrawn", (REQUESTED,), Withdraw(), ()),
    ("what was claimed is not withdrawn", (EXPIRING, CLAIMED), Withdraw(), ()),
    ("what waits again after it ran is not withdrawn", (EXPIRING, CLAIMED, STARTED, RELEASED), Withdraw(), ()),
    ("a claimed agent starts", (REQUESTED, CLAIMED), Started(now_ms=3), (STARTED,)),
    ("a start is settled once", RUNNING, Started(now_ms=3), ()),
    ("a start that crosses a termination does not run", (REQUESTED, CLAIMED, ASKED), Started(now_ms=3), ()),
    ("terminating what starts sets the flag only", (REQUESTED, CLAIMED), Terminate(), (ASKED,)),
    ("terminating what runs sets the flag only", RUNNING, Terminate(), (ASKED,)),
    ("terminating twice is once", (*RUNNING, ASKED), Terminate(), ()),
    ("a graceful end can be hurried", (*RUNNING, ASKED), Terminate(graceful=False), (AgentTerminationRequested(reason="requested", graceful=False),)),
    ("the flag decides how it ends", (*RUNNING, ASKED), End(reason="completed"), (AgentTerminated(reason="requested"),)),
    ("without the flag it ends as it did", RUNNING, End(reason="completed"), (AgentTerminated(reason="completed"),)),
    ("a crash is put off", RUNNING, fail(), (crashed(10_000, 11_000, 1),)),
    ("a crash under the flag is the end", (*RUNNING, ASKED), fail(), (AgentTerminated(reason="requested", error=BOOM),)),
    ("the next crash is put off for longer", (*RUNNING, crashed(1, 2, 1), *again(2)), fail(), (crashed(10_000, 12_000, 2),)),
    ("a crash past the limit fails", (*RUNNING, crashed(1, 2, 2), *again(2)), fail(), (crashed(10_000, 0, 3), AgentFailed(reason="restart-budget-spent", failures=3))),
    ("crashes before it ran for long are forgiven", (*RUNNING, crashed(1, 2, 2), *again(2)), fail(now_ms=60_003), (crashed(60_003, 61_003, 1),)),
    ("also where it was released meanwhile", (*RUNNING, crashed(1, 2, 2), *again(2), RELEASED, CLAIMED), fail("start", now_ms=60_003), (start_failed(60_003, 61_003, 1),)),
    ("a start that hangs for long is no good run", (*RUNNING, crashed(1, 2, 2), CLAIMED), fail("start", now_ms=70_000), (start_failed(70_000, 0, 3), AgentFailed(reason="restart-budget-spent", failures=3))),
    ("without a limit it is started again for as long as it is wanted", (*RUNNING, crashed(1, 2, 90), *again(2)), fail(policy=RestartPolicy()), (crashed(10_000, 310_000, 91, 600_000),)),
    ("what was never started has a limit of its own", (REQUESTED, CLAIMED, start_failed(1, 2, 5), CLAIMED), fail("start", policy=RestartPolicy()), (start_failed(10_000, 0, 6, 600_000), AgentFailed(reason="start-budget-spent", failures=6))),
    ("which does not count once it has run", (*RUNNING, crashed(4, 5, 8), CLAIMED), fail("start", policy=RestartPolicy()), (start_failed(10_000, 266_000, 9, 600_000),)),
    ("failures that an earlier version recorded count within the window", (*RUNNING, crashed(1), *again(2), crashed(9_000), *again(3)), fail(now_ms=60_500), (crashed(60_500, 62_500, 2),)),
    ("what is not its fault waits as long as it says", RUNNING, fail(error=LATER), (crashed(10_000, 40_000, error=LATER),)),
    ("however often", (*RUNNING, crashed(1, 2, 2), *again(2), crashed(3, 4, error=LATER), *again(3)), fail(error=LATER), (crashed(10_000, 40_000, error=LATER),)),
    ("and does not touch what counts", (*RUNNING, crashed(1, 2, 1), *again(2), crashed(3, 4, error=LATER), *again(3)), fail(), (crashed(10_000, 12_000, 2),)),
    ("what is due goes back into the queue", (*RUNNING, crashed(1)), Restart(), (AgentRestarting(reason="crashed", next_incarnation=2),)),
    ("a restart happens once", (*RUNNING, crashed(1), AgentRestarting(reason="crashed", next_incarnation=2)), Restart(), ()),
    ("what waits for its restart can be ended", (*RUNNING, crashed(1)), Terminate(), (ASKED, AgentTerminated(reason="requested"))),
    ("a released agent runs again", RUNNING, Release(reason="drain"), (AgentReleased(reason="drain", next_incarnation=2),)),
    ("a release under the flag is the end", (*RUNNING, ASKED), Release(reason="drain"), (AgentTerminated(reason="requested"),)),
    ("a lost agent runs again", RUNNING, lose(5), (lost(5, 1), AgentRestarting(reason="lost", next_incarnation=2))),
    ("one that is lost again has to wait", (*RUNNING, lost(5, 1), *again(2)), lose(9), (lost(9, 2, due_ms=1_009),)),
    ("the longer, the more often", (*RUNNING, lost(5, 2), *again(2)), lose(9), (lost(9, 3, due_ms=2_009),)),
    ("but not if it ran for long in between", (*RUNNING, lost(5, 2), *again(2)), lose(60_003), (lost(60_003, 1), AgentRestarting(reason="lost", next_incarnation=3))),
    ("alone in the worker that died again, it is to blame", (*RUNNING, lost(5, 1), *again(2)), lose(9, only=True), (lost(9, 2, due_ms=1_009, window_ms=60_000, failures=1),)),
    ("which its limit counts", (*RUNNING, crashed(1, 2, 2), *again(2), lost(5, 1), *again(3)), lose(9, only=True), (lost(9, 2, window_ms=60_000, failures=3), AgentFailed(reason="restart-budget-spent", failures=3))),
    ("that all workers died is no agent's fault", (*RUNNING, lost(5, 1), *again(2)), MarkLost(worker_id="w", reason="killed", now_ms=9, blameless=True), (AgentLost(reason="killed", at_ms=9, blameless=True, losses=1), AgentRestarting(reason="lost", next_incarnation=3))),
    ("what failed is restarted on request", (*RUNNING, crashed(1, 0, 3), FAILED), RequestRestart(reason="repaired"), (AgentRestartRequested(reason="repaired", next_incarnation=2),)),
    ("what waits for its restart need not wait", (*RUNNING, crashed(1, 9, 3)), RequestRestart(reason="repaired"), (AgentRestartRequested(reason="repaired", next_incarnation=2),)),
    ("what runs is to be released", RUNNING, RequestRestart(reason="repaired"), (AgentRestartRequested(reason="repaired"),)),
    ("which is asked for once", (*RUNNING, AgentRestartRequested(reason="repaired")), RequestRestart(reason="repaired"), ()),
    ("and again of the next incarnation", (*RUNNING, AgentRestartRequested(reason="repaired"), RELEASED, CLAIMED), RequestRestart(reason="x"), (AgentRestartRequested(reason="x"),)),
    ("what waits to be claimed needs no restart", (REQUESTED,), RequestRestart(reason="repaired"), ()),
    ("what is to end is not restarted", (*RUNNING, ASKED), RequestRestart(reason="repaired"), ()),
    ("what was terminated is not restarted", (REQUESTED, AgentTerminated(reason="x")), RequestRestart(reason="x"), ()),
    ("after that its failures count from the first", (*RUNNING, crashed(1, 0, 3), FAILED, AgentRestartRequested(reason="x", next_incarnation=2), CLAIMED), fail(), (crashed(10_000, 11_000, 1),)),
    ("what another worker holds by now is not lost", RUNNING, MarkLost(worker_id="v", reason="killed", now_ms=5), ()),
    ("a lost agent under the flag is the end", (*RUNNING, ASKED), MarkLost(worker_id="w", reason="killed", now_ms=5), (AgentTerminated(reason="requested"),)),
    ("a state is saved while it is held", RUNNING, save("s", 0), (saved(1, "s"),)),
    ("and again, also if it is the same", (*RUNNING, saved(1, "s")), save("s", 1), (saved(2, "s"),)),
    ("but not twice where the reply was lost", (*RUNNING, saved(1, "s")), save("s", 0), ()),
    ("what no worker holds saves nothing", (*RUNNING, saved(1, "s"), RELEASED), save("t", 1), ()),
    ("a release saves in the same step", (*RUNNING, saved(1, "s")), Release(reason="drain", saved=save("t", 1)), (saved(2, "t"), AgentReleased(reason="drain", next_incarnation=2))),
    ("or says why it does not", RUNNING, Release(reason="drain", save_error="no"), (AgentReleased(reason="drain", next_incarnation=2, save_error="no"),)),
    ("a release under the flag saves nothing", (*RUNNING, ASKED), Release(reason="drain", saved=save("t", 0)), (AgentTerminated(reason="requested"),)),
    ("a state that was found nowhere is waited for", (REQUESTED, CLAIMED, saved(1, "s"), RELEASED, CLAIMED), LoseState(save=1, sha256="s"), (STATE_LOST,)),
    ("which happens once", (*RUNNING, STATE_LOST), LoseState(save=1, sha256="s"), ()),
    ("under the flag that is the end", (*RUNNING, ASKED), LoseState(save=1, sha256="s"), (AgentTerminated(reason="requested"),)),
    ("what waits for its state is not restarted without", (*RUNNING, STATE_LOST), RequestRestart(reason="x"), ()),
    ("unless an operator says so", (*RUNNING, STATE_LOST), RequestRestart(reason="x", discard_state=True), (AgentRestartRequested(reason="x", next_incarnation=2, discard_state=True),)),
    ("a state that was found is given back", (*RUNNING, STATE_LOST), FindState(), (AgentRestarting(reason="state-found", next_incarnation=2),)),
    ("what waits for nothing gets nothing", RUNNING, FindState(), ()),
    ("what is to restart without its state saves no more", (*RUNNING, saved(1, "s"), AgentRestartRequested(reason="x", discard_state=True)), Release(reason="x", saved=save("t", 1)), (AgentReleased(reason="x", next_incarnation=2),)),
    ("its next incarnation does", (*RUNNING, AgentRestartRequested(reason="x", discard_state=True), RELEASED, CLAIMED), save("t", 0), (saved(1, "t"),)),
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
        self.now_ms = 1_000
        self.flagged = False
        self.started_after_flag = False
        self.starts: list[int] = []
        self.troubled = False
        """It was lost, and did not run long enough since."""
        self.well_since = 0

    def do(self, command: Command) -> None:
        before = self.agent
        bodies = decide(command, before)
        if before is not None and before.status is Status.TERMINATED:
            assert not bodies, "it is never left"
        if before is not None and before.status is Status.FAILED:
            assert not bodies or isinstance(command, RequestRestart)
        for body in bodies:
            self.record(body)
        if bodies and isinstance(command, Fail | MarkLost):
            self.check_back_off(bodies[0])

    def check_back_off(self, body: AgentBody) -> None:
        """No way from ended to started without a back-off but the first loss of a worker."""
        agent = self.agent
        assert agent is not None
        first = isinstance(body, AgentLost) and body.losses == 1
        assert agent.ended or agent.due_ms > self.now_ms or first
        assert not (first and self.troubled), "it was lost before, and has not run for long"
        self.troubled = self.troubled or first

    def record(self, body: AgentBody) -> None:
        self.seq += 1
        self.agent = apply(self.agent, body, self.seq)
        if isinstance(body, AgentTerminationRequested):
            self.flagged = True
        if isinstance(body, AgentStarted):
            self.started_after_flag |= self.flagged
            self.starts.append(self.agent.incarnation)
            self.well_since = self.well_since or self.now_ms
        if isinstance(body, AgentLost | AgentCrashed | AgentStartFailed | AgentUnhealthy):
            self.well_since = 0
        if isinstance(body, AgentRestartRequested) and body.next_incarnation:
            self.troubled, self.well_since = False, 0

    @rule()
    def spawn(self) -> None:
        self.do(Spawn(request=EXPIRING))

    @precondition(
        lambda self: (
            self.agent is not None
            and self.agent.status is Status.PENDING
            and not self.agent.state_lost
        )
    )
    @rule()
    def claim(self) -> None:
        self.record(CLAIMED)

    @rule()
    def start(self) -> None:
        self.do(Started(now_ms=self.now_ms))

    @rule(during=st.sampled_from(["start", "run", "check"]), jitter=st.floats(0, 0.99))
    def crash(self, during: str, jitter: float) -> None:
        self.forgive()
        self.do(fail(during, now_ms=self.now_ms, jitter=jitter))

    def forgive(self) -> None:
        """It has run for long."""
        if self.well_since and self.now_ms - self.well_since >= POLICY.window_ms:
            self.troubled = False

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
        self.forgive()
        self.do(lose(self.now_ms))

    @rule()
    def request_restart(self) -> None:
        self.do(RequestRestart(reason="repaired"))

    @rule()
    def restart(self) -> None:
        self.do(Restart())

    @rule()
    def withdraw(self) -> None:
        self.do(Withdraw())

    @rule(sha256=st.sampled_from("st"), after=st.integers(0, 3))
    def save(self, sha256: str, after: int) -> None:
        self.do(save(sha256, after))

    @rule()
    def lose_state(self) -> None:
        if self.agent is not None and self.agent.held and self.agent.state_sha256:
            self.do(LoseState(save=self.agent.save, sha256=self.agent.state_sha256))

    @rule()
    def find_state(self) -> None:
        self.do(FindState())

    @rule()
    def discard_state(self) -> None:
        self.do(RequestRestart(reason="without", discard_state=True))

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
    def what_waits_for_its_state_is_pending_and_has_one(self) -> None:
        if self.agent is not None and self.agent.state_lost:
            assert (self.agent.status, bool(self.agent.state_sha256)) == (Status.PENDING, True)

    @invariant()
    def what_was_terminated_has_no_state(self) -> None:
        if self.agent is not None and self.agent.status is Status.TERMINATED:
            assert not self.agent.state_sha256

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


Life.TestCase.settings = settings(stateful_step_count=40)
TestLife = Life.TestCase
