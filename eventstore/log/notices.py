"""What the projector has to say about its database, for gateways: in Redis, since both reach that.

A notice expires by itself, so that one whose projector has ended does not stay.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from eventstore.connection.calls import AsyncClient, ask
from eventstore.keys import CATALOGUE, Keys

UNAVAILABLE: Final = "projector-unavailable"
"""The views cannot be written, and why."""
REPAIRED: Final = "views-file-repaired"
"""The file of the views was put right, and how."""
WAL_LARGE: Final = "views-wal-large"
"""Readers keep the write-ahead log of the views from being cut."""
NOT_PRUNED: Final = "archive-not-pruned"
"""The archive is not pruned as the retention says, and why."""
NAMES: Final = (UNAVAILABLE, REPAIRED, WAL_LARGE, NOT_PRUNED)


class Notice(Struct, frozen=True):
    """`since_ms`: since 1970, by the projector's clock."""

    name: str
    text: str
    since_ms: int


async def publish(client: AsyncClient, keys: Keys, notice: Notice, *, seconds: int) -> None:
    """Raises `LogError`."""
    key = _key(keys, notice.name)
    await ask(client, "SET", key, msgspec.json.encode(notice), "EX", seconds)


async def withdraw(client: AsyncClient, keys: Keys, name: str) -> None:
    """Raises `LogError`."""
    await ask(client, "DEL", _key(keys, name))


async def read(client: AsyncClient, keys: Keys) -> Sequence[Notice]:
    """Those that apply now. Raises `LogError`."""
    found: list[Any] = await ask(client, "MGET", *(_key(keys, name) for name in NAMES))
    return [msgspec.json.decode(text, type=Notice) for text in found if text]


def _key(keys: Keys, name: str) -> str:
    return keys.pool(CATALOGUE, f"notice:{name}")
