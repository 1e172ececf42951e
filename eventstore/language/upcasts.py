"""Events of older versions, brought to what they mean today before they are decoded.

An event stays in the log as it was written. When the meaning of a type changes, its `version` is
raised, and here stands a function from the raw body of the version before to that of the next; they
are applied one after the other. A field that is merely added has a default and needs neither.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from eventstore.errors import UnknownEvent

RawBody: TypeAlias = dict[str, Any]
Upcaster: TypeAlias = Callable[[RawBody], RawBody]


def _agent_lost_v1_to_v2(body: RawBody) -> RawBody:
    """Version 1 knew no agents that run alone: nobody was blamed, `agent.restarting` followed."""
    return {**body, "alone": False, "window_ms": 0, "due_ms": 0}


UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {
    ("agent.lost", 1): _agent_lost_v1_to_v2,
}
"""By type and the version that they start from."""


def upcast(kind: str, version: int, target: int, data: bytes | str) -> bytes:
    """The body of a `version` as JSON of the version `wanted`.

    Raises `UnknownEvent` where a step on the way is missing, and `msgspec.DecodeError`.
    """
    body = msgspec.json.decode(data, type=RawBody)
    for step in range(version, target):
        upcaster = UPCASTERS.get((kind, step))
        if upcaster is None:
            raise UnknownEvent(kind, step, target, f"nothing leads to version {step + 1}")
        body = upcaster(body)
    return msgspec.json.encode(body)
