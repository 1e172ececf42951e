"""Every version of every event that was ever written can be read, as what it means today.

`tests/samples/events/<type>.v<version>.json` is the body of an event as that version wrote it,
with every field. Samples are never removed. When this fails for a change of yours: a field that is
only added gets a default and is added to the newest sample; any other change is a new version, with
a new sample and, in `eventstore/language/upcasts.py`, the step from the version before.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.errors import UnknownEvent
from eventstore.language import events, upcasts
from eventstore.language.agents import Agent, Status, evolve
from eventstore.language.events import AgentLost, Event, PoolRemoved, decode_body, encode_body
from projector.fold.heartbeats import Heartbeat, decode_heartbeat

SAMPLES = Path(__file__).parents[2] / "samples/events"
NAMES = sorted(path.name for path in SAMPLES.iterdir())
BODIES: dict[str, Any] = {**events._BODIES, Heartbeat.type: Heartbeat}
CURRENT = {kind: body.version for kind, body in BODIES.items()}


def parts(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"([a-z_.]+)\.v(\d+)\.json", name)
    assert found, name
    return found[1], int(found[2])


def read(kind: str, version: int, data: bytes) -> Any:
    return (decode_heartbeat if kind == Heartbeat.type else decode_body)(kind, version, data)


def test_there_is_a_sample_of_every_version_of_every_event_and_no_other() -> None:
    every = {(kind, v) for kind, newest in CURRENT.items() for v in range(1, newest + 1)}
    assert sorted(map(parts, NAMES)) == sorted(every)


def test_every_older_version_has_an_upcast_to_the_next() -> None:
    older = {(kind, v) for kind, newest in CURRENT.items() for v in range(1, newest)}
    assert upcasts.UPCASTERS.keys() == older


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_can_be_read(name: str) -> None:
    kind, version = parts(name)
    assert read(kind, version, (SAMPLES / name).read_bytes()).type == kind


@pytest.mark.parametrize("kind", CURRENT)
def test_todays_events_have_the_shape_of_their_version(kind: str) -> None:
    """Field by field, each with a value other than its default, in their order."""
    content = (SAMPLES / f"{kind}.v{CURRENT[kind]}.json").read_bytes()
    written = encode_body(read(kind, CURRENT[kind], content))
    assert list(_items(written)) == list(_items(content))
    fields = [field.encode_name for field in msgspec.structs.fields(BODIES[kind])]
    assert [name for name, _ in _items(content)] == fields


def _items(content: bytes) -> Any:
    return msgspec.json.decode(content, type=dict[str, Any]).items()


# ---- the way from one version to the next -----------------------------------------------------


class Painted(PoolRemoved, frozen=True):
    """What `agent.claimed` might be one day."""

    type = "agent.claimed"
    version = 3
    colour: str
    shade: int


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(events._BODIES, "agent.claimed", Painted)
    monkeypatch.setitem(events._DECODERS, "agent.claimed", msgspec.json.Decoder(Painted))


@pytest.mark.usefixtures("painted")
def test_an_old_event_goes_through_every_version_to_todays(monkeypatch: Any) -> None:
    one = lambda body: {"colour": body.get("color", "grey")}  # noqa: E731
    two = lambda body: {**body, "shade": len(body["colour"])}  # noqa: E731
    monkeypatch.setitem(upcasts.UPCASTERS, ("agent.claimed", 1), one)
    monkeypatch.setitem(upcasts.UPCASTERS, ("agent.claimed", 2), two)
    assert decode_body("agent.claimed", 1, b'{"color":"red"}') == Painted("red", 3)
    assert decode_body("agent.claimed", 2, b'{"colour":"blue"}') == Painted("blue", 4)
    assert decode_body("agent.claimed", 3, b'{"colour":"blue","shade":9}') == Painted("blue", 9)


@pytest.mark.usefixtures("painted")
def test_a_version_without_an_upcast_is_refused_by_name() -> None:
    with pytest.raises(
        UnknownEvent, match=r"'agent.claimed' version 1: no conversion to version 2"
    ):
        decode_body("agent.claimed", 1, b"{}")


def test_a_newer_version_is_refused_and_says_what_can_be_read() -> None:
    with pytest.raises(UnknownEvent, match=r"'agent.lost' version 4: .* reads up to version 3"):
        decode_body("agent.lost", 4, b"{}")


def test_a_loss_of_version_one_is_attributed_to_no_agent() -> None:
    body = decode_body("agent.lost", 1, b'{"reason":"killed","at_ms":5}')
    assert body == AgentLost(reason="killed", at_ms=5)
    agent = Agent(agent_id="a", pool_name="p", role_type="r", project_id="x", losses=(1, 4))
    after = evolve(agent, Event(body=body, event_id="e", subject="a"), "p")
    assert (after.status, after.alone, after.failures) == (Status.RESTARTING, False, ())
