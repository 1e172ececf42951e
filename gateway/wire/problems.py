"""Errors over HTTP, as RFC 9457 problems, and the one place that chooses their status.

A handler raises `Problem`, or does not catch an error of the log; `translate` turns either into the
answer. `type` is one of the names in `Kind`: a public contract, as are the fields of `Body`.
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web
from msgspec import Struct

from eventstore.errors import (
    Busy,
    Halted,
    LayoutTooNew,
    LogError,
    LogMissing,
    LogUnreachable,
    MemoryExhausted,
    NotEnoughReplicas,
    OutcomeUnknown,
    RolledBack,
    ServerUnsuitable,
    UnknownEvent,
    Unreadable,
)
from eventstore.language.events import Error
from projector.queries.views import (
    AgentRow,
    ArchiveIncomplete,
    ArchiveUnreadable,
    NotYetArchived,
    TooExpensive,
)

CONTENT_TYPE: Final = "application/problem+json"


class Kind(StrEnum):
    """What is wrong; each has one status and title in `_KINDS`."""

    INVALID_REQUEST = "invalid-request"
    MALFORMED_HTTP = "malformed-http"
    MALFORMED_JSON = "malformed-json"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not-found"
    AGENT_NOT_FOUND = "agent-not-found"
    POOL_NOT_FOUND = "pool-not-found"
    PARKED_NOT_FOUND = "parked-not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    AGENT_WITHDRAWN = "agent-withdrawn"
    POOL_CLOSED = "pool-closed"
    POOL_EXISTS = "pool-exists"
    POOL_NOT_EMPTY = "pool-not-empty"
    CANNOT_BE_READ = "cannot-be-read"
    HEAD_TOO_SLOW = "head-too-slow"
    HEAD_TOO_LARGE = "head-too-large"
    BODY_TOO_SLOW = "body-too-slow"
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    WRONG_HOST = "wrong-host"
    ROLE_NOT_FOUND = "role-not-found"
    ROLE_MISMATCH = "role-mismatch"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    DURABILITY_UNAVAILABLE = "durability-unavailable"
    BACKLOG_FULL = "backlog-full"
    TOO_MANY_STREAMS = "too-many-streams"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    AGENT_START_FAILED = "agent-start-failed"
    OUTCOME_UNKNOWN = "outcome-unknown"
    REDIS_UNREACHABLE = "redis-unreachable"
    NOT_ENOUGH_REPLICAS = "not-enough-replicas"
    REDIS_MEMORY = "redis-memory-exhausted"
    REDIS_REFUSES = "redis-refuses"
    LOG_MISSING = "log-missing"
    LOG_ROLLED_BACK = "log-rolled-back"
    COMMAND_LOST = "command-lost"
    BUSY = "busy"
    VIEWS_UNAVAILABLE = "views-unavailable"
    AS_OF_NOT_REACHED = "as-of-not-reached"
    AS_OF_TOO_COSTLY = "as-of-too-costly"
    ARCHIVE_INCOMPLETE = "archive-incomplete"
    ARCHIVE_UNREADABLE = "archive-unreadable"
    HTTP_ERROR = "http-error"
    INTERNAL = "internal-error"


_KINDS: Final[dict[Kind, tuple[int, str]]] = {
    Kind.INVALID_REQUEST: (400, "The request is not valid"),
    Kind.MALFORMED_HTTP: (400, "This is not HTTP"),
    Kind.MALFORMED_JSON: (400, "The body is not JSON"),
    Kind.UNAUTHORIZED: (401, "A valid bearer token is needed"),
    Kind.NOT_FOUND: (404, "There is nothing here"),
    Kind.AGENT_NOT_FOUND: (404, "There is no such agent"),
    Kind.POOL_NOT_FOUND: (404, "There is no such pool"),
    Kind.PARKED_NOT_FOUND: (404, "Nothing like this is parked"),
    Kind.METHOD_NOT_ALLOWED: (405, "This method does not apply here"),
    Kind.AGENT_WITHDRAWN: (409, "The agent ended before it ran"),
    Kind.POOL_CLOSED: (409, "The pool accepts no more spawns"),
    Kind.POOL_EXISTS: (409, "The pool exists already"),
    Kind.POOL_NOT_EMPTY: (409, "The pool has live agents"),
    Kind.CANNOT_BE_READ: (409, "It cannot be read, or is of a newer version"),
    Kind.HEAD_TOO_SLOW: (408, "The request did not come in time"),
    Kind.HEAD_TOO_LARGE: (431, "The address or a header is too large"),
    Kind.BODY_TOO_SLOW: (408, "The body did not come in time"),
    Kind.BODY_TOO_LARGE: (413, "The body is too large"),
    Kind.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON"),
    Kind.WRONG_HOST: (421, "This is not the host that was asked for"),
    Kind.ROLE_NOT_FOUND: (422, "There is no such role"),
    Kind.ROLE_MISMATCH: (422, "The pool is for another role"),
    Kind.IDEMPOTENCY_KEY_REUSED: (422, "The idempotency key was used for another request"),
    Kind.ARCHIVE_INCOMPLETE: (410, "What led to that point in time is no longer archived"),
    Kind.AS_OF_NOT_REACHED: (422, "That point in time has not come yet"),
    Kind.DURABILITY_UNAVAILABLE: (422, "Redis cannot give this level of durability"),
    Kind.BACKLOG_FULL: (429, "Too many spawns wait"),
    Kind.TOO_MANY_STREAMS: (429, "Too many clients follow the events"),
    Kind.TOO_MANY_CONNECTIONS: (503, "Too many clients are connected"),
    Kind.AGENT_START_FAILED: (502, "The agent could not be started"),
    Kind.OUTCOME_UNKNOWN: (503, "It is not known whether this was done"),
    Kind.REDIS_UNREACHABLE: (503, "Redis does not answer"),
    Kind.NOT_ENOUGH_REPLICAS: (503, "Too few replicas follow Redis"),
    Kind.REDIS_REFUSES: (503, "Redis refuses"),
    Kind.LOG_MISSING: (503, "The log is missing"),
    Kind.LOG_ROLLED_BACK: (503, "The log has lost writes"),
    Kind.COMMAND_LOST: (503, "The log has lost this command"),
    Kind.BUSY: (503, "Others were faster, too many times"),
    Kind.VIEWS_UNAVAILABLE: (503, "The views cannot be read"),
    Kind.AS_OF_TOO_COSTLY: (503, "It takes too long to read the past"),
    Kind.ARCHIVE_UNREADABLE: (503, "The archive cannot be read"),
    Kind.REDIS_MEMORY: (507, "Redis is at its memory limit"),
    Kind.INTERNAL: (500, "Something went wrong inside the gateway"),
}
RETRY_AFTER_SECONDS: Final[dict[Kind, int]] = {
    Kind.BACKLOG_FULL: 1,
    Kind.TOO_MANY_STREAMS: 5,
    Kind.TOO_MANY_CONNECTIONS: 5,
    Kind.OUTCOME_UNKNOWN: 1,
    Kind.REDIS_UNREACHABLE: 2,
    Kind.LOG_MISSING: 5,
    Kind.LOG_ROLLED_BACK: 5,
    Kind.NOT_ENOUGH_REPLICAS: 2,
    Kind.REDIS_MEMORY: 10,
    Kind.BUSY: 1,
    Kind.VIEWS_UNAVAILABLE: 2,
}


class FieldError(Struct, frozen=True):
    """The error of one field, parameter or header, by its name."""

    field: str
    message: str


class Body(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"kind": "type"}):
    """A problem as it is sent. Fields that do not apply are left out."""

    kind: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    agent_id: str = ""
    idempotency_key: str = ""
    """Repeat the request with this `Idempotency-Key` to learn its outcome."""
    error: Error | None = None
    agent: AgentRow | None = None


class Problem(Exception):
    """A request that ends in a problem. All arguments but `headers` appear in the body."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        field: str = "",
        status: int = 0,
        title: str = "",
        headers: Mapping[str, str] | None = None,
        agent_id: str = "",
        idempotency_key: str = "",
        error: Error | None = None,
        agent: AgentRow | None = None,
    ) -> None:
        detail, field = to_utf8(detail), to_utf8(field)
        super().__init__(detail)
        known_status, known_title = _KINDS.get(kind, (status, title))
        self.kind = kind
        self.headers = dict(headers or {})
        if kind in RETRY_AFTER_SECONDS:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS[kind]))
        self.body = Body(
            kind=kind.value,
            title=known_title,
            status=known_status,
            detail=detail,
            errors=(FieldError(field, detail),) if field else (),
            agent_id=agent_id,
            idempotency_key=idempotency_key,
            error=error,
            agent=agent,
        )

    @property
    def reason(self) -> str:
        """The reason phrase of the status."""
        return HTTPStatus(self.body.status).phrase

    def response(self) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(self.body),
            status=self.body.status,
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


def to_utf8(text: str) -> str:
    """Text that can be encoded as UTF-8: a header may have bytes that are not."""
    return text.encode("utf-8", "backslashreplace").decode()


def translate(error: Exception) -> Problem | None:
    """The problem that an error becomes; None if it is unexpected."""
    match error:
        case Problem():
            return error
        case web.HTTPException():
            return _from_http(error)
        case OutcomeUnknown():
            return Problem(Kind.OUTCOME_UNKNOWN, f"{error}; ask again to learn its outcome")
        case NotEnoughReplicas():
            return Problem(Kind.NOT_ENOUGH_REPLICAS, f"{error} Nothing was written.")
        case LogUnreachable():
            return Problem(Kind.REDIS_UNREACHABLE, f"{error}; nothing was written")
        case MemoryExhausted():
            return Problem(Kind.REDIS_MEMORY, f"{error} Terminations still work.")
        case LogMissing():
            return Problem(Kind.LOG_MISSING, f"{error}; recover it with `muster recover`")
        case RolledBack() | Halted():
            return Problem(Kind.LOG_ROLLED_BACK, f"{error}; recover it with `muster recover`")
        case NotYetArchived() | ArchiveIncomplete() | TooExpensive() | ArchiveUnreadable():
            return _history_problem(error)
        case Unreadable() | UnknownEvent() | LayoutTooNew():
            return Problem(Kind.CANNOT_BE_READ, str(error))
        case Busy():
            return Problem(Kind.BUSY, str(error))
        case LogError() | ServerUnsuitable():
            return Problem(Kind.REDIS_REFUSES, str(error))
        case _:
            return None


def _history_problem(
    error: NotYetArchived | ArchiveIncomplete | TooExpensive | ArchiveUnreadable,
) -> Problem:
    """A query of historical state that cannot be answered."""
    match error:
        case NotYetArchived():
            return Problem(Kind.AS_OF_NOT_REACHED, str(error), field="as_of")
        case ArchiveIncomplete():
            return Problem(Kind.ARCHIVE_INCOMPLETE, str(error), field="as_of")
        case TooExpensive():
            return Problem(Kind.AS_OF_TOO_COSTLY, str(error), field="as_of")
        case ArchiveUnreadable():
            return Problem(Kind.ARCHIVE_UNREADABLE, str(error))


def _from_http(error: web.HTTPException) -> Problem:
    """aiohttp's own refusals: no such path or method, a body over the limit."""
    match error:
        case web.HTTPNotFound():
            return Problem(Kind.NOT_FOUND, "no resource has this path")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            detail = f"{error.method} is not allowed here; allowed: {allowed}"
            return Problem(Kind.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return Problem(Kind.BODY_TOO_LARGE, error.text or "the body is too large", field="body")
        case _:
            return Problem(
                Kind.HTTP_ERROR,
                error.text or error.reason,
                status=error.status,
                title=error.reason,
            )
