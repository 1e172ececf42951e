"""The client of the gateway: one HTTP call at a time, with the standard library only.

A refusal is answered as a problem (RFC 9457) and raised as `Refused`, with the names of fields.
Nothing is retried here: a spawn has an `Idempotency-Key`, so the user may repeat it.
"""

import http.client
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from eventstore.language.events import Error
from muster.cli.arguments.command import Refused, ServiceUnreachable, print_note
from muster.cli.arguments.targets import Service
from muster.settings.addresses import redacted
from muster.terminal import render

BASE = "/api/v1/agents"
EVENTS = "/api/v1/events"
PARKED = "/api/v1/parked"
FALLBACK = "muster-fallback"
"""The header of a gateway that runs on a fallback log, in lower case."""
AS_OF = "muster-as-of"
"""The header of an answer about an earlier point in time, in lower case."""
TIMEOUT_SECONDS = 30.0
T = TypeVar("T")
Query = Mapping[str, str | int | None]


class FieldError(Struct, frozen=True):
    field: str = ""
    message: str = ""

    def __str__(self) -> str:
        names_field = not self.field or self.message.startswith(self.field)
        return self.message if names_field else f"{self.field}: {self.message}"


class Problem(Struct, frozen=True):
    """An error as the gateway answers it; for an agent that could not start, with its error."""

    type: str = ""
    title: str = ""
    status: int = 0
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    agent_id: str = ""
    idempotency_key: str = ""
    error: Error | None = None

    def __str__(self) -> str:
        summary = self.detail or self.title or f"HTTP status {self.status}"
        if len(self.errors) == 1 and self.errors[0].message == summary:
            lines = [str(self.errors[0])]
        else:
            lines = [summary, *(f"  {error}" for error in self.errors)]
        if self.error is not None:
            lines.append(f"  {self.error.type}: {self.error.message}")
        if self.idempotency_key:
            lines.append(f"  to get its result, repeat with --key {self.idempotency_key}")
        return "\n".join(lines)


def problem_of(status: int, body: bytes) -> Problem:
    """The problem in a refusal; where it has none (a page of a proxy), only the status."""
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, RecursionError):
        problem = Problem(status=status)
    return msgspec.structs.replace(problem, status=status)


class ProblemRaised(Refused):
    """The gateway refused; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


class NotAuthorised(Refused):
    """The gateway requires its token: set MUSTER_API_TOKEN to the one it was started with."""


class NoReply(ServiceUnreachable):
    """The gateway accepted the request and did not answer; it may have been carried out."""


class Answer(Struct, frozen=True):
    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    """By lower-case name."""

    def read(self, as_type: type[T]) -> T:
        """Decode the body. Raises `Refused` where it is not of this type."""
        try:
            return msgspec.json.decode(self.body, type=as_type)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Refused(f"unexpected answer from the gateway: {error}") from error

    def document(self) -> Any:
        """The body as plain data, to be shown as JSON."""
        return self.read(object)


class GatewayClient:
    """Calls to one gateway. Safe to use from many threads: each call has its own connection."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stale_reason = ""
        """Why the last answer may be stale; empty where it is current."""
        self.caller_shows_staleness = False
        """Whether the caller shows `stale_reason` itself; else it is printed once."""
        self._fallback_noted = False
        self._parts = urlsplit(service.url)

    def get(self, path: str, query: Query | None = None) -> Answer:
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """One call. Raises `ProblemRaised`, `NotAuthorised`, `ServiceUnreachable`."""
        request_headers = {"Accept": "application/json", **self._authorization(), **(headers or {})}
        content = None
        if body is not None:
            content, request_headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        answer = self._exchange(
            method, _target(path, query), content, request_headers, timeout_seconds
        )
        self._note_fallback(answer)
        self._note_staleness(answer)
        if answer.status == 401:
            raise NotAuthorised
        if answer.status >= 400:
            raise ProblemRaised(problem_of(answer.status, answer.body))
        return answer

    def follow(self, link: str) -> Answer:
        """Get the next page, by the link in the gateway's answer."""
        parts = urlsplit(link)
        return self.call("GET", f"{parts.path}?{parts.query}")

    def stream_events(self, query: Query, *, seconds: float) -> Iterator[bytes]:
        """The data of server-sent events, for `seconds` or until the gateway ends the stream."""
        connection = self._connection(seconds)
        try:
            self._connect(connection)
            headers = {"Accept": "text/event-stream", **self._authorization()}
            connection.request("GET", self._parts.path + _target(EVENTS, query), headers=headers)
            response = connection.getresponse()
            deadline = time.monotonic() + seconds
            while response.status == 200 and time.monotonic() < deadline:
                line = response.readline()
                if not line:
                    return
                if line.startswith(b"data: "):
                    yield line[6:]
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def _note_fallback(self, answer: Answer) -> None:
        """Print once that the answers come from a fallback."""
        mode = answer.headers.get(FALLBACK)
        if mode and not self._fallback_noted:
            self._fallback_noted = True
            print_note(
                f"(this is a fallback, {mode}: the real Redis was unreachable when it started)"
            )

    def _note_staleness(self, answer: Answer) -> None:
        """Print when answers become stale. Answers about the past are never stale."""
        before = self.stale_reason
        self.stale_reason = "" if AS_OF in answer.headers else staleness(answer)
        if self.stale_reason and not before and not self.caller_shows_staleness:
            print_note(f"({self.stale_reason}; `muster doctor` says more)")

    def _authorization(self) -> dict[str, str]:
        token = self.service.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _exchange(
        self,
        method: str,
        target: str,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
    ) -> Answer:
        connection = self._connection(timeout_seconds)
        try:
            self._connect(connection)
            try:
                connection.request(method, self._parts.path + target, content, dict(headers))
                response = connection.getresponse()
                response_headers = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, response.read(), response_headers)
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                raise NoReply(
                    f"{redacted(self.service.url)} accepted the request, but: {why}"
                ) from error
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except ssl.SSLError as error:
            raise ServiceUnreachable(f"{redacted(self.service.url)}: {error}") from error
        except OSError as error:
            raise ServiceUnreachable(
                f"nothing answers at {redacted(self.service.url)}; is `muster up` running?"
                f" ({error})"
            ) from error

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_seconds)
        return http.client.HTTPConnection(host, port, timeout=timeout_seconds)


def staleness(answer: Answer) -> str:
    """How old an answer may be that was given without the log, or from views that lag behind."""
    if "muster-stale" not in answer.headers:
        return ""
    age = answer.headers.get("muster-age-ms", "")
    old = f"up to {render.duration(-(-int(age) // 1000))} old" if age.isdecimal() else "outdated"
    return f"this may be {old}: the log is lost, Redis unreachable or the projector behind"


def _target(path: str, query: Query | None) -> str:
    parameters = [(name, value) for name, value in (query or {}).items() if value is not None]
    return f"{path}?{urlencode(parameters)}" if parameters else path
