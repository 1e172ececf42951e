"""Does this server's WAITAOF tell the truth?

Some answer it under `appendfsync everysec` before anything was fsynced. One that fsyncs once a
second can have at most two of three writes in a row on disk within less than that; one that says so
of all three does not tell the truth. It may hold back by chance, while it happens to fsync; so it
is asked several times.
"""

import time
from typing import Final

from eventstore.connection.calls import AsyncClient
from eventstore.keys import CATALOGUE
from eventstore.log.log import Log
from eventstore.log.script_loader import script
from eventstore.log.script_runner import parse_reply

WRITES: Final = 3
ROUNDS: Final = 3
ROUND_SECONDS: Final = 0.9
"""A round that took longer says nothing."""
WAIT_MS: Final = 150
"""More than a server needs to come round to an answer that it has."""


async def withholds(client: AsyncClient, log: Log) -> bool | None:
    """Whether the server does not answer WAITAOF before it has fsynced; None: it cannot be told.

    Raises `LogError` where there is no catalogue to write to, and what redis-py does.
    """
    for _ in range(ROUNDS):
        started = time.monotonic()
        confirmed = [await _confirmed(client, log) for _ in range(WRITES)]
        if all(confirmed):
            return False
        if time.monotonic() - started > ROUND_SECONDS:
            return None
    return True


async def _confirmed(client: AsyncClient, log: Log) -> bool:
    """Write, and ask whether that is on disk; over one connection, as WAITAOF counts."""
    keys, mark = log.script_keys(CATALOGUE), log.high_water_mark(CATALOGUE)
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("EVAL", script("confirm").text, 2, *keys, *mark)
    pipe.execute_command("WAITAOF", 1, 0, WAIT_MS)
    written, waited = await pipe.execute()
    parse_reply(CATALOGUE, written, log)
    return bool(int(waited[0]))
