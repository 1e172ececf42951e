"""The forecasts of pools, from the projector, which has their past, for those who scale them.

One is in Redis until what it says is over, so that it is of use while no projector is active.
"""

from typing import Final

import msgspec

from eventstore.connection.calls import AsyncClient, execute_many, translated_errors
from eventstore.connection.reply_parser import Command
from eventstore.keys import Keys
from eventstore.language.forecast import AHEAD, STEP_MS, Forecast, grows_soon

_KEPT: Final = ("PX", str(AHEAD * STEP_MS))
_SIGNAL: Final = ("MAXLEN", "~", "1000", "*", "kind", "forecast", "value", "")


async def publish(client: AsyncClient, keys: Keys, forecasts: dict[str, Forecast]) -> None:
    """Publish those of some pools, and wake who scales one that is about to grow.

    Raises `LogUnreachable`, `LogError`.
    """
    commands: list[Command] = []
    for pool, forecast in forecasts.items():
        text = msgspec.json.encode(forecast)
        commands.append(("SET", keys.pool(pool, "forecast"), text, *_KEPT))
        if grows_soon(forecast, forecast.ts):
            commands.append(("XADD", keys.pool(pool, "signals"), *_SIGNAL))
    with translated_errors("forecasts cannot be published"):
        await execute_many(client, commands)


def decode(text: bytes | None) -> Forecast | None:
    """None where there is none, or one that cannot be read."""
    try:
        return msgspec.json.decode(text or b"null", type=Forecast | None)
    except msgspec.DecodeError:
        return None
