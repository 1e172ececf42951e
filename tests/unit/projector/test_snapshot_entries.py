"""What is written of a log where it is pruned: all that later events may refer to, and no more."""

import msgspec

from eventstore.language import events
from eventstore.language.agents import Status
from projector.store import archive_starts
from projector.store.archive_starts import Entry, decode_agent, usage_entry, usage_of
from projector.store.usage_rows import NAMES, Account, Sums
from projector.verify.reference_fold import ReferenceFold
from tests import histories
from tests.histories import ERROR

POOL = "alpha"


def worker(history: histories.History, name: str, epoch: int) -> None:
    ordered = events.WorkerRequested(host="h", max_agents=3, deadline_ms=1)
    history.record(POOL, ordered, name, worker_id=name)
    started = events.WorkerStarted(host="h", pid=7, start_time=1, max_agents=3)
    history.record(POOL, started, name, worker_id=name, epoch=epoch)


def agent(history: histories.History, name: str, worker_id: str = "") -> None:
    history.record(POOL, events.AgentRequested(role_type="r", project_id="p"), name)
    if worker_id:
        history.record(POOL, events.AgentClaimed(), name, worker_id=worker_id, epoch=1)


def folded(history: histories.History) -> ReferenceFold:
    fold = ReferenceFold(POOL, 1)
    fold.apply(history.rows, last=len(history.rows))
    return fold


def names(fold: ReferenceFold, kind: str) -> set[str]:
    return {entry.name for entry in fold.entries() if entry.kind == kind}


def test_agents_that_may_have_later_events_are_written() -> None:
    history = histories.History(1)
    for name in ("waits", "failed", "gone"):
        agent(history, name)
    failed = events.AgentStartFailed(error=ERROR, at_ms=1, window_ms=1, due_ms=1)
    history.record(POOL, failed, "failed")
    history.record(POOL, events.AgentFailed(reason="limit", failures=1), "failed")
    history.record(POOL, events.AgentTerminated(reason="requested"), "gone")
    assert names(folded(history), archive_starts.AGENT) == {"waits", "failed"}


def test_workers_that_live_hold_agents_or_have_the_highest_epoch_are_written() -> None:
    """Without the highest epoch a recovery would issue some of it again."""
    history = histories.History(1)
    worker(history, "lives", 1)
    for number, name in enumerate(("gone", "holds", "highest"), 2):
        worker(history, name, number)
        if name == "holds":
            agent(history, "held", name)
        lost = events.WorkerLost(reason="killed")
        history.record(POOL, lost, name, worker_id=name, epoch=number)
    fold = folded(history)
    assert names(fold, archive_starts.WORKER) == {"lives", "holds", "highest"}
    assert names(fold, archive_starts.AGENT) == {"held"}


def test_a_fold_that_begins_with_entries_writes_the_same() -> None:
    history = histories.History(4)
    history.write(200)
    rows = [row for row in history.rows if row.pool == POOL]
    fold = ReferenceFold(POOL, 1)
    fold.apply(rows, last=len(rows))
    at = fold.position
    start = archive_starts.ArchiveStart(POOL, 1, at.seq, at.stream_id, at.ts)
    again = ReferenceFold(POOL, 1)
    again.start_from(start, fold.entries())
    assert again.entries() == fold.entries()
    assert again.position == fold.position
    assert archive_starts.checksum(start, fold.entries()) == archive_starts.checksum(
        start, reversed(fold.entries())
    )


def test_entries_of_another_version_are_read() -> None:
    """What they lack has its default; what is not known any more is left out."""
    state = '{"role_type":"r","project_id":"p","agent_id":"a","pool_name":"x","status":"running",'
    found = decode_agent(f'{state}"input":{{"n":1}},"odd":7}}')
    assert (found.status, bytes(found.input), found.labels) == (Status.RUNNING, b'{"n":1}', {})
    account, sums = Account("x", 5, "r", "p", "{}"), Sums("x", 5, 9, agents=3, slots_ms=8)
    entry = usage_entry(account, [sums])
    assert list(usage_of("x", [entry])) == [(account, [sums])]
    stored = msgspec.json.decode(entry.state)
    stored["names"], stored["rows"] = stored["names"][:4], [stored["rows"][0][:4]]
    earlier = Entry(entry.kind, entry.name, msgspec.json.encode(stored).decode())
    [(_, [found_sums])] = usage_of("x", [earlier])
    assert (found_sums.minute, found_sums.agents, found_sums.slots_ms) == (9, 3, 0)
    assert NAMES[2:6] == ("minute", "seq", "at", "agents")
