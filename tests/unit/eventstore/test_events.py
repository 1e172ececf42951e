"""Events are unchanged by encoding into an entry and decoding from it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import UnknownEvent
from eventstore.language.events import (
    ENTRY_FIELDS,
    EVENT_TYPES,
    AgentRequested,
    decode_body,
    decode_entry,
    encode_body,
)


def test_every_type_is_named_as_the_design_names_it() -> None:
    assert sorted(EVENT_TYPES) == sorted(
        [
            "agent.requested",
            "agent.claimed",
            "agent.started",
            "agent.start_failed",
            "agent.unhealthy",
            "agent.crashed",
            "agent.lost",
            "agent.cleared",
            "agent.saved",
            "agent.state_lost",
            "agent.released",
            "agent.restarting",
            "agent.restart_requested",
            "agent.termination_requested",
            "agent.terminated",
            "agent.failed",
            "worker.requested",
            "worker.started",
            "worker.suspect",
            "worker.recovered",
            "worker.cordoned",
            "worker.uncordoned",
            "worker.draining",
            "worker.stopped",
            "worker.lost",
            "log.recovered",
            "pool.created",
            "pool.changed",
            "pool.replacement_started",
            "pool.replacement_finished",
            "pool.replacement_stopped",
            "pool.deleted",
            "pool.removed",
            "pool.archive_pruned",
            "pool.consolidation_requested",
            "pool.scaling_decided",
            "pool.shadow_decided",
            "host.joined",
            "host.cordoned",
            "host.left",
            "host.removed",
            "token.created",
            "token.rotated",
            "token.revoked",
        ]
    )


@given(
    project=st.text(min_size=1, max_size=20),
    labels=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4),
    payload=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
        lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_a_body_survives_a_round_trip(
    project: str, labels: dict[str, str], payload: object
) -> None:
    body = AgentRequested(
        role_type="developer",
        project_id=project,
        labels=labels,
        input=msgspec.Raw(msgspec.json.encode(payload)),
    )
    restored = decode_body("agent.requested", 1, encode_body(body))
    assert isinstance(restored, AgentRequested)
    assert (restored.project_id, restored.labels) == (project, labels)
    assert msgspec.json.decode(restored.input) == payload


def test_a_field_of_a_newer_version_is_ignored() -> None:
    restored = decode_body("agent.terminated", 1, b'{"reason":"idle","colour":"red"}')
    assert encode_body(restored) == b'{"reason":"idle"}'


@pytest.mark.parametrize(("kind", "version"), [("agent.dreamt", 1), ("agent.started", 2)])
def test_an_unreadable_event_is_refused_by_name(kind: str, version: int) -> None:
    with pytest.raises(UnknownEvent, match=kind):
        decode_body(kind, version, b"{}")


def test_an_entry_with_other_fields_is_refused() -> None:
    fields = [item for name in ENTRY_FIELDS for item in (name.encode(), b"1")]
    with pytest.raises(UnknownEvent):
        decode_entry(b"1-0", fields[:-2])
