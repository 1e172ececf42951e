"""The judge and all other state: views, hashes, sets, counters, keys; and what is at rest."""

from collections.abc import Callable
from typing import Any

import pytest

from eventstore.language import workers
from tests.chaos.judge import Evidence, weigh
from tests.chaos.stories import Story
from tests.unit.chaos.judged_story import numbers, only, sample_story


def _view(table: str, name: str, **changes: Any) -> Callable[[Evidence], None]:
    def falsify(evidence: Evidence) -> None:
        assert evidence.views is not None
        for row in evidence.views.views[table]:
            if name in {row.get("agent_id"), row.get("worker_id")}:
                row.update(changes)  # type: ignore[attr-defined]

    return falsify


def _forgotten(evidence: Evidence) -> None:
    evidence.registries["p"].commands.pop("waits-0")


def _twice_in_the_queue(evidence: Evidence) -> None:
    commands = evidence.registries["p"].commands
    commands["again-0"] = dict(commands["waits-0"])


def _unexpected_row(evidence: Evidence) -> None:
    assert evidence.views is not None
    rows = evidence.views.views["agents"]
    rows.append({**rows[0], "agent_id": "ghost"})


def _row_of_no_log(evidence: Evidence) -> None:
    assert evidence.views is not None
    rows = evidence.views.views["workers"]
    rows.append({**rows[0], "pool_name": "ghost"})


def _stopped_projection(evidence: Evidence) -> None:
    assert evidence.views is not None
    evidence.views.views["checkpoints"][0] |= {"status": "gap"}  # type: ignore[operator]


def _set(part: str, *keys: str, value: Any = None) -> Callable[[Evidence], None]:
    def falsify(evidence: Evidence) -> None:
        found = getattr(evidence.registries["p"], part)
        for key in keys[:-1]:
            found = found[key]
        if value is None:
            found.discard(keys[-1]) if isinstance(found, set) else found.pop(keys[-1])
        elif isinstance(found, set):
            found.add(value)
        else:
            found[keys[-1]] = value

    return falsify


@pytest.mark.parametrize(
    ("invariant", "falsify", "why"),
    [
        (6, _view("agents", "moved", status="running", incarnation=7), "incarnation is 7"),
        (6, _view("agents", "failed", last_error=""), "last_error is ''"),
        (6, _view("agents", "runs", losses=""), "losses is ''"),
        (6, _view("agents", "ended", labels="{}"), "labels is"),
        (6, _view("workers", "w2", agent_count=2), "agent_count is 2"),
        (6, _unexpected_row, "no event mentions it"),
        (6, _row_of_no_log, "in workers: rows of a pool without a log"),
        (6, _stopped_projection, "its projection stopped: gap"),
        (2, _forgotten, "pending, with 0 commands"),
        (2, _twice_in_the_queue, "pending, with 2 commands"),
        (2, _set("agent_hashes", "waits", value={}), "it is gone"),
        (2, _set("specs", "moved"), "its code gets nothing"),
        (2, _set("specs", "moved", value='{"input":{},"labels":{}}'), "its code gets {"),
        (6, _set("agent_hashes", "moved", "stop", value="now"), "stop is 'now'"),
        (6, _set("process_hashes", "w2", "agent_count", value="0"), "agent_count is '0'"),
        (6, _set("agents", "moved"), "in agents: absent"),
        (6, _set("processes", "w2", value=2), "in processes: 2"),
        (6, _set("held", "w2", "moved"), "in held:w2: absent"),
        (6, _set("meta", "free", value="3"), "meta.free is 3"),
        (6, _set("meta", "waiting", value="0"), "meta.waiting is 0"),
        (4, _set("meta", "epoch", value="2"), "meta.epoch is 2, below 3"),
        (7, _set("pending", "waits-0", value="gone"), "a worker that is no more"),
    ],
)
def test_state_that_differs_from_the_log_is_found(
    invariant: int, falsify: Callable[[Evidence], None], why: str
) -> None:
    evidence = sample_story().evidence()
    falsify(evidence)
    found = [o for o in weigh(evidence) if why in o.why]
    assert {o.invariant for o in found} == {invariant}, weigh(evidence)


def test_agents_of_a_dead_worker_that_will_not_be_reaped_are_found() -> None:
    story = sample_story()
    story.lose_worker("w2")
    evidence = story.evidence()
    assert weigh(evidence) == []
    evidence.registries["p"].lost.clear()
    assert only(weigh(evidence), "no reap of it is due").subject == "w2"


def test_a_starting_agents_command_is_pending_at_its_worker() -> None:
    story = sample_story()
    story.claim("waits", "w2")
    evidence = story.evidence()
    assert weigh(evidence) == []
    evidence.registries["p"].pending.clear()
    found = only(weigh(evidence), "no worker has its command")
    assert (found.invariant, found.subject) == (2, "waits")


@pytest.mark.parametrize(
    "key",
    [
        "stray",
        "pool:{ghost}:held:w",
        "agent:{p}:ended",
        "process:{p}:w9:x",
        "pool:{p}:spec:failed",
        "pool:{p}:inbox:w2",
        "pool:{p}:spec:unknown",
        "pool:{p}:held:unknown",
    ],
)
def test_a_key_that_would_never_expire_is_found(key: str) -> None:
    evidence = sample_story().evidence()
    evidence.registries["p"].lost.clear()
    evidence.lasting = ["agent:{p}:moved", "process:{p}:w2", "pool:{p}:meta", "muster:catalogue"]
    assert numbers(weigh(evidence)) == set()
    evidence.lasting.append("process:{p}:w1" if key.startswith("process") else key)
    assert [o.invariant for o in weigh(evidence)] == [7]


@pytest.mark.parametrize("name", ["moved", "w2"])
def test_the_hash_of_a_live_agent_must_not_expire(name: str) -> None:
    evidence = sample_story().evidence()
    evidence.registries["p"].fading = {"ended", "w1"}
    assert weigh(evidence) == []
    evidence.registries["p"].fading.add(name)
    assert only(weigh(evidence), "its hash expires").subject == name


@pytest.mark.parametrize("key", ["pool:{p}:events", "pool:{p}:due", "muster:catalogue"])
def test_a_permanent_key_must_not_expire(key: str) -> None:
    evidence = sample_story().evidence()
    evidence.fading = ["agent:{p}:ended", "pool:{p}:inbox:w2", "pool:{p}:operation:o"]
    assert weigh(evidence) == []
    evidence.fading.append(key)
    assert only(weigh(evidence), "is permanent").invariant == 7


# ---- at rest -----------------------------------------------------------------------------------


def test_a_system_of_running_agents_is_at_rest() -> None:
    story = Story()
    story.start(story.order("w1"))
    story.run(story.spawn(), "w1")
    assert weigh(story.evidence(), at_rest=True) == []


@pytest.mark.parametrize(
    ("invariant", "unrest", "why"),
    [
        (2, lambda story: story.spawn("late"), "at rest it is pending"),
        (2, lambda story: story.claim(story.spawn(), "w1"), "at rest it is starting"),
        (2, lambda story: story.terminate("a1"), "at rest it is stopping"),
        (2, lambda story: story.lose_worker("w1"), "which does not live"),
        (7, lambda story: story.reap("w1"), "it was never reaped"),
        (7, lambda story: story.worker("w1", workers.Suspect(reason="x")), "it is suspect"),
    ],
)
def test_unfinished_work_is_not_at_rest(
    invariant: int, unrest: Callable[[Story], Any], why: str
) -> None:
    story = Story()
    story.start(story.order("w1"))
    story.run(story.spawn("a1"), "w1")
    unrest(story)
    assert only(weigh(story.evidence(), at_rest=True), why).invariant == invariant


def test_a_stopped_projection_is_not_at_rest() -> None:
    story = Story()
    story.start(story.order("w1"))
    evidence = story.evidence()
    assert evidence.views is not None
    behind = Story()
    behind.order("w1")
    behind.entries = story.entries[:2]
    evidence.views = behind.evidence().views
    assert weigh(evidence) == []
    assert only(weigh(evidence, at_rest=True), "the views are at seq 2").invariant == 7
