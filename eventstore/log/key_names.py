"""Gives keys of an older version their names of today.

Only the catalogue's parts had other names, and only with a prefix, which was in their hash tag but
not in front: an access list of `~prefix*` forbade them.
"""

from contextlib import suppress
from typing import Final

from eventstore.connection.calls import AsyncClient, ask, translated_errors
from eventstore.keys import CATALOGUE, Keys
from eventstore.redis_errors import NoPermissionError

RENAME: Final = """#!lua flags=allow-oom
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 and redis.call('EXISTS', KEYS[i + 1]) == 0 then
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
  end
end
"""
"""KEYS 1 to 2, 3 to 4 …, in one step; nothing that was renamed, or is new, is touched."""


async def rename_old_keys(client: AsyncClient, keys: Keys) -> None:
    """Any number of processes may do so, any number of times. Raises `LogError`."""
    names = [name for pair in keys.renamed().items() for name in pair]
    if not names:
        return
    stream, meta = (keys.pool(CATALOGUE, part) for part in ("events", "meta"))
    if not await ask(client, "EXISTS", stream) or await ask(client, "EXISTS", meta):
        return
    with translated_errors("keys cannot be renamed"), suppress(NoPermissionError):
        # Where it is not permitted there are none.
        await client.execute_command("EVAL", RENAME, len(names), *names)
