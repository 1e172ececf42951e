"""The judge and a pool's log: each kind of violation, planted, is found and named by its event."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec.structs import replace as altered

from eventstore.language import workers
from eventstore.language.agent_commands import (
    End,
    Release,
    RequestRestart,
    Restart,
    Started,
    Withdraw,
)
from eventstore.language.agents import Status, Stop
from eventstore.language.workers import WorkerStatus
from tests.chaos.judge import Evidence, weigh
from tests.chaos.judging import pools
from tests.chaos.stories import Story
from tests.unit.chaos.judged_story import only, place, plant, sample_story


def test_a_valid_story_has_no_offence() -> None:
    assert weigh(sample_story().evidence()) == []


def test_an_offence_names_the_event_and_why() -> None:
    story = sample_story()
    at = place(story, "agent.started", "moved", 1)
    found = only(weigh(plant(story, at, epoch=1)), "epoch 1")
    event = story.entries[at]
    assert (found.pool, found.seq, found.type, found.subject, found.invariant) == (
        ("p", event.seq, "agent.started", "moved", 4)
    )
    assert "epoch 1, but its worker's is 2" in str(found)


# ---- what a log may not contain ----------------------------------------------------------------


def over_capacity(story: Story) -> None:
    story.workers["w2"] = altered(story.workers["w2"], max_agents=9)
    for _ in range(2):
        story.claim(story.spawn(), "w2")


def claimed_twice(story: Story) -> None:
    agent = story.agents["moved"]
    story.agents["moved"] = altered(agent, status=Status.PENDING, worker_id="")
    story.claim("moved", "w2")


def runs_again(story: Story) -> None:
    story.agents["ended"] = altered(story.agents["ended"], status=Status.PENDING, stop=Stop.NO)
    story.claim("ended", "w2")


def runs_though_flagged(story: Story) -> None:
    story.claim("waits", "w2")
    story.terminate("waits")
    story.agents["waits"] = altered(story.agents["waits"], stop=Stop.NO)
    story.act("waits", Started(now_ms=1))


def restarted_though_flagged(story: Story) -> None:
    story.terminate("moved")
    story.agents["moved"] = altered(story.agents["moved"], stop=Stop.NO, status=Status.RUNNING)
    story.act("moved", Release(reason="drain"))


def claimed_by_a_lost_worker(story: Story) -> None:
    story.workers["w1"] = altered(story.workers["w1"], status=WorkerStatus.ACTIVE, epoch=1)
    story.claim("waits", "w1")


def written_by_a_fenced_worker(story: Story) -> None:
    at = len(story.entries)
    story.reap("w2")
    fenced = story.entries[place(story, "worker.lost", "w2")]
    release = story.entries[place(story, "agent.started", "moved", 1)]
    del story.entries[at:]
    late = replace(release, seq=at + 2, type="agent.released", event_id="late", ts=fenced.ts + 1)
    late = replace(late, stream_id=f"{late.ts}-0", data='{"reason":"drain","next_incarnation":3}')
    story.entries += [fenced, late]


def claimed_by_a_draining_worker(story: Story) -> None:
    story.worker("w2", workers.Drain(reason="empty"))
    story.workers["w2"] = altered(story.workers["w2"], status=WorkerStatus.ACTIVE)
    story.claim("waits", "w2")


def stopped_with_agents(story: Story) -> None:
    agent = story.agents["moved"]
    story.agents["moved"] = altered(agent, worker_id="")
    story.worker("w2", workers.StopWorker(reason="empty"))


def ended_unasked(story: Story) -> None:
    story.act("moved", End(reason="requested"))


def idle_though_it_was_never_to_be(story: Story) -> None:
    at = place(story, "agent.requested", "moved")
    asked = story.entries[at].data.replace('"max_idle_time":60.0', '"max_idle_time":null')
    story.entries[at] = replace(story.entries[at], data=asked)
    story.act("moved", Started(now_ms=1))
    story.act("moved", End(reason="idle"))


def withdrawn_before_its_time(story: Story) -> None:
    story.act("waits", Withdraw())


def withdrawn_though_it_may_wait(story: Story) -> None:
    at = place(story, "agent.requested", "waits")
    asked = story.entries[at].body | {"expires_ms": 0}
    story.entries[at] = replace(story.entries[at], data=json.dumps(asked))
    story.withdraw("waits")


def asked_for_twice(story: Story) -> None:
    first = story.entries[place(story, "agent.requested", "runs")]
    story.spawn("twin")
    story.entries[-1] = replace(story.entries[-1], data=first.data)


def half_a_step(story: Story) -> None:
    story.start(story.order("w3"))
    story.run("waits", "w3")
    story.reap("w3")
    story.entries.pop()


def skipped_an_incarnation(story: Story) -> None:
    story.act("moved", Release(reason="drain"))
    data = '{"reason":"drain","next_incarnation":4}'
    story.entries[-1] = replace(story.entries[-1], data=data)


def an_epoch_used_twice(story: Story) -> None:
    story.order("w3")
    story.epoch -= 1
    story.start("w3")


def from_another_time(story: Story) -> None:
    last = story.entries[-1]
    story.entries[-1] = replace(last, ts=5, stream_id="5-0")


def restarted_before_its_time_was_noted(story: Story) -> None:
    story.restart("runs")
    story.entries.append(
        replace(
            story.entries[place(story, "agent.restarting", "runs")],
            seq=len(story.entries) + 1,
            event_id="again",
            ts=story.entries[-1].ts + 1,
            stream_id=f"{story.entries[-1].ts + 1}-0",
        )
    )


def restarted_before_it_was_due(story: Story) -> None:
    story.fail("moved", limit=9)
    story.act("moved", Restart())


def without_a_back_off(story: Story) -> None:
    story.fail("moved", limit=9)
    rewrite(story, due_ms=story.entries[-1].body["at_ms"])


def lost_again_and_restarted_at_once(story: Story) -> None:
    """As a first loss would be."""
    moved = altered(story.agents["moved"], losses_in_row=0)
    story.agents["moved"] = moved
    story.reap("w2")
    rewrite(story, -2, losses=2)


def miscounted(story: Story) -> None:
    story.fail("moved", limit=9)
    rewrite(story, failures=3)


def unavailable_and_counted(story: Story) -> None:
    story.fail("moved", limit=9)
    rewrite(story, error={"type": "muster.Unavailable", "retry_after_ms": 5})


def rewrite(story: Story, at: int = -1, **changes: object) -> None:
    entry = story.entries[at]
    story.entries[at] = replace(entry, data=json.dumps(entry.body | changes))


def restarted_though_terminated(story: Story) -> None:
    agent = story.agents["ended"]
    story.agents["ended"] = altered(agent, status=Status.FAILED, stop=Stop.NO)
    story.act("ended", RequestRestart(reason="x"))


@pytest.mark.parametrize(
    ("invariant", "breach", "why"),
    [
        (1, over_capacity, "holds 3 of 2"),
        (2, claimed_twice, "while w2 holds it"),
        (2, asked_for_twice, "its operation asked for runs"),
        (2, ended_unasked, "which was not requested"),
        (2, idle_though_it_was_never_to_be, "was never to end so"),
        (2, withdrawn_before_its_time, "but may wait until 1000556"),
        (2, withdrawn_though_it_may_wait, "but may wait until ever"),
        (2, stopped_with_agents, "stopped with 1 agents"),
        (2, skipped_an_incarnation, "incarnation 4 follows 2"),
        (2, restarted_before_its_time_was_noted, "it was pending"),
        (3, runs_again, "after its end (terminated)"),
        (3, runs_though_flagged, "although its end was asked for"),
        (3, restarted_though_flagged, "although its end was asked for"),
        (4, claimed_by_a_lost_worker, "after a fence at 3"),
        (4, written_by_a_fenced_worker, "after a fence at 4"),
        (4, claimed_by_a_draining_worker, "claimed by a worker that is draining"),
        (4, an_epoch_used_twice, "was issued at seq"),
        (3, restarted_though_terminated, "after its end (terminated)"),
        (9, restarted_before_it_was_due, "it was to wait until"),
        (9, without_a_back_off, "its back-off is over before it began"),
        (9, lost_again_and_restarted_at_once, "no back-off after loss 2 in a row"),
        (9, miscounted, "failure 3 in a row, but it was 0 times before"),
        (9, unavailable_and_counted, "it was unavailable, which counts against nothing"),
        (5, half_a_step, "only part of a step"),
        (5, from_another_time, "is not above"),
    ],
)
def test_a_breach_in_the_log_is_found(
    invariant: int, breach: Callable[[Story], None], why: str
) -> None:
    story = sample_story()
    breach(story)
    found = [o for o in weigh(story.evidence()) if o.invariant == invariant and why in o.why]
    assert len(found) == 1, weigh(story.evidence())
    assert found[0].seq > 0


@pytest.mark.parametrize(("slots", "found"), [((3,), []), ((5, 2), []), ((2,), ["w1"])])
def test_a_worker_has_no_more_slots_than_its_pool_configures(
    slots: tuple[int, ...], found: list[str]
) -> None:
    """However many it was ordered with: it is unknown under which settings that was."""
    story = sample_story()
    evidence = story.evidence()
    some = replace(story.entries[0], pool="", subject="p", worker_id="")
    evidence.streamed[""].entries = [
        replace(some, seq=seq, type=kind, data=json.dumps({"config": {"agents_per_worker": most}}))
        for seq, (kind, most) in enumerate(
            zip(("pool.created", "pool.changed"), slots, strict=False), 1
        )
    ]
    offences = [offence for offence in weigh(evidence) if offence.invariant == 1]
    assert [offence.subject for offence in offences] == found


# ---- limits of a pool --------------------------------------------------------------------------


def configured(story: Story, *configs: dict[str, object]) -> Evidence:
    """The pool was created with the first of them, and changed to the others."""
    evidence = story.evidence()
    some = replace(story.entries[0], pool="", subject="p", worker_id="")
    evidence.streamed[""].entries = [
        replace(some, seq=seq, type=kind, data=json.dumps({"config": config}))
        for seq, (kind, config) in enumerate(
            zip(["pool.created", "pool.changed"], configs, strict=False), 1
        )
    ]
    return evidence


LIMITED: dict[str, object] = {"restart_limit": 2, "start_limit": 5}
UNLIMITED: dict[str, object] = {"start_limit": 5}


@pytest.mark.parametrize(
    ("failures", "failed", "configs", "why"),
    [
        (3, False, [LIMITED], "it is to run again after 3, where 2 are allowed"),
        (3, False, [LIMITED, UNLIMITED], ""),
        (2, True, [LIMITED], "it failed for good after 2, where 2 are allowed"),
        (3, True, [LIMITED], ""),
        (3, True, [UNLIMITED], "it failed for good after 3, where inf are allowed"),
        (90, False, [UNLIMITED], ""),
        (90, False, [{"restart_limit": 5}], ""),  # the default of an earlier version
    ],
)
def test_an_agent_fails_as_often_as_its_pool_allows(
    failures: int, failed: bool, configs: list[dict[str, object]], why: str
) -> None:
    story = sample_story()
    moved = altered(story.agents["moved"], failures_in_row=failures - 1, failures=())
    story.agents["moved"] = moved
    story.fail("moved", limit=0 if failed else 100)
    found = [o.why for o in weigh(configured(story, *configs)) if "are allowed" in o.why]
    assert [one for one in found if f" {failures}," in one] == ([why] if why else [])


@pytest.mark.parametrize(
    ("decisions", "why"),
    [
        ([(1, "a", 9), (1, "a", 9), (2, "b", 9), (0, "old", 9)], ""),
        ([(2, "a", 9), (1, "b", 9)], "decided in term 1, after one in term 2"),
        ([(2, "a", 9), (2, "b", 9)], "term 2 is of supervisor:a, not of supervisor:b"),
        ([(1, "a", 1), (1, "a", 1)], "worker 2, where 1 are the most"),
        ([(1, "a", 101)], "allows 101 workers, where 100 are the most"),
    ],
)
def test_a_pool_has_one_leader_and_no_more_workers_than_it_may(
    decisions: list[tuple[int, str, int]], why: str
) -> None:
    story = Story()
    for term, host, maximum in decisions:
        story.order(term=term, host=host, maximum=maximum)
    found = [o.why for o in weigh(configured(story, {})) if o.invariant == 9]
    assert found == ([why] if why else [])


# ---- alone -------------------------------------------------------------------------------------


def set_apart(story: Story) -> pools.Pool:
    """Its worker died a second time: from now on it runs isolated."""
    story.reap("w2")
    story.restart("moved")
    story.start(story.order("w3", slots=5))
    story.claim("moved", "w3")
    return pools.fold("p", story.entries)


def test_an_isolated_agent_has_its_worker_for_itself() -> None:
    story = sample_story()
    pool = set_apart(story)
    assert (pool.offences, pool.workers["w3"].free) == ([], 0)
    story.claim("waits", "w3")
    [found] = pools.fold("p", story.entries).offences
    assert (found.invariant, found.subject) == (1, "waits")
    assert "moved was to be alone in w3" in found.why


def test_a_worker_claims_again_once_its_agent_is_cleared() -> None:
    story = sample_story()
    pool = set_apart(story)
    claim = story.entries[-1]
    for kind in ("agent.started", "agent.cleared"):
        pool.apply(replace(claim, type=kind, seq=claim.seq + 1))
    assert (pool.offences, pool.workers["w3"].free) == ([], 4)


def test_an_agent_to_which_losses_are_attributed_fails_or_waits() -> None:
    """It was isolated when its worker died: that is a failure of its own."""
    story = sample_story()
    pool = set_apart(story)
    claim, end = story.entries[-1], story.entries[place(story, "worker.lost", "w2")]
    pool.apply(replace(end, subject="w3", worker_id="w3", epoch=9, seq=claim.seq + 1))
    data = '{"reason":"killed","at_ms":20,"alone":true,"window_ms":5,"due_ms":30}'
    pool.apply(replace(claim, type="agent.lost", version=2, epoch=9, seq=claim.seq + 2, data=data))
    agent = pool.agents["moved"]
    assert pool.offences == []
    assert (agent.status, agent.due_ms, agent.failures[-1]) == ("restarting", 30, 20)
