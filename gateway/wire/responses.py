"""Answers that are not problems: JSON from the same Structs that `/openapi.json` describes."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import Identifier
from projector.queries.views import AgentRow, PoolRow, WorkerRow

API: Final = "/api/v1"
AGENTS: Final = f"{API}/agents"


class AgentPage(Struct, frozen=True, kw_only=True):
    """Agents in the order of their ids. `next` is the address of the next page, if there is one."""

    agents: Sequence[AgentRow]
    next: str | None = None


class WorkerPage(Struct, frozen=True, kw_only=True):
    """Workers in the order of their ids. `next` is the address of the next page, if any."""

    workers: Sequence[WorkerRow]
    next: str | None = None


class PoolList(Struct, frozen=True):
    pools: Sequence[PoolRow]


class PoolDeletion(Struct, frozen=True):
    """`deleted`, or `deleting` while not all of its agents have ended."""

    pool_name: str
    status: str
    agent_count: int


def json_response(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def agent_page(
    request: web.Request, rows: Sequence[AgentRow], limit: int, as_of: str = ""
) -> web.Response:
    """A page of agents; a full one points at the next, as of the same point in time."""
    if len(rows) <= limit:
        return json_response(AgentPage(agents=rows))
    rows = rows[:limit]
    link, headers = next_page_link(request, encode_cursor(rows[-1].agent_id), as_of)
    return json_response(AgentPage(agents=rows, next=link), headers=headers)


def next_page_link(request: web.Request, cursor: str, as_of: str) -> tuple[str, dict[str, str]]:
    """The address of the next page, and the header with it."""
    as_of_parameter = {"as_of": as_of} if as_of else {}
    url = str(request.rel_url.update_query(cursor=cursor, **as_of_parameter))
    return url, {"Link": f'<{url}>; rel="next"'}


def encode_cursor(last_id: str) -> str:
    """The cursor of the page after this id."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, shape: Any = Identifier) -> str:
    """The id in a cursor. Raises `Problem`."""
    if cursor is None:
        return ""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        last_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        return str(msgspec.convert(last_id, shape))
    except (binascii.Error, ValueError) as error:
        detail = "this is not a cursor of this API"
        raise Problem(Kind.INVALID_REQUEST, detail, field="cursor") from error
