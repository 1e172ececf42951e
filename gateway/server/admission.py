"""Which requests are admitted, and what becomes of each: all requests pass through here.

`Host` must be a name of this gateway, so that a page elsewhere cannot reach it by a name of its own
(DNS rebinding). There are no CORS headers. If a token is configured, everything requires one, as a
bearer token or in a session, but the probes, the pages, which have no data, and what starts a
session. What a token allows is for `gateway.server.authorization`. No token is ever logged.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias, cast
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import hdrs, web
from msgspec.structs import replace

from eventstore.ids import new_id
from eventstore.steps.step import Origin
from gateway.access.credentials import Credentials
from gateway.access.grants import FULL, Grant
from gateway.backend.backend import Backend
from gateway.backend.call import Asked, Call
from gateway.backend.read_state import POSITION_HEADER
from gateway.options import GatewayOptions
from gateway.server.access_log import CLIENT_LEFT, AccessLog
from gateway.server.paths import PROBES, is_public
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem, translate
from gateway.wire.session_cookie import sent_credentials
from gateway.wire.trace_context import sent_traceparent

if TYPE_CHECKING:
    from gateway.server.tracing import RequestTracing

log = structlog.get_logger("muster.gateway")

JSON_TYPES: Final = {
    hdrs.METH_POST: ("application/json",),
    hdrs.METH_PUT: ("application/json",),
    hdrs.METH_PATCH: ("application/json", "application/merge-patch+json"),
}
SINGLE_HEADERS: Final = (
    "Authorization", "Content-Encoding", "Idempotency-Key", "Last-Event-ID", "Muster-Durability",
    "X-Request-Id",
)  # fmt: skip
"""Headers of which a request has one at most: readers differ in which of two counts."""
OWN_HEADERS: Final = ("Idempotency-Key", "X-Request-Id", "traceparent", POSITION_HEADER)
"""Headers that differ from one request of a client to the next."""
HEADS_MAX: Final = 256
HEAD_MAX: Final = 2048
"""So many heads, of so many bytes at most, are remembered."""
CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
"""A command under a condition that is not examined must not be carried out."""
Response: TypeAlias = Answer | web.StreamResponse
Record: TypeAlias = Callable[[Call, str, int, float], None]
Handler: TypeAlias = Callable[[Call], Awaitable[Response]]
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def answering(
    backend: Backend,
    app: web.Application,
    direct: Mapping[str, Handler],
    tracing: "RequestTracing | None" = None,
) -> Callable[[web.Request], Awaitable[Response]]:
    """A handler that admits each request, has it answered, and turns every error into a problem.

    `direct`: what answers a POST to a path without routing it. Of these, a head that was admitted
    is not examined again when it comes again.
    """
    heads, new_origin = dict[object, Asked](), _new_origin
    record: Record = AccessLog(full=backend.options.access_log).record
    if tracing is not None:
        new_origin, record = tracing.new_origin, tracing.recording(record)

    async def answer(call: Call) -> Response:
        request = call.request
        head = request.method, request.raw_path, request.raw_headers
        asked = call.asked = heads.get(head)
        handler = None
        if asked or (request.method == hdrs.METH_POST and hdrs.EXPECT not in request.headers):
            handler = direct.get(request.raw_path)
        try:
            if asked is None:
                call.origin = origin(request, call.origin)
                require_own_host(request, backend.options)
            admit(call)
            response = await (handler(call) if handler else _routed(app, call))
            if call.asked and not asked and handler and _may_come_again(request):
                if len(heads) >= HEADS_MAX:
                    heads.clear()
                heads[head] = call.asked
            return response
        except Exception as error:  # the last place where a bug can become an answer
            problem = translate(error)
            if problem is None:
                log.exception("gateway.request_failed", method=request.method, path=request.path)
                problem = Problem(Kind.INTERNAL, "an unexpected error; the gateway's log has it")
            call.problem = problem.kind
            if call.grant.limited:
                problem.hide_names()
            return _cut_off(call, problem) if call.started else problem.answer()

    async def handle(request: web.Request) -> Response:
        started_at = time.perf_counter()
        call = Call(request, backend, new_origin())
        backend.redis_health.note_request()
        method = request.method if request.method in hdrs.METH_ALL else "other"
        try:
            response = await answer(call)
        except asyncio.CancelledError:
            seconds = time.perf_counter() - started_at
            record(call, method, CLIENT_LEFT, seconds)
            raise
        if isinstance(response, Answer):
            call.set_headers(response)
        if not call.route:  # it was refused before
            resource = (await app.router.resolve(request)).route.resource
            call.route = resource.canonical if resource is not None else "unmatched"
        seconds = time.perf_counter() - started_at
        known, status = backend.observations, response.status
        known.count_request(method, call.route, status, seconds, call.problem)
        record(call, method, status, seconds)
        return response

    return handle if tracing is None else tracing.around(handle)


def _new_origin() -> Origin:
    return Origin(actor="http", correlation_id=new_id())


def _may_come_again(request: web.Request) -> bool:
    """Whether a head is short, and has nothing that is of this request only."""
    length = sum(len(name) + len(value) for name, value in request.raw_headers)
    return length <= HEAD_MAX and not any(name in request.headers for name in OWN_HEADERS)


async def _routed(app: web.Application, call: Call) -> Response:
    """The answer of the operation that a request is for. Raises what aiohttp raises for none."""
    match = await app.router.resolve(call.request)
    if match.http_exception is not None:
        raise match.http_exception
    if hdrs.EXPECT in call.request.headers:
        await match.expect_handler(call.request)
    call.parts = match
    return await cast("Handler", match.handler)(call)


def _cut_off(call: Call, problem: Problem) -> web.StreamResponse:
    """End an answer whose head was sent: its client sees that it is incomplete."""
    assert call.started is not None
    log.warning("gateway.answer_cut_off", path=call.request.path, reason=str(problem))
    if call.request.transport is not None:
        call.request.transport.abort()
    return call.started


def origin(request: web.Request, drawn: Origin) -> Origin:
    """What is recorded: `X-Request-Id` (or a drawn one) and `traceparent`. Raises `Problem`."""
    headers, request_id = request.headers, drawn.correlation_id
    _require_single_headers(request)
    if "X-Request-Id" in headers:
        request_id = headers["X-Request-Id"]
        if not _REQUEST_ID.fullmatch(request_id):
            detail = "X-Request-Id: 1 to 64 letters, digits, or any of . _ : -"
            raise Problem(Kind.INVALID_REQUEST, detail, field="X-Request-Id")
    traceparent = drawn.traceparent or sent_traceparent(request)
    return replace(drawn, correlation_id=request_id, traceparent=traceparent)


def _require_single_headers(request: web.Request) -> None:
    for name in SINGLE_HEADERS if len(request.headers) > len(set(request.headers)) else ():
        if len(request.headers.getall(name, ())) > 1:
            raise Problem(Kind.INVALID_REQUEST, f"{name} is given more than once", field=name)


def require_own_host(request: web.Request, options: GatewayOptions) -> None:
    """Raises `Problem` for the name of another host; probes may use any."""
    if request.path in PROBES:
        return
    hosts = request.headers.get("Host", ""), request.host or ""
    if not _hosts_allowed(hosts, options.hostnames):
        raise Problem(Kind.WRONG_HOST, "Host is not one of the names of this gateway", field="Host")


def admit(call: Call) -> None:
    """Find out who calls: what is recorded has its name. Raises `Problem`."""
    call.grant = authenticate(call.request, call.backend.credentials)
    if call.grant.name:
        call.origin = replace(call.origin, actor=call.grant.name)


def authenticate(request: web.Request, credentials: Credentials) -> Grant:
    """What a caller may do. Raises `Problem` if it sends no valid token where one is needed."""
    if is_public(request.path):
        return FULL
    if not credentials.required:
        return FULL
    header = sent_credentials(request)
    grant = credentials.grant_of(header)
    if grant is None:
        detail = "send the token as a bearer token"
        if header:
            detail = "the token is not valid: it is wrong, has expired, or was revoked"
        challenge = {"WWW-Authenticate": 'Bearer realm="muster"'}
        raise Problem(Kind.UNAUTHORIZED, detail, headers=challenge)
    return grant


def require_understood(request: web.Request) -> None:
    """Raises `Problem` for what would be ignored: another type or encoding, a condition."""
    try:
        if query := request.rel_url.raw_query_string:
            unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise Problem(Kind.INVALID_REQUEST, "the query is not UTF-8", field="query") from None
    content_types = JSON_TYPES.get(request.method, ())
    # A page of another site can send no JSON, but a request without a body: browsers name the site.
    bodiless = not request.can_read_body and "Origin" not in request.headers
    charset = (request.charset or "utf-8").lower()
    understood = request.content_type in content_types and charset == "utf-8"
    if content_types and not (understood or bodiless):
        detail = f"Content-Type must be {' or '.join(content_types)}, in UTF-8"
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, detail, field="Content-Type")
    if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
        for name in CONDITIONS:
            if name in request.headers:
                detail = f"{name} is not supported: answers have no version that it could name"
                raise Problem(Kind.INVALID_REQUEST, detail, field=name)


@lru_cache(maxsize=100)
def _hosts_allowed(hosts: tuple[str, ...], hostnames: tuple[str, ...]) -> bool:
    """Whether all hosts (that in `Host`, that of an absolute address) are names of ours."""
    allowed = {name.lower() for name in hostnames}
    return "*" in allowed or set(map(_hostname, hosts)) <= allowed


def _hostname(host: str) -> str:
    """The name or address without a port; an absolute address has its IPv6 without brackets."""
    bare_ipv6 = host.count(":") > 1 and not host.startswith("[")
    name = host if bare_ipv6 else re.sub(r":\d*$", "", host)
    return name.strip().lower().strip("[]").rstrip(".")
