"""Errors over HTTP, as RFC 9457 problems, and the one place that chooses their status.

A handler raises `Problem`, or does not catch an error of the log; `translate` turns either into the
answer. `type` is one of the names in `Kind`: a public contract, as are the fields of `Body`.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Self

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from eventstore import errors
from eventstore.language.events import Error
from gateway.wire.answer import Answer
from projector.queries import views

CONTENT_TYPE: Final = "application/problem+json"
RECOVER: Final = "{}; recover it with `muster recover`"


class Kind(StrEnum):
    """What is wrong: its name, status and title, and after how many seconds to try again."""

    status: int
    heading: str
    retry_after: int

    INVALID_REQUEST = "invalid-request", 400, "The request is not valid"
    MALFORMED_HTTP = "malformed-http", 400, "This is not HTTP"
    MALFORMED_JSON = "malformed-json", 400, "The body is not JSON"
    UNAUTHORIZED = "unauthorized", 401, "A valid bearer token is needed"
    FORBIDDEN = "forbidden", 403, "The token does not allow this"
    NOT_FOUND = "not-found", 404, "There is nothing here"
    AGENT_NOT_FOUND = "agent-not-found", 404, "There is no such agent"
    POOL_NOT_FOUND = "pool-not-found", 404, "There is no such pool"
    WORKER_NOT_FOUND = "worker-not-found", 404, "There is no such worker"
    PARKED_NOT_FOUND = "parked-not-found", 404, "Nothing like this is parked"
    PROJECT_NOT_FOUND = "project-not-found", 404, "There is no such project"
    TOKEN_NOT_FOUND = "token-not-found", 404, "There is no such token"
    WEBHOOK_NOT_FOUND = "webhook-not-found", 404, "There is no such webhook"
    DEAD_LETTER_NOT_FOUND = "dead-letter-not-found", 404, "There is no such dead letter"
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "This method does not apply here"
    AGENT_WITHDRAWN = "agent-withdrawn", 409, "The agent ended before it ran"
    NOT_RESTARTABLE = "not-restartable", 409, "The agent never runs again"
    STATE_LOST = "state-lost", 409, "The state that the agent saved was lost"
    WORKER_NOT_STARTED = "worker-not-started", 409, "The worker has not started yet"
    REPLACEMENT_RUNS = "replacement-runs", 409, "The pool's workers are being replaced"
    POOL_CLOSED = "pool-closed", 409, "The pool accepts no more spawns"
    POOL_EXISTS = "pool-exists", 409, "The pool exists already"
    POOL_NOT_EMPTY = "pool-not-empty", 409, "The pool has live agents"
    TOKEN_EXISTS = "token-exists", 409, "The token exists already"
    WEBHOOK_EXISTS = "webhook-exists", 409, "The webhook exists already"
    WEBHOOK_DECLARED = "webhook-declared", 409, "The webhook is in the configuration file"
    NO_ADMIN_LEFT = "no-admin-left", 409, "Nobody could administer the tokens then"
    CANNOT_BE_READ = "cannot-be-read", 409, "It cannot be read, or is of a newer version"
    HEAD_TOO_SLOW = "head-too-slow", 408, "The request did not come in time"
    HEAD_TOO_LARGE = "head-too-large", 431, "The address or a header is too large"
    BODY_TOO_SLOW = "body-too-slow", 408, "The body did not come in time"
    BODY_TOO_LARGE = "body-too-large", 413, "The body is too large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", 415, "The body must be JSON"
    WRONG_HOST = "wrong-host", 421, "This is not the host that was asked for"
    ROLE_NOT_FOUND = "role-not-found", 422, "There is no such role"
    ROLE_MISMATCH = "role-mismatch", 422, "The pool is for another role"
    IDEMPOTENCY_KEY_REUSED = (
        "idempotency-key-reused",
        422,
        "The idempotency key was used for another request",
    )
    ARCHIVE_INCOMPLETE = "archive-incomplete", 410, "What led to that time is no longer archived"
    ARCHIVE_PRUNED = "archive-pruned", 410, "The archive was pruned up to a later event"
    AS_OF_NOT_REACHED = "as-of-not-reached", 422, "That point in time has not come yet"
    DURABILITY_UNAVAILABLE = "durability-unavailable", 422, "Redis cannot give this durability"
    BACKLOG_FULL = "backlog-full", 429, "Too many spawns wait", 1
    TOO_MANY_STREAMS = "too-many-streams", 429, "Too many clients follow the events", 5
    TOO_MANY_CONNECTIONS = "too-many-connections", 503, "Too many clients are connected", 5
    AGENT_START_FAILED = "agent-start-failed", 502, "The agent could not be started"
    OUTCOME_UNKNOWN = "outcome-unknown", 503, "It is not known whether this was done", 1
    REDIS_UNREACHABLE = "redis-unreachable", 503, "Redis does not answer", 2
    NOT_ENOUGH_REPLICAS = "not-enough-replicas", 503, "Too few replicas follow Redis", 2
    REDIS_REFUSES = "redis-refuses", 503, "Redis refuses"
    LOG_MISSING = "log-missing", 503, "The log is missing", 5
    LOG_ROLLED_BACK = "log-rolled-back", 503, "The log has lost writes", 5
    COMMAND_LOST = "command-lost", 503, "The log has lost this command"
    BUSY = "busy", 503, "Others were faster, too many times", 1
    VIEWS_UNAVAILABLE = "views-unavailable", 503, "The views cannot be read", 2
    AS_OF_TOO_COSTLY = "as-of-too-costly", 503, "It takes too long to read the past"
    ARCHIVE_UNREADABLE = "archive-unreadable", 503, "The archive cannot be read"
    REDIS_MEMORY = "redis-memory-exhausted", 507, "Redis is at its memory limit", 10
    HTTP_ERROR = "http-error"
    INTERNAL = "internal-error", 500, "Something went wrong inside the gateway"

    def __new__(cls, name: str, status: int = 0, heading: str = "", retry_after: int = 0) -> Self:
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.status, kind.heading, kind.retry_after = status, heading, retry_after
        return kind


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
    agent: views.AgentRow | None = None


class Problem(Exception):
    """A request that ends in a problem. All arguments but `headers` appear in the body.

    `nameless`: the detail for callers who may not know of all pools, where `detail` names others.
    """

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
        agent: views.AgentRow | None = None,
        nameless: str = "",
    ) -> None:
        # A header may have bytes that are not UTF-8.
        detail, field = (t.encode("utf-8", "backslashreplace").decode() for t in (detail, field))
        super().__init__(detail)
        self.kind = kind
        self.nameless = nameless
        self.headers = dict(headers or {})
        if kind.retry_after:
            self.headers.setdefault("Retry-After", str(kind.retry_after))
        self.body = Body(
            kind=kind.value,
            title=kind.heading or title,
            status=kind.status or status,
            detail=detail,
            errors=(FieldError(field, detail),) if field else (),
            agent_id=agent_id,
            idempotency_key=idempotency_key,
            error=error,
            agent=agent,
        )

    def hide_names(self) -> None:
        """Let it name no pool but the one that was asked for."""
        if self.nameless:
            errors = tuple(replace(error, message=self.nameless) for error in self.body.errors)
            self.body = replace(self.body, detail=self.nameless, errors=errors)

    def answer(self) -> Answer:
        status, headers = self.body.status, self.headers
        return Answer(self.body, status=status, content_type=CONTENT_TYPE, headers=headers)


_TRANSLATIONS: Final[Sequence[tuple[tuple[type[Exception], ...], Kind, str]]] = (
    ((errors.OutcomeUnknown,), Kind.OUTCOME_UNKNOWN, "{}; ask again to learn its outcome"),
    ((errors.NotEnoughReplicas,), Kind.NOT_ENOUGH_REPLICAS, "{} Nothing was written."),
    ((errors.LogUnreachable,), Kind.REDIS_UNREACHABLE, "{}; nothing was written"),
    ((errors.MemoryExhausted,), Kind.REDIS_MEMORY, "{} Terminations still work."),
    ((errors.LogMissing,), Kind.LOG_MISSING, RECOVER),
    ((errors.RolledBack, errors.Halted), Kind.LOG_ROLLED_BACK, RECOVER),
    ((views.NotYetArchived,), Kind.AS_OF_NOT_REACHED, "{}"),
    ((views.ArchiveIncomplete,), Kind.ARCHIVE_INCOMPLETE, "{}"),
    ((views.ArchivePruned,), Kind.ARCHIVE_PRUNED, "{}"),
    ((views.TooExpensive,), Kind.AS_OF_TOO_COSTLY, "{}"),
    ((views.ArchiveUnreadable,), Kind.ARCHIVE_UNREADABLE, "{}"),
    ((errors.Unreadable, errors.UnknownEvent, errors.LayoutTooNew), Kind.CANNOT_BE_READ, "{}"),
    ((errors.Busy,), Kind.BUSY, "{}"),
    ((errors.LogError, errors.ServerUnsuitable), Kind.REDIS_REFUSES, "{}"),
)
"""Expected errors, the more special ones first: the problem that each becomes, and what it says."""
AS_OF_KINDS: Final = {
    Kind.AS_OF_NOT_REACHED, Kind.ARCHIVE_INCOMPLETE, Kind.ARCHIVE_PRUNED, Kind.AS_OF_TOO_COSTLY
}  # fmt: skip


def translate(error: Exception) -> Problem | None:
    """The problem that an error becomes; None if it is unexpected."""
    match error:
        case Problem():
            return error
        case web.HTTPNotFound():
            return Problem(Kind.NOT_FOUND, "no resource has this path")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            detail = f"{error.method} is not allowed here; allowed: {allowed}"
            return Problem(Kind.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return Problem(Kind.BODY_TOO_LARGE, error.text or "the body is too large", field="body")
        case web.HTTPException(status=status, reason=reason):
            return Problem(Kind.HTTP_ERROR, error.text or reason, status=status, title=reason)
        case _:
            pass
    for types, kind, detail in _TRANSLATIONS:
        if isinstance(error, types):
            return Problem(kind, detail.format(error), field="as_of" if kind in AS_OF_KINDS else "")
    return None
