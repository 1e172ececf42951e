"""Converts events of older versions to the current version before they are decoded.

An event stays in the log as it was written. When the meaning of a type changes, its `version` is
raised and a function is added here that converts a raw body to the next version; these functions
are applied one after the other. A field that is only added has a default and needs neither.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from eventstore.errors import UnknownEvent

RawBody: TypeAlias = dict[str, Any]
Upcaster: TypeAlias = Callable[[RawBody], RawBody]


def _agent_lost_v1_to_v2(body: RawBody) -> RawBody:
    """Version 1 had no isolated agents: a loss was no agent's failure."""
    return {**body, "alone": False, "window_ms": 0, "due_ms": 0}


def _agent_lost_v2_to_v3(body: RawBody) -> RawBody:
    """Version 2 had no back-off after a loss that was no agent's failure."""
    return {**body, "failures": 0, "losses": 0}


UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {
    ("agent.lost", 1): _agent_lost_v1_to_v2,
    ("agent.lost", 2): _agent_lost_v2_to_v3,
}
"""By type and the version that they convert from."""


def upcast(kind: str, version: int, target: int, data: bytes | str) -> bytes:
    """Convert a body of `version` to JSON of the version `target`.

    Raises `UnknownEvent` if a conversion is missing, and `msgspec.DecodeError`.
    """
    body = msgspec.json.decode(data, type=RawBody)
    for step in range(version, target):
        upcaster = UPCASTERS.get((kind, step))
        if upcaster is None:
            raise UnknownEvent(kind, step, target, f"no conversion to version {step + 1}")
        body = upcaster(body)
    return msgspec.json.encode(body)
