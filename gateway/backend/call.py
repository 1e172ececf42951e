"""One request on its way through the gateway: what is known of it and of its answer."""

from collections.abc import Mapping

from aiohttp import web
from msgspec import Struct, field

from eventstore.language.durability import Level
from eventstore.steps.step import Origin
from gateway.backend.backend import Backend
from gateway.backend.read_state import ReadState
from gateway.wire.decoding import Sent, WaitPreference


class Asked(Struct, frozen=True):
    """What the headers of a command ask for."""

    level: Level
    preference: WaitPreference


class Call(Struct, eq=False):
    """Handlers get it, with what was read of the request."""

    request: web.Request
    backend: Backend
    origin: Origin
    """What is recorded of it."""
    read_state: ReadState = field(default_factory=ReadState)
    asked: Asked | None = None
    """Known from an equal head, or once the handler has read it."""
    sent: Sent | None = None
    """The body, as far as there is one."""
    parts: Mapping[str, str] = {}
    """Those of its path that are read, by name."""
    route: str = ""
    """The path of the operation that it was routed to."""
    started: web.StreamResponse | None = None
    """The answer whose head was sent."""
