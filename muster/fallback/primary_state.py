"""Whether the real log may be handed anything: it must be the one that was seen, and intact.

A log that has lost writes will be rebuilt from its archive, and what it accepted meanwhile would be
lost with it. So what is handed over waits until it was recovered.
"""

from collections.abc import Mapping

from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.log import Log
from eventstore.log.replies import LogHead
from muster.fallback import last_seen
from muster.settings.addresses import redacted
from muster.settings.settings import Settings
from projector.queries.views import DatabaseError
from projector.recovery.damage_scan import archive_exists
from projector.recovery.recovery import RecoveryOptions, examine


async def require_known_log(settings: Settings) -> None:
    """Raises `ConfigurationError` where Redis is empty, was not, and what it had is not archived.

    To be called before anything is written there: it would otherwise look like a first start.
    """
    last_position = last_seen.read(settings).position
    if last_position == (0, 0) or (await _head(settings)).generation or await _archived(settings):
        return
    raise ConfigurationError(
        f"{redacted(settings.redis_url)} is empty, but its catalogue was seen at generation"
        f" {last_position[0]}, seq {last_position[1]}, and nothing of it is archived."
        f" The fallback's log stays in {settings.data_dir}. If that Redis is new on purpose, and is"
        f" to run the fallback's agents, remove {settings.data_dir / last_seen.NAME}"
    )


async def damage(settings: Settings) -> Mapping[str, str]:
    """Which logs are to be recovered first, and why; under `CATALOGUE` what concerns all of them.

    Raises `LogError` where Redis does not answer.
    """
    head = await _head(settings)
    last_position = last_seen.read(settings).position
    if (head.generation, head.seq) < last_position:
        return {
            CATALOGUE: f"the catalogue is at generation {head.generation}, seq {head.seq}, but"
            f" {last_position[0]}, {last_position[1]} was seen: Redis has lost writes"
        }
    options = RecoveryOptions(
        redis_url=settings.redis_url,
        database_url=settings.views_url,
        key_prefix=settings.key_prefix,
    )
    try:
        return {one.pool: one.reason for one in await examine(options)}
    except (DatabaseError, OSError) as error:
        unreachable = f"the database does not answer ({type(error).__name__})"
        return {CATALOGUE: f"{unreachable}: whether Redis has lost writes cannot be known"}


async def _head(settings: Settings) -> LogHead:
    client = connect(settings.redis_url, max_connections=1)
    try:
        return await Log(client, Keys(settings.key_prefix)).head(CATALOGUE)
    finally:
        await client.aclose()


async def _archived(settings: Settings) -> bool:
    """Whether anything is; assumed while the database does not answer."""
    try:
        return await archive_exists(settings.views_url)
    except (DatabaseError, OSError):
        return True
