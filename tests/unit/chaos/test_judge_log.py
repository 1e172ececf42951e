"""The judge and a pool's log: each kind of violation, planted, is found and named by its event."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec.structs import replace as altered

from eventstore.language import workers
from eventstore.language.agent_commands import End, Release, Restart, Started, Withdraw
from eventstore.language.agents import Status, Stop
from eventstore.language.workers import WorkerStatus
from tests.chaos.judge import weigh
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
    story.act("waits", Started())


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
    story.act("moved", Started())
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
    story.reap("w2")
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
    story.act("runs", Restart())
    story.entries.append(
        replace(
            story.entries[place(story, "agent.restarting", "runs")],
            seq=len(story.entries) + 1,
            event_id="again",
            ts=story.entries[-1].ts + 1,
            stream_id=f"{story.entries[-1].ts + 1}-0",
        )
    )


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


# ---- alone -------------------------------------------------------------------------------------


def set_apart(story: Story) -> pools.Pool:
    """Its worker died a second time: from now on it runs isolated."""
    story.reap("w2")
    lost = place(story, "agent.lost", "moved", -1)
    data = '{"reason":"killed","at_ms":9,"alone":true}'
    story.entries[lost] = replace(story.entries[lost], version=2, data=data)
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
