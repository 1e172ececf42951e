"""The events of alerts, in a stream of their own: an alert was opened, an alert was closed.

They are observations of a gateway, not facts of a pool: no state is folded from them, and no log
has them. An entry has the fields of all events; its `subject` is the alert's id.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from eventstore.errors import UnknownEvent
from eventstore.language.events import ENTRY_FIELDS, Body, Count, Name, Number, require_version

CASES_MAX: Final = 3
"""So many of what an alert is about are named, the newest."""
TEXT_MAX: Final = 2_000
Text: TypeAlias = Annotated[str, Meta(max_length=TEXT_MAX)]


class Case(Struct, frozen=True, omit_defaults=True):
    """One of several that an alert is about: an agent or a worker. `since` is in ms since 1970."""

    subject: Name
    since: Number = 0
    text: Text = ""


class AlertOpened(Body, frozen=True):
    """A condition has lasted for as long as its rule says. Times are in ms since 1970."""

    type = "alert.opened"
    name: Name
    severity: Name
    subject: Name
    """The agent, worker, pool or part that it is about; the pool where it is about several."""
    message: Text
    action: Text
    runbook: Name
    opened_at: Number
    """Since when the condition has held, as far as that is known."""
    pool_name: Name = ""
    count: Count = 1
    newest: tuple[Case, ...] = ()


class AlertClosed(Body, frozen=True):
    """The condition is over. Times are in ms since 1970."""

    type = "alert.closed"
    name: Name
    severity: Name
    subject: Name
    opened_at: Number
    closed_at: Number
    pool_name: Name = ""
    count: Count = 1
    """Of how many it was at last."""


AlertBody: TypeAlias = AlertOpened | AlertClosed
BODIES: Final[dict[str, type[AlertOpened] | type[AlertClosed]]] = {
    body.type: body for body in get_args(AlertBody)
}


class AlertEvent(Struct, frozen=True):
    """An entry of the stream. `seq` counts them, `ts` is when it was written, in ms since 1970."""

    stream_id: str
    seq: int
    event_id: str
    alert_id: str
    actor: str
    ts: int
    body: AlertBody


def decode_entry(stream_id: bytes, fields: Sequence[bytes]) -> AlertEvent:
    """Raises `UnknownEvent` for what is no entry of an alert that this version can read."""
    try:
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        text = {name: values[name.encode()].decode() for name in ENTRY_FIELDS}
        body = BODIES.get(text["type"])
        require_version(text["type"], int(text["version"]), body.version if body else None)
        assert body is not None
        return AlertEvent(
            stream_id=stream_id.decode(),
            seq=int(text["seq"]),
            event_id=text["event_id"],
            alert_id=text["subject"],
            actor=text["actor"],
            ts=int(text["ts"]),
            body=msgspec.json.decode(text["data"], type=body),
        )
    except (ValueError, KeyError, msgspec.MsgspecError) as error:
        raise UnknownEvent("entry of an alert", 0, None, f"{stream_id!r}: {error}") from error
