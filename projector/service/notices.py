"""Publishes what gateways should say of the database, for as long as it applies."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from eventstore.connection.calls import AsyncClient
from eventstore.connection.clients import Client
from eventstore.errors import LogError
from eventstore.keys import Keys
from eventstore.log import notices
from eventstore.log.notices import Notice
from projector.intake.source import Addresses

SECONDS: Final = {
    notices.UNAVAILABLE: 30,
    notices.REPAIRED: 600,
    notices.WAL_LARGE: 10,
    notices.NOT_PRUNED: 900,
}
"""How long a notice stays unless it is published again."""


class Notices:
    """Of one projector. That Redis does not answer is no error: gateways say so themselves."""

    def __init__(self, of: Addresses) -> None:
        self._of = of
        self._keys = Keys(of.key_prefix)
        self._since_ms: dict[str, int] = {}

    async def publish(self, name: str, text: str) -> None:
        since_ms = self._since_ms.setdefault(name, int(time.time() * 1000))
        notice, seconds = Notice(name, text, since_ms), SECONDS[name]
        await self._call(lambda c: notices.publish(c, self._keys, notice, seconds=seconds))

    async def withdraw(self, name: str) -> None:
        """No longer say so; no effect where it was not published."""
        if self._since_ms.pop(name, None) is not None:
            await self._call(lambda c: notices.withdraw(c, self._keys, name))

    async def _call(self, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async with Client(self._of.redis_url) as client:
            with suppress(LogError):
                await work(client)
