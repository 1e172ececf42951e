"""What this data folder last saw of the real log, stored for when Redis is unreachable.

`muster up` on a Redis writes down how far its catalogue is, and the name of this host. A later
start that cannot reach that Redis decides by this whether the views know enough of other hosts; a
handover checks by it that what is there now is no older than that.
"""

import contextlib
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.atomic_file import read_json, write_json
from eventstore.connection.clients import Client
from eventstore.errors import ConfigurationError, LogError
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.log import Log
from eventstore.ticks import tick
from muster.settings.addresses import redacted
from muster.settings.settings import Settings
from workers.host.processes import host_name

log = structlog.get_logger("muster.fallback")

NAME: Final = "surroundings.json"
OWN_HOSTS_MAX: Final = 100
REFRESH_SECONDS = 2.0


class LastSeen(Struct, frozen=True, kw_only=True):
    """What was seen last. All empty where nothing ever was."""

    redis_url: str = ""
    """Without a password."""
    key_prefix: str = ""
    generation: int = 0
    seq: int = 0
    """How far the catalogue was."""
    own_hosts: tuple[str, ...] = ()
    """Names under which this data folder's `muster up` has joined: one for each boot."""

    @property
    def position(self) -> tuple[int, int]:
        return self.generation, self.seq


def read(settings: Settings) -> LastSeen:
    """What the data folder knows of the log that is configured now.

    Raises `ConfigurationError` for a file that is damaged.
    """
    path, nothing = settings.data_dir / NAME, _nothing(settings)
    found = read_json(path, LastSeen) if path.exists() else nothing
    if (found.redis_url, found.key_prefix) == (nothing.redis_url, nothing.key_prefix):
        return found
    return replace(nothing, own_hosts=found.own_hosts)


def _nothing(settings: Settings) -> LastSeen:
    return LastSeen(redis_url=redacted(settings.redis_url), key_prefix=settings.key_prefix)


def own_host(settings: Settings) -> str:
    return settings.host_id or host_name()


class Recorder:
    """Writes the record: `refresh` once before anything is started, then `follow`."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.data_dir / NAME
        self._client = Client(settings.redis_url)
        self._log = Log(self._client, Keys(settings.key_prefix))
        self._written: LastSeen | None = None
        self._failing = False
        try:
            previous = read(settings)
        except ConfigurationError as error:  # Redis answers, so that it is soon known again
            log.warning("fallback.last_seen_unreadable", error=str(error))
            previous = _nothing(settings)
        host = own_host(settings)
        hosts = (*(name for name in previous.own_hosts if name != host), host)[-OWN_HOSTS_MAX:]
        self._last_seen = replace(previous, own_hosts=hosts)

    async def refresh(self) -> None:
        """Write down how far the catalogue is, where that is further. Raises `LogError`."""
        head = await self._log.head(CATALOGUE)
        if (head.generation, head.seq) > self._last_seen.position:
            self._last_seen = replace(self._last_seen, generation=head.generation, seq=head.seq)
        if self._last_seen == self._written:
            return
        try:
            write_json(self._path, self._last_seen)
        except OSError as error:
            if not self._failing:
                log.warning("fallback.last_seen_unwritable", error=str(error))
            self._failing = True
        else:
            self._written, self._failing = self._last_seen, False

    async def follow(self) -> None:
        """Refresh it until cancelled."""
        try:
            while True:
                await tick(REFRESH_SECONDS)
                with contextlib.suppress(LogError):
                    await self.refresh()
        finally:
            await self._client.aclose()
