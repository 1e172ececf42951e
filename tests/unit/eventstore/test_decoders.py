"""Anything in Redis is read, or refused in the documented way."""

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.errors import MusterError, UnknownEvent
from eventstore.ids import new_id
from eventstore.language.agents import Agent
from eventstore.language.events import ENTRY_FIELDS, EVENT_TYPES, decode_body, decode_entry
from eventstore.language.workers import Worker
from eventstore.log.survey import decode_worker
from eventstore.steps import hashes
from gateway.following.subscriptions import encode_event, well_formed
from gateway.following.waiters import Waiters
from muster.cli.events.lines import event_cells, recorded_event
from muster.terminal import render
from projector.fold.heartbeats import gather
from projector.intake.entries import admit, read_entry
from projector.store.rows import Position
from tests.hostile import JSON_TEXTS, LONG, NUMERALS, TEXTS, nested, thorough

NAMES = [name.encode() for name in ENTRY_FIELDS]
BYTES = st.one_of(
    st.binary(),
    TEXTS.map(lambda text: text.encode(errors="surrogatepass")),
    NUMERALS.map(str.encode),
    JSON_TEXTS,
)
ENTRY: dict[str, bytes] = {
    "type": b"agent.requested",
    "version": b"1",
    "seq": b"7",
    "event_id": new_id().encode(),
    "subject": new_id().encode(),
    "incarnation": b"1",
    "worker_id": b"",
    "epoch": b"",
    "correlation_id": b"c",
    "causation_id": b"",
    "traceparent": b"",
    "actor": b"http",
    "ts": b"1795000000000",
    "data": b'{"role_type":"developer","project_id":"p","input":{"a":1},"labels":{"a":"b"}}',
}
BEAT: dict[str, bytes] = {
    **ENTRY,
    "type": b"worker.heartbeat",
    "data": b'{"agents":{"a":"idle"},"loop_lag_ms":1.5,"agent_count":1}',
}
KINDS = st.sampled_from([*EVENT_TYPES, "agent.evaporated"]).map(str.encode)


@st.composite
def entries(draw: st.DrawFn, usual: Mapping[str, bytes] = ENTRY) -> tuple[bytes, list[bytes]]:
    """Entries with the right fields and wrong values, or with other fields altogether."""
    stream_id = draw(st.sampled_from([b"1-0", b"1795000000000-0", b"9" * 19 + b"-" + b"9" * 19]))
    if draw(st.integers(0, 9)) == 0:
        return stream_id, draw(st.lists(BYTES, max_size=30).filter(lambda f: len(f) % 2 == 0))
    changes = draw(st.dictionaries(st.sampled_from(ENTRY_FIELDS), BYTES, max_size=3))
    kind = {"type": draw(KINDS)} if draw(st.booleans()) else {}
    values = {**usual, **kind, **changes}
    return stream_id, [item for name in ENTRY_FIELDS for item in (name.encode(), values[name])]


def entry_with(**values: bytes) -> tuple[bytes, list[bytes]]:
    found = {**ENTRY, **values}
    return b"1-0", [item for name in ENTRY_FIELDS for item in (name.encode(), found[name])]


HUGE, DEEP = entry_with(seq=b"9" * LONG), entry_with(data=nested(2_000).encode())


@given(entry=entries())
@example(entry=HUGE)
@example(entry=DEEP)
@example(entry=entry_with(data=b'{"project_id":"p","role_type":"r","input":' + DEEP[1][27] + b"}"))
@example(entry=entry_with(type=b"\xff"))
@thorough
def test_an_entry_is_an_event_or_unknown(entry: tuple[bytes, list[bytes]]) -> None:
    try:
        kind, said = decode_entry(*entry).type, ""
    except UnknownEvent as error:
        kind, said = "agent.requested", str(error)
    assert kind in EVENT_TYPES
    assert len(said) < 1_000


@given(kind=st.one_of(st.sampled_from(EVENT_TYPES), TEXTS), version=st.integers(), data=JSON_TEXTS)
@thorough
def test_a_body_is_read_or_refused(kind: str, version: int, data: bytes) -> None:
    """`RecursionError`: what is nested too deep is refused as Python does."""
    with contextlib.suppress(UnknownEvent, msgspec.DecodeError, RecursionError):
        decode_body(kind, version, data)


@given(found=st.lists(entries(), max_size=3))
@example(found=[HUGE])
@example(found=[DEEP])
@thorough
def test_the_projector_decodes_every_entry(found: list[tuple[bytes, list[bytes]]]) -> None:
    """What cannot be read ends what is admitted, with a reason; its row fits into a database."""
    rows = [read_entry("p", 1, entry) for entry in found]
    for row in rows:
        for number in (row.seq, row.version, row.incarnation, row.epoch, row.ts):
            assert 0 <= number < 2**63
        row.data.encode()
    for seq in (0, 6):
        admitted = admit(Position("p", seq=seq), rows)
        assert bool(admitted.problem) is (len(admitted.events) < len(rows))
        assert len(admitted.problem) < 1_000


@given(found=st.lists(entries(BEAT), max_size=3))
@example(found=[entry_with(**{**BEAT, "ts": b"9" * LONG})])
@example(found=[entry_with(**{**BEAT, "data": nested(2_000).encode()})])
@thorough
def test_unreadable_heartbeats_are_skipped(
    found: list[tuple[bytes, list[bytes]]],
) -> None:
    for row in gather({"p": found}).workers:
        assert 0 <= row[-1] < 2**63
        assert row[2] < 2**63


@given(found=st.lists(entries(), min_size=1, max_size=3))
@example(found=[HUGE])
@example(found=[DEEP])
@thorough
def test_no_entry_stops_the_listeners_of_the_tail(
    found: list[tuple[bytes, list[bytes]]],
) -> None:
    """An unreadable entry must not hide the next from a request that waits for it."""
    waiters = Waiters(10)
    with waiters.watch(pool="p") as watch:
        good = entry_with(type=b"agent.started", data=b"{}")
        waiters.consume("p", [entry for entry in [*found, good] if well_formed(entry)])
        arrived = []
        while (event := watch.next_nowait()) is not None:
            arrived.append(event)
    assert arrived[-1].type == "agent.started"


@given(entry=entries())
@example(entry=HUGE)
@example(entry=DEEP)
@thorough
def test_an_entry_is_shown_to_clients_and_people_as_far_as_possible(
    entry: tuple[bytes, list[bytes]],
) -> None:
    if well_formed(entry):
        event = encode_event("p", entry)
        type_line, data_line = event.lines.split(b"\n")  # more would break the stream of events
        assert type_line.startswith(b"event: ")
        msgspec.json.decode(data_line.removeprefix(b"data: "), type=dict[str, msgspec.Raw])
    line = render.join(event_cells(recorded_event("p", entry), short=False))
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in line)


# ---- hashes ----------------------------------------------------------------------------------

AGENT = hashes.AGENT.to_hash(Agent(agent_id="a", pool_name="p", role_type="r", project_id="x"))
WORKER = {
    **hashes.WORKER.to_hash(Worker(worker_id="w", pool_name="p", host="h", max_agents=10)),
    "agent_count": "0",
    "renewal": "0",
    "last_heartbeat": "0",
}


def damaged(fields: dict[str, str]) -> st.SearchStrategy[dict[str, str]]:
    """A hash with values replaced, left out, or added by a newer version."""
    return st.builds(
        lambda changes, gone, more: {
            **more,
            **{n: v for n, v in fields.items() if n not in gone},
            **changes,
        },
        st.dictionaries(st.sampled_from(sorted(fields)), st.one_of(TEXTS, NUMERALS), max_size=2),
        st.sets(st.sampled_from(sorted(fields)), max_size=1),
        st.dictionaries(TEXTS, TEXTS, max_size=1),
    )


@pytest.mark.parametrize(
    ("read", "intact"),
    [(hashes.AGENT.from_hash, AGENT), (hashes.WORKER.from_hash, WORKER), (decode_worker, WORKER)],
    ids=["agent", "worker", "observed worker"],
)
@given(data=st.data())
@thorough
def test_a_hash_is_a_state_or_damaged(
    read: Any, intact: dict[str, str], data: st.DataObject
) -> None:
    with contextlib.suppress(MusterError):
        read("id", data.draw(damaged(intact)))
