"""The judge and what operators ask for: cordons, deadlines, replacements, pauses, caps, moves."""

import json
from dataclasses import replace
from typing import Any

import pytest

from eventstore.language import workers
from eventstore.language.agent_commands import Release
from tests.chaos.judge import Evidence, weigh
from tests.chaos.judging.commands import Command
from tests.chaos.judging.entries import Entry
from tests.chaos.judging.pauses import Pause
from tests.chaos.judging.traces import AgentTrace
from tests.chaos.stories import Story
from tests.unit.chaos.judged_story import sample_story

LEADER = "supervisor:h"


Event = tuple[str, dict[str, object]]


def declared(story: Story, *events: Event, **config: object) -> Evidence:
    """With its pool in the catalogue, created with these settings, and what came after that."""
    evidence = story.evidence()
    some = replace(story.entries[0], pool="", subject="p", worker_id="", generation=1)
    evidence.streamed[""].entries = [
        replace(some, seq=seq, type=kind, data=json.dumps(body), event_id=f"c{seq}")
        for seq, (kind, body) in enumerate([("pool.created", {"config": config}), *events], 1)
    ]
    return evidence


def broken(evidence: Evidence, *, at_rest: bool = False) -> list[str]:
    """The limits that were not kept."""
    return [o.why for o in weigh(evidence, at_rest=at_rest) if o.invariant == 9]


def change(story: Story, **changes: Any) -> Entry:
    """The last event, changed; `data`: a body."""
    if "data" in changes:
        changes["data"] = json.dumps(changes["data"])
    story.entries[-1] = replace(story.entries[-1], **changes)
    return story.entries[-1]


# ---- workers -----------------------------------------------------------------------------------


def test_a_cordoned_worker_claims_nothing() -> None:
    story = sample_story()
    story.worker("w2", workers.Cordon(reason="its memory grows"))
    assert broken(story.evidence()) == []
    story.claim("waits", "w2")
    why = "claimed by a worker that is cordoned: its memory grows"
    assert broken(story.evidence()) == [why]


def test_a_worker_that_was_uncordoned_claims() -> None:
    story = sample_story()
    story.worker("w2", workers.Cordon(reason="x"))
    story.worker("w2", workers.Uncordon(reason="x"))
    story.claim("waits", "w2")
    assert broken(story.evidence()) == []


@pytest.mark.parametrize(
    ("drain_ms", "reason", "actor", "found"),
    [
        (9_999_999, "x", LEADER, True),
        (9_999_999, "host-shutdown", LEADER, False),
        (9_999_999, "x", "http", False),  # who says so may mean at once
        (1, "x", LEADER, False),
    ],
)
def test_a_worker_with_agents_does_not_drain_before_its_deadline(
    drain_ms: int, reason: str, actor: str, found: bool
) -> None:
    story = sample_story()
    story.worker("w2", workers.Cordon(reason="x", drain_ms=drain_ms))
    story.worker("w2", workers.Drain(reason=reason))
    change(story, actor=actor)
    why = [f"drained before the deadline of its agents, {drain_ms}"]
    assert broken(story.evidence()) == (why if found else [])


def replaced(count: int) -> Story:
    """So many workers drain at the same time, to be replaced."""
    story = Story()
    for number in range(count):
        story.start(story.order(f"w{number}"))
    for number in range(count):
        story.worker(f"w{number}", workers.Drain(reason="replaced"))
        change(story, actor=LEADER)
    return story


def replacement(**changes: object) -> Event:
    body = {"reason": "x", "epoch": 9, "workers": 3, "max_unavailable": 2}
    return "pool.replacement_started", {**body, **changes}


@pytest.mark.parametrize(
    ("count", "changes", "why"),
    [
        (2, {}, []),
        (3, {}, ["3 workers are gone, where 2 are the most"]),
        (3, {"max_unavailable": 3}, []),
        (2, {"epoch": 2}, ["epoch 2 is not older than any replacement of the pool"]),
    ],
)
def test_few_workers_are_replaced_at_a_time_and_only_old_ones(
    count: int, changes: dict[str, object], why: list[str]
) -> None:
    assert broken(declared(replaced(count), replacement(**changes))) == why


def test_one_that_has_ended_makes_place_for_the_next() -> None:
    story = replaced(2)
    story.worker("w0", workers.StopWorker(reason="replaced"))
    story.start(story.order("w3"))
    story.worker("w3", workers.Drain(reason="replaced"))
    change(story, actor=LEADER)
    assert broken(declared(story, replacement())) == []


def test_no_old_worker_is_left_after_a_replacement() -> None:
    story = Story()
    story.start(story.order())
    finished: Event = ("pool.replacement_finished", {})
    why = "it was to be replaced, and lives"
    assert broken(declared(story, replacement(epoch=2), finished), at_rest=True) == [why]
    assert broken(declared(story, replacement(epoch=1), finished), at_rest=True) == []


# ---- scaling and placement ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "paused", "actor", "why"),
    [
        (0, {"paused": "x"}, LEADER, ["ordered although its pool is paused"]),
        (0, {"paused": "x"}, "test", []),
        (0, {}, LEADER, []),  # an earlier request to resume it came late
        (99, {"paused": "x"}, LEADER, []),
    ],
)
def test_no_worker_is_ordered_in_a_paused_pool(
    since: int, paused: dict[str, object], actor: str, why: list[str]
) -> None:
    story = Story()
    story.order()
    change(story, actor=actor)
    evidence = declared(story, ("pool.changed", {"config": paused}))
    evidence.pauses = [Pause("p", 1, since, 100, 1, 2, 2)]
    assert [one for one in broken(evidence) if "paused" in one] == why


def placed(story: Story, *projects: str, strategy: str = "pack") -> None:
    story.start(story.order(slots=9))
    for number, project in enumerate(projects):
        name = story.spawn(f"{project}{number}")
        change(story, data=story.entries[-1].body | {"project_id": project})
        story.claim(name, "w1")
        change(story, data={"strategy": strategy} if strategy else {})


@pytest.mark.parametrize(
    ("configs", "why"),
    [
        ([{"a": 2}], ["3 of project a, where 2 are the most"]),
        ([{"*": 2}], ["3 of project a, where 2 are the most"]),
        ([{"a": 2}, {"a": 3}], []),
        ([{"a": 2}, {}], []),
        ([{"b": 0}], []),
    ],
)
def test_caps_are_kept(configs: list[dict[str, int]], why: list[str]) -> None:
    story = Story()
    placed(story, "a", "a", "a")
    events: list[Event] = [
        ("pool.changed", {"config": {"placement": "pack", "project_caps": caps}})
        for caps in configs
    ]
    found = broken(declared(story, *events))
    assert [one for one in found if "project" in one] == why


def test_what_workers_claim_by_themselves_may_be_above_a_cap() -> None:
    story = Story()
    placed(story, "a", "a", "a", strategy="")
    assert broken(declared(story, placement="pack", project_caps={"a": 2})) == []


def test_a_slot_within_a_cap_is_free_again_once_its_agent_has_ended() -> None:
    story = Story()
    placed(story, "a", "a")
    story.terminate("a0", graceful=False)
    story.end("a0")
    story.claim(story.spawn("a2"), "w1")
    change(story, data={"strategy": "pack"})
    assert broken(declared(story, placement="pack", label_caps={"team": 2})) == []


# ---- moves and states --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ([("a", 0), ("b", 1), ("c", 60_000)], []),
        ([("a", 0), ("b", 1), ("c", 59_999)], ["more than 2 asked to move in a minute"]),
        ([("a", 0), ("a", 3_600_000)], []),
        ([("a", 0), ("a", 3_599_999)], ["asked to move more than 1 times in an hour"]),
    ],
)  # fmt: skip
def test_agents_are_asked_to_move_within_the_budget(
    asked: list[tuple[str, int]], why: list[str]
) -> None:
    story = Story()
    story.spawn()
    evidence = declared(story, moves_per_minute=2, moves_per_agent_hour=1)
    evidence.registries["p"].asked = asked
    assert broken(evidence) == why


def moved_while(**known: Any) -> list[str]:
    """What the judge says of an agent that was moved, by its own record."""
    story = Story()
    story.start(story.order())
    story.run(story.spawn("a"), "w1")
    claim = next(one for one in story.entries if one.type == "agent.claimed")
    story.act("a", Release(reason="moved"))
    evidence = story.evidence()
    trace = AgentTrace("p", "a", 1, "w1", f"1:{claim.seq}", [1.0], stopped=True, **known)
    evidence.traces = [trace]
    return [o.why for o in weigh(evidence)]


def test_an_agent_that_was_moved_was_idle() -> None:
    assert moved_while(busy=False) == []
    assert moved_while(busy=True) == ["it was moved while it was busy"]


def test_what_an_agent_has_saved_is_in_the_log() -> None:
    assert moved_while(saved=["0123456789abcdef"]) == [
        "it saved 0123456789ab…, which is not in the log"
    ]


# ---- what was answered -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "worker", "found"),
    [
        ("acknowledged", "w2", []),
        ("acknowledged", "w9", ["acknowledged cordon: not in the log, nor named as lost"]),
        ("refused", "w2", ["this cordon was refused"]),
        ("unknown", "w2", []),
    ],
)
def test_a_command_on_a_worker_is_answered_as_it_was_done(
    status: str, worker: str, found: list[str]
) -> None:
    story = sample_story()
    story.worker("w2", workers.Cordon(reason="x"))
    change(story, correlation_id="request")
    evidence = story.evidence()
    command = Command("cordon", status, "p", worker_id=worker, correlation_id="request")
    evidence.commands = [command]
    assert [o.why for o in weigh(evidence) if o.invariant == 8] == found


@pytest.mark.parametrize("own", [True, False])
def test_a_persons_cordon_lasts_below_the_deadline_of_a_replacement(own: bool) -> None:
    """`own`: whether the leader ends only its own; else it ends that of the person, too."""
    story = sample_story()
    story.worker("w2", workers.Cordon(reason="its memory grows"))
    story.worker("w2", workers.Cordon(reason="replaced", drain_ms=2**41))
    change(story, actor=LEADER)
    story.worker("w2", workers.Uncordon(reason="replacement-ended", own=own))
    change(story, actor=LEADER)
    story.worker("w2", workers.Uncordon(reason="seen"))
    why = "a leader ended the cordon of a person: its memory grows"
    assert [one for one in broken(story.evidence()) if "cordon" in one] == [why] * (not own)


def test_a_persons_cordon_takes_over_that_of_consolidation() -> None:
    story = sample_story()
    for reason in ("consolidation", "its memory grows", "again"):
        story.worker("w2", workers.Cordon(reason=reason))
    cordons = [one.body["reason"] for one in story.entries if one.type == "worker.cordoned"]
    assert cordons == ["consolidation", "its memory grows"]
    assert [o.why for o in weigh(story.evidence()) if o.invariant == 4] == []
