"""What the projector lets in, and what it says of heartbeats, positions and addresses."""

from typing import Any

import msgspec
import pytest

from eventstore.errors import ConfigurationError
from eventstore.language.agents import Agent
from eventstore.language.events import ENTRY_FIELDS, NAME_MAX
from eventstore.log.reader import Entry
from projector.fold.heartbeats import gather
from projector.intake.entries import admit, position_after, read_entries, read_entry
from projector.rebuild.rebuild import Progress
from projector.store.capacity import PoolCapacity
from projector.store.engines import address
from projector.store.rows import Position
from projector.verify.report import DIFFERENCES_MAX, Report


def entry(seq: object, kind: str = "agent.started", **more: object) -> Entry:
    values: dict[str, object] = {"type": kind, "version": 1, "seq": seq, "data": "{}", **more}
    fields = [str(x).encode() for n in ENTRY_FIELDS for x in (n, values.get(n, ""))]
    return f"{seq}-0".encode(), fields


def admitted(*entries: Entry, after: int = 2):
    position = Position("p", 1, after, f"{after}-0")
    rows = [read_entry("p", 1, one) for one in entries]
    return position, admit(position, rows)


def test_entries_are_decoded_alike_together_and_alone() -> None:
    """Values may have bytes that are no text, or that PostgreSQL cannot store."""
    odd = ("a\0b", "\0", "é", "")
    found = [entry(seq, subject=text, data=text) for seq, text in enumerate(odd, 3)]
    found[2] = (found[2][0], [*found[2][1][:-1], "é".encode()[:1]])
    found.append((b"7-0", [b"some", b"thing"]))
    rows = read_entries(Position("p", 1, 2), found)
    assert rows == [read_entry("p", 1, one) for one in found]
    assert [row.data for row in rows] == ["a\ufffdb", "\ufffd", "\ufffd", "", ""]
    assert rows[-1].type == "entry with other fields"


def test_an_entry_of_others_does_not_shift_what_follows() -> None:
    """Also where the fields of both together are those of two events."""
    (first, fields), (second, others) = entry(3), entry(4)
    found = [(first, [*fields, *others[:2]]), (second, others[2:])]
    rows = read_entries(Position("p", 1, 2), found)
    assert rows == [read_entry("p", 1, one) for one in found]
    assert {row.type for row in rows} == {"entry with other fields"}


class TestAdmission:
    def test_events_without_a_gap_are_all_admitted(self) -> None:
        position, found = admitted(entry(3), entry(4, ts=9))
        assert [event.seq for event in found.events] == [3, 4]
        assert found.problem == ""
        assert position_after(position, found) == Position("p", 1, 4, "4-0", 9, "ok")

    @pytest.mark.parametrize(
        ("entries", "problem"),
        [
            ([entry(3), entry(5)], "gap: seq 4 is missing before seq 5 (5-0)"),
            ([entry(3), entry(3)], "out of order: another event came at seq 3 (3-0), after seq 3"),
            ([entry(3), entry(4, "agent.abducted")], "unreadable event: seq 4 (4-0)"),
            ([entry(3), entry(4, version=7)], "unreadable event: seq 4 (4-0)"),
            ([entry(3), entry(4, data="{")], "unreadable event: seq 4 (4-0)"),
            ([entry(3), entry(4, "agent.lost")], "unreadable event: seq 4 (4-0)"),
            ([entry(3), entry("four")], "out of order: another event came at seq 0"),
        ],
    )
    def test_the_first_event_out_of_order_stops_the_batch(
        self, entries: list[Entry], problem: str
    ) -> None:
        position, found = admitted(*entries)
        assert [row.seq for row in found.rows] == [3]
        assert found.problem.startswith(problem)
        after = position_after(position, found)
        assert (after.seq, after.status) == (3, found.problem)

    def test_without_admitted_events_only_the_status_of_the_position_changes(self) -> None:
        position, found = admitted(entry(9))
        after = position_after(position, found)
        assert (after.seq, after.stream_id, after.ts) == (2, "2-0", 0)
        assert after.status == "gap: seq 3 is missing before seq 9 (9-0)"

    @pytest.mark.parametrize("fields", [[b"x", b"y"], [], [b"seq", b"3", b"type", b"\xff"]])
    def test_an_entry_of_another_kind_is_an_unknown_event(self, fields: list[bytes]) -> None:
        _, found = admitted((b"3-0", fields))
        assert found.rows == []
        assert found.problem


class TestHeartbeats:
    def beat(self, worker: str, ts: int, data: str, **more: Any) -> Entry:
        values: dict[str, Any] = {
            "kind": "worker.heartbeat",
            "subject": worker,
            "ts": ts,
            "data": data,
        }
        return entry("", **{**values, **more})

    def test_the_newest_heartbeat_of_each_worker_and_agent_counts(self) -> None:
        first = self.beat("w", 1, '{"agents":{"a":"idle"},"loop_lag_ms":1.5,"agent_count":1}')
        second = self.beat("w", 2, '{"agents":{"a":"busy"},"agent_count":1,"later":"field"}')
        found = gather({"p": [first, second]})
        [worker], [agent] = found.workers, found.agents
        assert worker == ("w", "p", 1, 0.0, 0, 2)
        assert agent == ("a", "p", "w", "busy", 2)
        assert found.positions == {"p": "-0"}

    def test_unreadable_heartbeats_are_skipped(self) -> None:
        broken = [self.beat("w", 1, "{"), self.beat("w", 1, '{"agents":{"a":"?"}}'), (b"5-0", [])]
        found = gather({"p": broken})
        assert (found.workers, found.agents, found.positions) == ([], [], {"p": "5-0"})

    def test_names_that_no_database_can_store_are_ignored(self) -> None:
        long = "x" * (NAME_MAX + 1)
        data = msgspec.json.encode({"agents": {long: "idle"}}).decode()
        found = gather({"p": [self.beat(long, 1, "{}"), self.beat("w", 1, data)]})
        assert (found.workers, found.agents, len(found.unreadable)) == ([], [], 2)

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"version": 2}, "version 2: this version of Muster reads up to version 1"),
            ({"version": 0}, "version 0: this version of Muster reads up to version 1"),
            ({"version": ""}, "version 0: this version of Muster reads up to version 1"),
            ({"kind": "worker.sigh"}, "version 1: this version of Muster does not know that type"),
        ],
    )
    def test_a_heartbeat_of_another_version_is_unreadable(
        self, more: dict[str, Any], why: str
    ) -> None:
        """What it says may mean something else by then, though it decodes."""
        newer = self.beat("w", 1, '{"agents":{"a":"idle"},"agent_count":1}', **more)
        found = gather({"p": [newer, self.beat("v", 2, "{}")]})
        assert [row[0] for row in found.workers] == ["v"]
        assert found.agents == []
        [one] = found.unreadable
        kind = more.get("kind", "worker.heartbeat")
        assert (one.worker_id, one.reason) == ("w", f"event {kind!r} {why}")


@pytest.mark.parametrize(
    ("room", "recorded", "said"),
    [
        (PoolCapacity(free_slots=1, workers=1, max_workers=1), "", "waiting to be claimed"),
        (
            PoolCapacity(free_slots=0, workers=1, max_workers=1),
            "",
            "pool is at its maximum of 1 workers",
        ),
        (
            PoolCapacity(free_slots=0, workers=4, max_workers=4, isolated_workers=2),
            "drain",
            "pool is at its maximum of 4 workers, 2 of them for one agent alone (drain)",
        ),
        (
            PoolCapacity(free_slots=0, workers=1, ordered_workers=1, max_workers=2),
            "",
            "a worker is starting",
        ),
        (PoolCapacity(free_slots=0, workers=0, max_workers=2), "", "waiting to be claimed"),
        (
            PoolCapacity(free_slots=0, ordered_workers=1, max_workers=2),
            "lost",
            "a worker is starting (lost)",
        ),
    ],
)
def test_a_pending_agent_is_shown_with_what_it_waits_for(
    room: PoolCapacity, recorded: str, said: str
) -> None:
    agent = Agent(agent_id="a", pool_name="p", role_type="r", project_id="x", reason=recorded)
    assert room.reason_of(agent) == said


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:////data/views.db", "sqlite+pysqlite"),
        ("sqlite+aiosqlite:///views.db", "sqlite+pysqlite"),
        ("postgresql://u:p@h/d", "postgresql+psycopg"),
        ("postgres://u:p@h/d", "postgresql+psycopg"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+psycopg"),
    ],
)
def test_an_address_names_its_driver(url: str, driver: str) -> None:
    assert address(url).drivername == driver


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "x"])
def test_an_address_of_no_known_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        address(url)
    assert "secret" not in str(raised.value)


def test_progress_reports_rate_and_time_left() -> None:
    assert Progress(events=50, total=150, seconds=2.0).seconds_left == 4.0
    assert Progress().seconds_left is None


def test_differences_beyond_the_bound_are_counted() -> None:
    report = Report()
    for n in range(DIFFERENCES_MAX + 5):
        report.add(("views", "p", f"agents/{n}"), "status", "running", "failed")
    assert (len(report.differences), report.omitted, report.equal) == (DIFFERENCES_MAX, 5, False)
    assert msgspec.json.encode(report)
