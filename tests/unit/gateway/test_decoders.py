"""Whatever a client sends is read, or refused as a problem: nothing else comes out of a decoder."""

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict, MultiDictProxy

from eventstore.ids import new_id
from eventstore.language.pool_config import PoolConfig
from eventstore.steps.step import Origin
from gateway.access.credentials import Credentials
from gateway.access.grants import FULL
from gateway.backend.read_state import requested_position
from gateway.following.cursor import Cursor
from gateway.options import GatewayOptions, Limits
from gateway.resources import as_of
from gateway.server import admission
from gateway.wire import decoding, requests
from gateway.wire.decoding import wait_preference
from gateway.wire.idempotency import idempotency_key
from gateway.wire.problems import Problem
from gateway.wire.responses import decode_cursor
from tests.hostile import JSON_TEXTS, NUMERALS, TEXTS, VALUES, mangled, thorough

LIMITS = Limits()
OPTIONS = GatewayOptions(
    redis_url="redis://x", database_url="sqlite:///x", roles=("developer",), api_token="right"
)
CREDENTIALS = Credentials("right", dict, lambda: 0)
SPAWN = {
    "project_id": "apollo",
    "role_type": "developer",
    "pool_name": "developer_pool",
    "heartbeat_interval": 30,
    "max_idle_time": 300,
    "input": {"a": [1, 2.5, None, {"b": "c"}]},
    "labels": {"team": "blue"},
    "pending_timeout": 5,
}
TERMINATE = {"pool_name": "developer_pool", "agent_id": new_id(), "graceful": True}
POOL = {"role_type": "developer", "pool_name": "p", "config": {"max_workers": 3}}
BODIES: dict[type[Any], dict[str, Any]] = {
    requests.SpawnRequest: SPAWN,
    requests.TerminateRequest: TERMINATE,
    requests.PoolRequest: POOL,
    requests.PoolPatch: {"config": {"max_workers": 3, "min_workers": None}},
}
QUERIES = (
    requests.AgentQuery,
    requests.ProjectQuery,
    requests.DeleteAgentQuery,
    requests.DeletePoolQuery,
    requests.HealthQuery,
    requests.EventQuery,
    requests.NoParameters,
)


def answered(problem: Problem) -> None:
    """A refusal is the client's fault and can be sent as it is."""
    response = problem.answer()
    assert 400 <= response.status < 500
    assert isinstance(response.body, bytes)
    json.loads(response.body)
    assert not any(set(value) & set("\r\n\0") for value in response.headers.values())


@pytest.mark.parametrize("shape", BODIES, ids=lambda shape: shape.__name__)
@given(data=st.data())
@thorough
def test_a_body(shape: type[Any], data: st.DataObject) -> None:
    """An accepted request can also be carried out: encoded, bounded, merged with the defaults."""
    content = data.draw(st.one_of(mangled(BODIES[shape]), JSON_TEXTS))
    try:
        found, _ = decoding.decode_body(content, shape)
        if isinstance(found, requests.SpawnRequest):
            decoding.check_spawn(found, LIMITS)
        elif isinstance(found, requests.PoolRequest | requests.PoolPatch):
            decoding.pool_config(found.config, PoolConfig())
    except Problem as problem:
        answered(problem)


@given(fields=st.dictionaries(st.sampled_from(PoolConfig.__struct_fields__), VALUES, max_size=4))
@thorough
def test_a_pools_settings(fields: dict[str, Any]) -> None:
    for reading in (
        decoding.pool_config,
        lambda f, d: decoding.pool_config(f, d, PoolConfig()),
    ):
        try:
            assert isinstance(reading(fields, PoolConfig()), PoolConfig)
        except Problem as problem:
            answered(problem)


@pytest.mark.parametrize("shape", QUERIES, ids=lambda shape: shape.__name__)
@given(data=st.data())
@thorough
def test_a_query(shape: type[Any], data: st.DataObject) -> None:
    names = st.one_of(st.sampled_from((*shape.__struct_fields__, "x")), TEXTS)
    pairs = data.draw(st.lists(st.tuples(names, TEXTS), max_size=4))
    try:
        request: Any = SimpleNamespace(query=MultiDictProxy(MultiDict(pairs)))
        decoding.read_query(request, shape)
    except Problem as problem:
        answered(problem)


@given(cursor=st.one_of(TEXTS, st.binary().map(lambda b: base64.urlsafe_b64encode(b).decode())))
@example(cursor=base64.urlsafe_b64encode(b"p=" + b"9" * 20 + b"-" + b"9" * 20).decode())
@example(cursor=base64.urlsafe_b64encode("p=\N{ARABIC-INDIC DIGIT ONE}-1".encode()).decode())
@thorough
def test_a_cursor(cursor: str) -> None:
    """Those of pages and those of the event stream; an accepted one can be compared and shown."""
    for read in (decode_cursor, _stream_cursor):
        try:
            read(cursor)
        except Problem as problem:
            answered(problem)


def _stream_cursor(text: str) -> None:
    cursor = Cursor.parse(text)
    for pool in (*cursor.positions, "p"):
        cursor.covers(pool, "1-1")
    assert Cursor.parse(str(cursor)).positions == cursor.positions


TIMES = st.one_of(
    TEXTS,
    NUMERALS,
    st.builds("{}:{}".format, TEXTS, NUMERALS),
    st.builds("p:{}:{},{}".format, NUMERALS, NUMERALS, NUMERALS),
    st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat()),
)


@given(text=TIMES)
@example(text="0001-01-01T00:00:00+23:59")
@example(text="9999-12-31T23:59:59.999999-23:59")
@example(text="\N{ARABIC-INDIC DIGIT ONE}" * 3)
@thorough
def test_an_earlier_point_in_time(text: str) -> None:
    """An accepted one fits where times and positions are stored."""
    try:
        asked = as_of.parse(text)
    except Problem as problem:
        answered(problem)
    else:
        assert asked.at_ms is None or -(2**63) <= asked.at_ms < 2**63
        assert all(seq < 2**63 for _, seq in asked.events.values())


HEADERS = (
    "Prefer",
    "Idempotency-Key",
    "Muster-Position",
    "X-Request-Id",
    "traceparent",
    "Authorization",
    "Host",
    "Content-Type",
    "Origin",
)
HEADER_TEXTS = st.one_of(
    TEXTS.map(lambda text: text.encode(errors="replace").decode()),
    st.binary().map(lambda raw: raw.decode(errors="surrogateescape")),
    st.builds("wait={}".format, NUMERALS),
    st.builds("p:{},:{}".format, NUMERALS, NUMERALS),
    st.builds("Bearer {}".format, st.text()),
    st.builds("localhost:{}".format, NUMERALS),
    st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)


def asking(headers: dict[str, str]) -> web.Request:
    """A request with such headers, as from aiohttp's parser: other bytes as surrogates."""
    request = make_mocked_request("POST", "/api/v1/agents/spawn")
    multidict = CIMultiDictProxy(CIMultiDict(headers))
    request._message = request._message._replace(headers=multidict)
    request._headers = multidict
    return request


@given(headers=st.dictionaries(st.sampled_from(HEADERS), HEADER_TEXTS))
@thorough
def test_headers(headers: dict[str, str]) -> None:
    request = asking(headers)
    for read in (
        lambda r: admission.origin(r, Origin(actor="http")),
        lambda r: admission.require_own_host(r, OPTIONS),
        lambda r: admission.authenticate(r, CREDENTIALS),
        admission.require_understood,
        requested_position,
        idempotency_key,
    ):
        try:
            read(request)
        except Problem as problem:
            answered(problem)
    patient = wait_preference(request.headers.getall("Prefer", ()), LIMITS)
    assert 0 <= patient.seconds <= LIMITS.wait_max
    assert not set(patient.applied) & set("\r\n\0")


@given(scheme=st.sampled_from(["Bearer", "bearer", "Basic", ""]), token=HEADER_TEXTS)
@example(scheme="Bearer", token="right")
@thorough
def test_only_the_right_token_is_the_token(scheme: str, token: str) -> None:
    grant = CREDENTIALS.grant_of(f"{scheme} {token}")
    assert (grant is FULL) is (scheme.lower() == "bearer" and token.strip() == "right")
