"""The webhooks that were made over HTTP, what is to be sent, and what could not be.

All of it is next to the stream of alerts, not in a log: a secret that signs must be known as it is,
and events are archived, and shown to all who may read.

Any gateway may read and change it; the one that writes alerts sends. The values are its own: here
they are bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eventstore.connection.calls import AsyncClient, execute_many, pairs_of, translated_errors
from eventstore.connection.reply_parser import Command
from eventstore.keys import Keys
from eventstore.log.alerts import AlertLog


class WebhookQueue:
    """All methods raise `LogUnreachable` and `LogError`."""

    def __init__(self, client: AsyncClient, keys: Keys) -> None:
        self._client = client
        self.alerts = AlertLog(client, keys)
        parts = ("webhooks", "deliveries", "dead", "hooks")
        self._positions, self._deliveries, self._dead, self._hooks = map(keys.alerts_part, parts)

    async def hooks(self) -> dict[str, bytes]:
        """The webhooks that were made over HTTP, by name."""
        return _texts_of((await self._ask([("HGETALL", self._hooks)]))[0])

    async def add_hook(self, name: str, hook: bytes) -> bool:
        """Returns whether that was done: there was none of the name."""
        last_id = await self.alerts.last_id()
        [added] = await self._ask([("HSETNX", self._hooks, name, hook)])
        if added:  # it gets what comes after it, whatever had its name before
            await self._ask([("HSET", self._positions, name, last_id)])
        return bool(added)

    async def change_hook(self, name: str, hook: bytes) -> None:
        """From now on it is this one."""
        await self._ask([("HSET", self._hooks, name, hook)])

    async def remove_hook(self, name: str) -> None:
        """With all that is to be sent to it, or could not be."""
        own = [await self._own(key, name) for key in (self._deliveries, self._dead)]
        commands: list[Command] = [("HDEL", self._hooks, name), ("HDEL", self._positions, name)]
        if own[0]:
            commands.append(("HDEL", self._deliveries, *own[0]))
        if own[1]:
            commands.append(("HDEL", self._dead, *own[1]))
        await self._ask(commands)

    async def _own(self, key: str, name: str) -> list[str]:
        ids = [one.decode() for one in (await self._ask([("HKEYS", key)]))[0]]
        return [one for one in ids if one.partition(":")[0] == name]

    async def position(self, webhook: str) -> str:
        """Up to which entry of the stream of alerts messages were queued; empty: never."""
        [found] = await self._ask([("HGET", self._positions, webhook)])
        return found.decode() if found else ""

    async def queue(self, webhook: str, position: str, deliveries: Mapping[str, bytes]) -> None:
        """Queue messages, and then remember up to where in the stream they are."""
        commands: list[Command] = [
            ("HSET", self._deliveries, name, one) for name, one in deliveries.items()
        ]
        await self._ask([*commands, ("HSET", self._positions, webhook, position)])

    async def waiting(self) -> dict[str, bytes]:
        """What is to be sent."""
        return _texts_of((await self._ask([("HGETALL", self._deliveries)]))[0])

    async def dead(self) -> dict[str, bytes]:
        """What is not tried any more."""
        return _texts_of((await self._ask([("HGETALL", self._dead)]))[0])

    async def dead_ids(self) -> list[str]:
        """The ids of what is not tried any more."""
        return [one.decode() for one in (await self._ask([("HKEYS", self._dead)]))[0]]

    async def dead_ones(self, delivery_ids: Sequence[str]) -> list[bytes]:
        """Of these, those that are not tried any more."""
        if not delivery_ids:
            return []
        [found] = await self._ask([("HMGET", self._dead, *delivery_ids)])
        return [one for one in found if one is not None]

    async def settle(self, delivery_id: str) -> None:
        """It was sent."""
        await self._ask([("HDEL", self._deliveries, delivery_id)])

    async def postpone(self, delivery_id: str, delivery: bytes) -> None:
        """It is to be sent again."""
        await self._ask([("HSET", self._deliveries, delivery_id, delivery)])

    async def bury(self, delivery_id: str, delivery: bytes) -> None:
        """It is not tried any more."""
        await self._ask(
            [
                ("HSET", self._dead, delivery_id, delivery),
                ("HDEL", self._deliveries, delivery_id),
            ]
        )

    async def revive(self, delivery_id: str, delivery: bytes) -> None:
        """It is to be sent after all."""
        await self._ask(
            [
                ("HSET", self._deliveries, delivery_id, delivery),
                ("HDEL", self._dead, delivery_id),
            ]
        )

    async def drop_dead(self, *delivery_ids: str) -> None:
        """Forget what is not tried any more."""
        if delivery_ids:
            await self._ask([("HDEL", self._dead, *delivery_ids)])

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """In this order: what was cut off in between is sent or listed twice, and never lost."""
        with translated_errors("messages of webhooks cannot be stored"):
            return await execute_many(self._client, commands)


def _texts_of(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in pairs_of(flat)}
