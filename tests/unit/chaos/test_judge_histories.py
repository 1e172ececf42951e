"""The judge against random histories: a valid one has no offence, a falsified one has."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eventstore.language import workers
from eventstore.language.agent_commands import Release, RequestRestart
from tests.chaos.judge import weigh
from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence
from tests.chaos.stories import Story

Move = Callable[[Story, str, str], None]
MOVES: list[Move] = [
    lambda story, agent, worker: void(story.spawn()),
    lambda story, agent, worker: void(story.order()),
    lambda story, agent, worker: story.start(worker),
    lambda story, agent, worker: story.claim(agent, worker),
    lambda story, agent, worker: story.run(agent, worker),
    lambda story, agent, worker: story.started(agent),
    lambda story, agent, worker: story.fail(agent),
    lambda story, agent, worker: story.fail(agent, limit=0),
    lambda story, agent, worker: story.restart(agent),
    lambda story, agent, worker: story.act(agent, RequestRestart(reason="repaired")),
    lambda story, agent, worker: story.act(agent, Release(reason="drain")),
    lambda story, agent, worker: story.withdraw(agent),
    lambda story, agent, worker: story.end(agent),
    lambda story, agent, worker: story.terminate(agent),
    lambda story, agent, worker: story.terminate(agent, graceful=False),
    lambda story, agent, worker: story.lose_worker(worker),
    lambda story, agent, worker: story.lose(agent),
    lambda story, agent, worker: story.reap(worker),
    lambda story, agent, worker: story.worker(worker, workers.Suspect(reason="still")),
    lambda story, agent, worker: story.worker(worker, workers.Recover()),
    lambda story, agent, worker: story.worker(worker, workers.Drain(reason="empty")),
    lambda story, agent, worker: story.worker(worker, workers.StopWorker(reason="empty")),
]
LATE_MS = 1_000_000_000
"""All that was to wait has waited by then."""


def void(_: object) -> None:
    """What a move answers does not matter."""


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """A worker and two agents at the start, then anything."""
    story = Story()
    story.start(story.order())
    story.spawn()
    story.spawn()
    for move, agent, worker in draw(
        st.lists(
            st.tuples(st.sampled_from(MOVES), st.integers(0, 4), st.integers(0, 2)), max_size=40
        )
    ):
        names, worker_ids = sorted(story.agents), sorted(story.workers)
        move(story, names[agent % len(names)], worker_ids[worker % len(worker_ids)])
    return story


@given(stories())
def test_a_valid_history_has_no_offence(story: Story) -> None:
    """Rows and hashes are made by Muster's own code, so both folds agree in every field."""
    assert weigh(story.evidence()) == []


# ---- falsified as an accident would ------------------------------------------------------------


@given(stories(), st.data())
def test_an_event_that_is_gone_is_missed(story: Story, data: st.DataObject) -> None:
    evidence = story.evidence()
    del evidence.streamed["p"].entries[chosen(story, data)]
    evidence.views = None
    assert weigh(evidence) != []


@given(stories(), st.data())
def test_a_duplicated_event_is_noticed(story: Story, data: st.DataObject) -> None:
    evidence = story.evidence()
    at = chosen(story, data)
    evidence.streamed["p"].entries.insert(at, story.entries[at])
    evidence.views = None
    assert weigh(evidence) != []


@given(stories(), st.data())
def test_events_in_another_order_are_noticed(story: Story, data: st.DataObject) -> None:
    evidence = story.evidence()
    entries, at = evidence.streamed["p"].entries, chosen(story, data)
    other = data.draw(st.integers(0, len(entries) - 1).filter(lambda i: i != at))
    entries[at], entries[other] = entries[other], entries[at]
    evidence.views = None
    assert weigh(evidence) != []


# ---- falsified with care: renumbered, stream and archive alike -- ------------------------------


def found_in(story: Story, entries: list[Entry]) -> list[Offence]:
    """With new seqs, ids and times and without causes, judged by the log and the hashes."""
    renumbered = [
        replace(
            entry,
            seq=n,
            ts=LATE_MS + n,
            stream_id=f"{LATE_MS + n}-0",
            event_id=f"e{n}",
            causation_id="",
        )
        for n, entry in enumerate(entries, 1)
    ]
    evidence = story.evidence(renumbered)
    evidence.views = None  # its times would reveal it
    return weigh(evidence)


@given(stories())
def test_renumbering_events_is_no_offence(story: Story) -> None:
    """So that what the next tests find is what they did. (A claim names its own seq.)"""
    assert found_in(story, story.entries) == []


def chosen(story: Story, data: st.DataObject, kind: str = "") -> int:
    fitting = [i for i, e in enumerate(story.entries) if e.type.startswith(kind)]
    assume(fitting)
    return data.draw(st.sampled_from(fitting))


@given(stories(), st.data())
def test_a_removed_event_of_an_agent_or_worker_is_missed(story: Story, data: st.DataObject) -> None:
    at = chosen(story, data, data.draw(st.sampled_from(["agent.", "worker."])))
    entries = story.entries[:at] + story.entries[at + 1 :]
    assert found_in(story, entries) != []


@given(stories(), st.data())
def test_an_event_that_was_repeated_is_noticed(story: Story, data: st.DataObject) -> None:
    at = chosen(story, data, data.draw(st.sampled_from(["agent.", "worker."])))
    later = data.draw(st.integers(at + 1, len(story.entries)))
    entries = [*story.entries[:later], story.entries[at], *story.entries[later:]]
    assert found_in(story, entries) != []


EITHER_WAY_ROUND = (
    {"worker.suspect", "worker.draining"},
    {"agent.started", "agent.restart_requested"},
)
"""Two parts write these without waiting for each other: both orders are true histories."""


@given(stories(), st.data())
def test_two_swapped_events_of_one_agent_are_noticed(story: Story, data: st.DataObject) -> None:
    first = chosen(story, data, data.draw(st.sampled_from(["agent.", "worker."])))
    subject = story.entries[first].subject
    later = [i for i in range(first + 1, len(story.entries)) if story.entries[i].subject == subject]
    assume(later)
    assume({story.entries[first].type, story.entries[later[0]].type} not in EITHER_WAY_ROUND)
    entries = list(story.entries)
    entries[first], entries[later[0]] = entries[later[0]], entries[first]
    assert found_in(story, entries) != []


FALSIFIED = {
    "epoch": lambda e: replace(e, epoch=e.epoch + 1),
    "no epoch": lambda e: replace(e, epoch=0 if e.epoch else 3),
    "incarnation": lambda e: replace(e, incarnation=e.incarnation + 1),
    "worker": lambda e: replace(e, worker_id="another"),
    "subject": lambda e: replace(e, subject="another"),
    "type": lambda e: replace(e, type="agent.cloned"),
    "version": lambda e: replace(e, version=9),  # of which no event is
    "time": lambda e: replace(e, ts=e.ts + 1),
    "event id": lambda e: replace(e, event_id="e1" if e.event_id != "e1" else "e2"),
}


@given(stories(), st.data(), st.sampled_from(sorted(FALSIFIED)))
@settings(max_examples=settings().max_examples * 3)
def test_a_falsified_field_is_noticed(story: Story, data: st.DataObject, name: str) -> None:
    at = chosen(story, data)
    entries = list(story.entries)
    entries[at] = FALSIFIED[name](entries[at])
    assert weigh(story.evidence(entries)) != []
