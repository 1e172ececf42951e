"""Cordons of persons and of Muster: what a command leads to, and what is left when one ends."""

import pytest

from eventstore.language.events import Event, WorkerBody, WorkerCordoned, WorkerUncordoned
from eventstore.language.replacement import REPLACED
from eventstore.language.workers import (
    Cordon,
    Uncordon,
    Worker,
    WorkerCommand,
    WorkerStatus,
    decide,
    evolve,
)

ODD, DUE = Cordon(reason="odd"), Cordon(reason=REPLACED, drain_ms=9)
WAITS = Cordon(reason=REPLACED)
ENDED = Uncordon(reason="replacement-ended", own=True)
LIFTED = Uncordon(reason="t")


def after(*steps: WorkerCommand | WorkerBody) -> Worker:
    """A worker after these commands, or events of a log."""
    worker = Worker(
        worker_id="w", pool_name="p", host="h", max_agents=1, status=WorkerStatus.ACTIVE
    )
    for one in steps:
        bodies = (one,) if isinstance(one, WorkerBody) else decide(one, worker)
        for body in bodies:
            worker = evolve(worker, Event(body=body, event_id="e", subject="w", ts=1), "p")
    return worker


@pytest.mark.parametrize(
    ("commands", "cordoned", "drain_ms"),
    [
        ((ODD, DUE), REPLACED, 9),
        ((ODD, DUE, ENDED), "odd", 0),
        ((ODD, DUE, ENDED, ENDED), "odd", 0),
        ((DUE, ODD), REPLACED, 9),
        ((DUE, ODD, ENDED), "odd", 0),
        ((WAITS, ODD, DUE, ENDED), "odd", 0),
        ((ODD, WAITS), "odd", 0),
        ((ODD, WAITS, ENDED), "odd", 0),
        ((DUE, ENDED), "", 0),
        ((WAITS, DUE, ENDED), "", 0),
        ((ODD, DUE, LIFTED), "", 0),
        ((ODD, DUE, LIFTED, DUE, ENDED), "", 0),
        ((ODD, DUE, Cordon(reason="a new kernel", drain_ms=5), ENDED), "a new kernel", 5),
        ((Cordon(reason="a new kernel", drain_ms=5), DUE, ENDED), "a new kernel", 5),
    ],
)
def test_a_replacement_leaves_the_cordon_of_a_person_as_it_was(
    commands: tuple[WorkerCommand, ...], cordoned: str, drain_ms: int
) -> None:
    worker = after(*commands)
    assert (worker.cordoned, worker.drain_ms) == (cordoned, drain_ms)


def test_an_older_log_is_folded_as_it_was_decided() -> None:
    """A deadline took the place of a person's cordon, and its end was that of both."""
    older = (WorkerCordoned("odd"), WorkerCordoned(REPLACED, 9))
    assert (after(*older).cordoned, after(*older).cordon_kept) == (REPLACED, "")
    ended = after(*older, WorkerUncordoned("replacement-ended"))
    assert (ended.cordoned, ended.drain_ms) == ("", 0)


def test_a_cordon_that_is_recorded_already_is_not_again() -> None:
    assert decide(ODD, after(DUE, ODD)) == decide(DUE, after(ODD, DUE)) == ()
