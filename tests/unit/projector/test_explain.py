"""What is said of events: a sentence for each type, and why something waited, moved or ended."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from eventstore.language import events
from eventstore.language.catalogue import Catalogue, evolve
from eventstore.language.events import EVENT_TYPES, Error, Event, decode_body
from projector.explain.explain import IN_CATALOGUE, SENTENCES, explain
from projector.explain.story import Story, span, without_repeated_saves
from projector.store.explanations import Line

SAMPLES = Path(__file__).parents[2] / "samples/events"
POOL = "night"
WORKER = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
BOOM = Error(type="ValueError", message="boom")


class Log:
    """Events of an agent, a worker and a pool as a log has them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ts = 1_000

    def add(
        self, body: events.AnyBody, subject: str = "agent", *, after_ms: int = 10, **fields: Any
    ) -> Event:
        """The cause is the subject's last event unless it is named."""
        self.ts += after_ms
        last = [event.event_id for event in self.events if event.subject == subject]
        fields = {"causation_id": last[-1] if last else "", **fields}
        event = Event(body, f"e{len(self.events)}", subject, **fields)
        event = msgspec.structs.replace(event, seq=len(self.events) + 1, ts=self.ts)
        self.events.append(event)
        return event

    def order(self, decision: Event, **fields: Any) -> None:
        order = events.WorkerRequested("h1", 10, 9_999, "pending-spawns")
        self.add(order, WORKER, worker_id=WORKER, causation_id=decision.event_id, **fields)

    def start(self, **fields: Any) -> None:
        self.add(events.WorkerStarted("h1", 7, 1, 10), WORKER, worker_id=WORKER, **fields)

    def lines(self, subject: str = "agent") -> list[Line]:
        own = [event for event in self.events if event.subject == subject]
        others = [event for event in self.events if event.subject != subject]
        return list(explain(Story(pool=POOL, first=(), last=own, others=others)))

    def texts(self, subject: str = "agent") -> list[str]:
        return [line.text for line in self.lines(subject)]


def requested(log: Log) -> None:
    body = events.AgentRequested(role_type="developer", project_id="demo")
    log.add(body, actor="http", incarnation=1)


def decided(log: Log, current: int, desired: int, **fields: Any) -> Event:
    named: dict[str, Any] = {
        "reason": "pending-spawns",
        "pending": 3,
        "restarting": 0,
        "running": 10,
        "free": 0,
    }
    named |= {"ordered": 0, "maximum": 2, "wanted": 2, "current": current, "desired": desired}
    after_ms = fields.pop("after_ms", 10)
    body = events.PoolScalingDecided(**named | fields)
    return log.add(body, POOL, causation_id="", after_ms=after_ms)


def test_every_type_of_event_has_a_sentence():
    assert {body.type for body in SENTENCES} == set(EVENT_TYPES)


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.iterdir()))
def test_every_sample_of_an_event_is_explained(name: str):
    kind, version = name.removesuffix(".json").rsplit(".v", 1)
    if kind == "worker.heartbeat":  # not of the log
        return
    body = decode_body(kind, int(version), (SAMPLES / name).read_bytes())
    event = Event(body, "e", "s", worker_id=WORKER, causation_id="unknown", seq=1, ts=1)
    [line] = explain(Story(pool=POOL, first=(), last=[event]))
    assert (line.type, line.cause and line.cause.event) == (kind, "unknown")
    assert line.text[0].isupper()
    assert line.text == line.text.strip()
    assert ": ;" not in line.text


@pytest.mark.parametrize("body", get_args(events.PoolBody), ids=lambda body: body.type)
def test_it_is_known_which_events_of_a_pool_are_in_the_catalogue(body: Any):
    """The catalogue raises `TypeError` for other events, `KeyError` for a pool that it lacks."""
    content = (SAMPLES / f"{body.type}.v{body.version}.json").read_bytes()
    event = Event(decode_body(body.type, body.version, content), "e", "s", seq=1, ts=1)
    try:
        evolve(Catalogue(), event)
    except TypeError:
        of_catalogue = False
    except KeyError:
        of_catalogue = True
    else:
        of_catalogue = body is not events.LogRecovered  # of any log
    assert of_catalogue == (body in IN_CATALOGUE)


def test_who_asked_for_an_agent_is_said():
    log = Log()
    requested(log)
    assert log.texts() == ["Requested over HTTP for project demo, role developer"]


def test_a_wait_for_the_launch_of_a_worker_names_the_decision_and_the_time_it_took():
    log = Log()
    requested(log)
    log.order(decided(log, 1, 2, after_ms=90))
    log.start(after_ms=1_900)
    log.add(events.AgentClaimed(), after_ms=50, worker_id=WORKER)
    assert log.texts()[1] == (
        "Claimed by worker …9a1c2d3e on host h1 after 2.0 s: no slot was free; this worker was"
        " ordered after 100 ms (decision night:2), and it started within 1.9 s"
    )


def test_what_delayed_the_order_of_a_worker_is_named():
    log = Log()
    requested(log)
    decided(log, 1, 1, limit="paused")
    log.order(decided(log, 1, 2, after_ms=4_000))
    log.start()
    log.add(events.AgentClaimed(), worker_id=WORKER)
    assert "(decision night:3), as before the pool's scaling was paused, and" in log.texts()[1]


def test_a_wait_at_the_maximum_names_the_limit():
    log = Log()
    log.order(decided(log, 1, 2))
    log.start()
    decided(log, 2, 2, wanted=4, limit="max_workers")
    requested(log)
    log.add(events.AgentClaimed(), after_ms=60_000, worker_id=WORKER)
    assert log.texts()[1].endswith(
        "after 60.0 s: no slot was free, and the pool may have 2 workers at most (max_workers)"
    )


def test_a_placer_names_its_strategy_and_the_cap_that_held_the_agent_back():
    log = Log()
    log.order(decided(log, 1, 2))
    log.start()
    requested(log)
    placed = events.AgentClaimed(strategy="pack", rooms=3, cap="project-cap")
    log.add(placed, after_ms=60_000, worker_id=WORKER)
    assert log.texts()[1] == (
        "Placed with worker …9a1c2d3e on host h1 (`pack`, of 3 workers with free slots) after"
        " 60.0 s: a project-cap held it back"
    )


def test_a_limit_on_the_way_down_is_no_reason_to_wait():
    log = Log()
    log.order(decided(log, 1, 2))
    log.start()
    decided(log, 2, 2, wanted=1, limit="down.window_seconds")
    requested(log)
    log.add(events.AgentClaimed(), after_ms=900, worker_id=WORKER)
    assert log.texts()[1].endswith("after 900 ms: until a slot was free there")


def test_launches_that_could_not_run_the_role_are_named():
    log = Log()
    requested(log)
    log.add(events.WorkerStopped("import-failed: no module named acme"), "other", causation_id="")
    log.order(decided(log, 0, 1))
    log.start(after_ms=500)
    log.add(events.AgentClaimed(), worker_id=WORKER)
    assert log.texts()[1].endswith(
        "1 worker could not run its role meanwhile: import-failed: no module named acme"
    )


def test_failures_say_how_many_there_were_and_when_the_next_start_is():
    log = Log()
    requested(log)
    log.add(events.AgentClaimed(), worker_id=WORKER)
    log.add(events.AgentStarted())
    crash = events.AgentCrashed(error=BOOM, at_ms=0, window_ms=0, due_ms=log.ts + 4_010, failures=2)
    log.add(crash, worker_id=WORKER)
    log.add(events.AgentRestarting("crashed", 2), after_ms=4_000)
    assert log.texts()[3:] == [
        (
            "Its `run` failed after 10 ms (failure 2 in a row): ValueError: boom; it is to run"
            " again in 4.0 s"
        ),
        "Queued again as incarnation 2, its back-off of 4.0 s is over",
    ]


def test_the_loss_of_its_worker_is_the_cause_and_is_named():
    log = Log()
    log.order(decided(log, 0, 1))
    log.start()
    requested(log)
    log.add(events.AgentClaimed(), worker_id=WORKER)
    lost = log.add(events.WorkerLost("killed by signal 9"), WORKER, worker_id=WORKER)
    body = events.AgentLost("killed by signal 9", at_ms=log.ts)
    log.add(body, worker_id=WORKER, causation_id=lost.event_id)
    line = log.lines()[-1]
    assert line.text == "Its worker …9a1c2d3e died under it: killed by signal 9"
    assert line.cause is not None
    assert (line.cause.position, line.cause.text) == ("night:6", "Lost: killed by signal 9")


@pytest.mark.parametrize("named", [True, False], ids=["cause in the log", "older log"])
def test_a_release_says_who_drained_its_worker_and_why(named: bool):
    log = Log()
    requested(log)
    log.add(events.AgentClaimed(), worker_id=WORKER)
    drain = events.WorkerDraining("the kernel is updated")
    drained = log.add(drain, WORKER, worker_id=WORKER, actor="http")
    cause: dict[str, Any] = {"causation_id": drained.event_id} if named else {}
    log.add(events.AgentReleased("drain", 2), worker_id=WORKER, **cause)
    assert log.texts()[-1] == (
        "Released by worker …9a1c2d3e to run elsewhere: that worker was drained over HTTP: the"
        " kernel is updated"
    )


def test_of_saves_one_after_the_other_the_last_one_is_shown():
    log = Log()
    requested(log)
    for save in (1, 2, 3):
        log.add(events.AgentSaved(save, 100, "digest"))
    log.add(events.AgentCrashed(error=BOOM, at_ms=0, window_ms=0))
    log.add(events.AgentSaved(4, 1, "digest"))
    bodies = [event.body for event in without_repeated_saves(log.events)]
    assert [body.save for body in bodies if isinstance(body, events.AgentSaved)] == [3, 4]
    assert log.texts()[-1] == "Saved its state, 1 byte (save 4)"


def test_an_end_names_the_request():
    log = Log()
    requested(log)
    log.add(events.AgentTerminationRequested("requested"), actor="http", causation_id="")
    log.add(events.AgentTerminated("requested"), after_ms=200)
    assert log.texts()[1:] == [
        "Its termination was requested over HTTP",
        "Terminated: its termination was requested 200 ms before",
    ]


def test_a_decision_says_what_was_counted_which_rule_won_and_what_held_it_back():
    log = Log()
    decided(log, 1, 2, wanted=4, limit="max_workers")
    decided(log, 2, 1, reason="empty", wanted=1, running=5, pending=0, free=15)
    assert log.texts(POOL) == [
        (
            "Up from 1 to 2 workers: the load called for 4 (10 agents in slots, 3 waiting, 0 slots"
            " free); held back: the pool may have 2 workers at most (max_workers)"
        ),
        (
            "Down from 2 to 1 worker: all rules need at most 1 (5 agents in slots, 0 waiting, 15"
            " slots free)"
        ),
    ]


def test_a_decision_names_the_worker_that_was_lost_before_it():
    log = Log()
    decided(log, 1, 2)
    log.add(events.WorkerLost("killed by signal 9"), WORKER, actor="supervisor:h1")
    decided(log, 1, 2)
    assert log.texts(POOL)[1].endswith("; before, worker …9a1c2d3e was lost (killed by signal 9)")


def test_a_change_of_settings_names_them():
    log = Log()
    for config in (b'{"max_workers":2}', b'{"max_workers":4}', b'{"max_workers":4,"paused":"db"}'):
        body = events.PoolChanged if log.events else events.PoolCreated
        more = {} if log.events else {"role_type": "developer"}
        log.add(body(config=msgspec.Raw(config), **more), POOL, actor="http")
    log.add(events.PoolChanged(config=msgspec.Raw(b'{"max_workers":4}')), POOL, actor="http")
    assert log.texts(POOL) == [
        "Created over HTTP with role developer",
        "Settings changed over HTTP: max_workers 2 → 4",
        "Scaling paused over HTTP (db)",
        "Resumed over HTTP",
    ]
    assert log.lines(POOL)[0].position == ":1"


def test_a_line_that_comes_after_a_gap_does_not_name_what_was_left_out():
    log = Log()
    requested(log)
    log.add(events.AgentClaimed(), worker_id=WORKER, after_ms=5_000)
    first, last = log.events[:1], log.events[1:]
    lines = explain(Story(pool=POOL, first=first, last=last, left_out=9))
    assert [line.text for line in lines][1] == "Claimed by worker …9a1c2d3e"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (2_340, "2.3 s"),
        (200_000, "3 min 20 s"),
        (3_600_000 * 5 + 720_000, "5 h 12 min"),
        (86_400_000 * 9, "9 days"),
    ],
)
def test_a_time_span_is_written_for_people(ms: int, text: str):
    assert span(ms) == text
