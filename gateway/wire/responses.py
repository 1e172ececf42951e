"""Answers that are not problems: JSON from the same Structs that `/openapi.json` describes."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import Identifier
from projector.queries.views import AgentRow, PoolRow, WorkerRow, page

API: Final = "/api/v1"
AGENTS: Final = f"{API}/agents"


class AgentPage(Struct, frozen=True):
    """Agents in the order of their ids. `next` is the address of the next page, if there is one."""

    agents: Sequence[AgentRow]
    next: str | None = None


class WorkerPage(Struct, frozen=True):
    """Workers in the order of their ids. `next` is the address of the next page, if any."""

    workers: Sequence[WorkerRow]
    next: str | None = None


class PoolList(Struct, frozen=True):
    """Pools in the order of their names. `next` is the address of the next page, if any."""

    pools: Sequence[PoolRow]
    next: str | None = None


class PoolDeletion(Struct, frozen=True):
    """`deleted`, or `deleting` while not all of its agents have ended."""

    pool_name: str
    status: str
    agent_count: int


def page_response(
    request: web.Request,
    name: str,
    found: Sequence[Struct],
    limit: int,
    key: str,
    **parameters: str,
) -> Answer:
    """A page of a list in the order of `key`.

    If more follow, it points at the next page, with these parameters, too.
    """
    rows, more = page(found, limit)
    url, headers = None, {}
    if more:
        cursor = encode_cursor(getattr(found[len(rows) - 1], key))
        url = str(request.rel_url.update_query(cursor=cursor, **parameters))
        headers["Link"] = f'<{url}>; rel="next"'
    content = b'{"%b":[%b],"next":%b}' % (name.encode(), b",".join(rows), msgspec.json.encode(url))
    return Answer(content, headers=headers)


def encode_cursor(last_id: str) -> str:
    """The cursor of the page after this id."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, shape: Any = Identifier) -> str:
    """The id in a cursor. Raises `Problem`."""
    if cursor is None:
        return ""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        last_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        return str(msgspec.convert(last_id, shape))
    except (binascii.Error, ValueError) as error:
        detail = "this is not a cursor of this API"
        raise Problem(Kind.INVALID_REQUEST, detail, field="cursor") from error
