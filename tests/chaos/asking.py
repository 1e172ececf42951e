"""Asking a gateway over HTTP, and what its answers mean for a command."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

ASK_SECONDS = 12.0
API = "/api/v1/agents"


class Meaning(StrEnum):
    """What one answer says of a command."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Nothing was written, and nothing will be."""
    UNKNOWN = "unknown"


class Answer(Struct, frozen=True):
    """What came back; status 0: nothing did."""

    status: int
    body: Any = None
    stale: bool = False
    error: str = ""
    sent: bool = True
    """False: there was no connection, so nothing can have been done."""
    position: str = ""
    """The position of the logs, which a client sends to the next gateway."""
    level: str = ""
    """The durability that it states."""

    @property
    def kind(self) -> str:
        """The problem's kind, of an answer that is one."""
        found = self.body.get("type", "") if isinstance(self.body, dict) else ""
        return str(found).rpartition(":")[2].rpartition("/")[2]

    def seq(self, pool: str) -> int:
        """How far that pool was, where the answer says so; one that is stale need not know."""
        positions = dict(part.rpartition(":")[::2] for part in self.position.split(","))
        return 0 if self.stale else int(positions.get(pool) or 0)

    @property
    def said(self) -> str:
        return f"{self.status} {self.kind}".strip() if self.status else self.error

    @property
    def meaning(self) -> Meaning:
        """Of a spawn or a termination."""
        if self.status in (200, 201, 202) or self.kind in ("agent-start-failed", "agent-withdrawn"):
            return Meaning.ACCEPTED
        if self.status == 0:
            return Meaning.UNKNOWN if self.sent else Meaning.REFUSED
        if self.status == 500 or self.kind in ("outcome-unknown", "command-lost"):
            return Meaning.UNKNOWN
        return Meaning.REFUSED


async def ask(
    url: str,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    seconds: float = ASK_SECONDS,
) -> Answer:
    """One request on a connection of its own. Never raises for what the network or server does."""
    limit = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(method, f"{url}{path}", json=body, headers=headers) as response,
        ):
            text = await response.read()
            stale = response.headers.get("Muster-Stale") == "true"
            position = response.headers.get("Muster-Position", "")
            level = response.headers.get("Muster-Durability", "")
            return Answer(response.status, _decoded(text), stale, position=position, level=level)
    except aiohttp.ClientConnectorError as error:
        return Answer(0, error=type(error).__name__, sent=False)
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
        return Answer(0, error=type(error).__name__)


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text) if text else None
    except msgspec.DecodeError:
        return text.decode(errors="replace")
