"""The client of the gateway: one HTTP call at a time, with the standard library only.

A refusal is answered as a problem (RFC 9457) and raised as `Refused`, with the names of fields.
Nothing is retried here: a spawn has an `Idempotency-Key`, so the user may repeat it.
"""

import argparse
import http.client
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from eventstore.language.events import Error
from muster.cli.arguments import targets
from muster.cli.arguments.command import Refused, ServiceUnreachable, print_note
from muster.settings.addresses import redacted
from muster.terminal import render

BASE = "/api/v1/agents"
EVENTS = "/api/v1/events"
PARKED = "/api/v1/parked"
LOOKUP = "/api/v1/lookup"
TOKENS = "/api/v1/tokens"
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


class Problem(Struct, frozen=True, rename={"kind": "type"}):
    """An error as the gateway answers it; for an agent that could not start, with its error."""

    kind: str = ""
    title: str = ""
    status: int = 0
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    idempotency_key: str = ""
    error: Error | None = None

    def __str__(self) -> str:
        summary = self.detail or self.title or f"HTTP status {self.status}"
        if len(self.errors) == 1 and self.errors[0].message == summary:
            named = self.kind.endswith("-not-found")  # "no pool `x`" says which field is meant
            lines = [summary if named else str(self.errors[0])]
        else:
            lines = [summary, *(f"  {error}" for error in self.errors)]
        if self.error is not None:
            lines.append(f"  {self.error.type}: {self.error.message}")
        if self.idempotency_key:
            lines.append(f"  to get its result, repeat with --key {self.idempotency_key}")
        return "\n".join(lines)


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

    def raise_refusal(self) -> None:
        """Raises `Refused`, with the problem; with the status where a proxy answers."""
        if self.status == 401:
            raise Refused(
                "The gateway requires a token: set MUSTER_API_TOKEN to the one it was started with,"
                " or to one of `muster token new` that is still valid."
            )
        if self.status >= 400:
            try:
                problem = msgspec.json.decode(self.body, type=Problem)
            except (msgspec.MsgspecError, RecursionError):
                problem = Problem()
            raise Refused(
                str(msgspec.structs.replace(problem, status=self.status)), kind=problem.kind
            )


class GatewayClient:
    """Calls to one gateway. Safe to use from many threads: each call has its own connection."""

    def __init__(self, args: argparse.Namespace) -> None:
        url, token = targets.service_url(args), targets.token(args)
        self.stale_reason = ""
        """Why the last answer may be stale; empty where it is current."""
        self.caller_shows_staleness = False
        """Whether the caller shows `stale_reason` itself; else it is printed once."""
        self._fallback_noted = False
        self._parts, self._shown_url = urlsplit(url), redacted(url)
        self.has_token = bool(token)
        """Whether it sends one."""
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}

    def get(
        self, path: str, query: Query | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> Answer:
        return self.call("GET", path, query=query, timeout_seconds=timeout_seconds)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] = {},
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """One call. Raises `Refused`, `ServiceUnreachable`; `NoReply` once it is connected."""
        sent = {"Accept": "application/json", **self._authorization, **headers}
        content = None
        if body is not None:
            content, sent["Content-Type"] = msgspec.json.encode(body), "application/json"
        with self._connected(timeout_seconds) as connection:
            try:
                connection.request(method, self._target(path, query), content, sent)
                response = connection.getresponse()
                received = {name.lower(): value for name, value in response.getheaders()}
                answer = Answer(response.status, response.read(), received)
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                raise NoReply(f"{self._shown_url} accepted the request, but: {why}") from error
        self._print_notes(answer)
        answer.raise_refusal()
        return answer

    def stream_events(self, query: Query, *, seconds: float) -> Iterator[bytes]:
        """The data of server-sent events, for `seconds` or until the gateway ends the stream."""
        headers = {"Accept": "text/event-stream", **self._authorization}
        with self._connected(seconds) as connection:
            try:
                connection.request("GET", self._target(EVENTS, query), headers=headers)
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

    def _print_notes(self, answer: Answer) -> None:
        """Print once that answers come from a fallback, and whenever they become stale."""
        mode = answer.headers.get(FALLBACK)
        if mode and not self._fallback_noted:
            self._fallback_noted = True
            print_note(
                f"(this is a fallback, {mode}: the real Redis was unreachable when it started)"
            )
        reason = ""
        # Answers about the past are never stale.
        if "muster-stale" in answer.headers and AS_OF not in answer.headers:
            age = answer.headers.get("muster-age-ms", "")
            seconds = -(-int(age) // 1000) if age.isdecimal() else None
            old = "outdated" if seconds is None else f"up to {render.duration(seconds)} old"
            reason = (
                f"this may be {old}: the log is lost, Redis unreachable or the projector behind"
            )
        before, self.stale_reason = self.stale_reason, reason
        if reason and not before and not self.caller_shows_staleness:
            print_note(f"({reason}; `muster doctor` says more)")

    @contextmanager
    def _connected(self, seconds: float) -> Iterator[http.client.HTTPConnection]:
        """A connection with this time limit. Raises `ServiceUnreachable`."""
        https = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        host, port = self._parts.hostname or "", self._parts.port
        with closing(kind(host, port, timeout=seconds)) as connection:
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as error:
                raise ServiceUnreachable(
                    f"{self._shown_url}: its certificate is not trusted: {error.verify_message};"
                    " SSL_CERT_FILE names the authority that it is of, --url (MUSTER_URL) a name in"
                    " it"
                ) from error
            except ssl.SSLError as error:
                raise ServiceUnreachable(f"{self._shown_url}: {error}") from error
            except OSError as error:
                raise ServiceUnreachable(
                    f"nothing answers at {self._shown_url}; is `muster up` running? ({error})"
                ) from error
            yield connection

    def _target(self, path: str, query: Query | None) -> str:
        parameters = [(name, value) for name, value in (query or {}).items() if value is not None]
        encoded = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self._parts.path}{path}{encoded}"
