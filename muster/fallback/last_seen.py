"""What this data folder last saw of the real log, kept for when Redis is away.

`muster up` on a Redis follows the catalogue and writes down what it says: the other hosts, the
pools and how far the catalogue was. A later start that cannot reach that Redis decides by this
whether it may stand in for it, and with which pools; a change-over checks by it that what came back
is no older than what was seen.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError, LogError
from eventstore.keys import Keys
from eventstore.language.catalogue import Catalogue
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster.fallback.asking import ask
from muster.process.atomic_file import write_atomic
from muster.settings.addresses import redacted
from muster.settings.settings import PoolDeclaration, Settings
from workers.host.identity import host_name

log = structlog.get_logger("muster.fallback")

NAME: Final = "surroundings.json"
OWN_HOSTS_MAX: Final = 100
RETRY_SECONDS: Final = 2.0


class KnownPool(Struct, frozen=True):
    role_type: str
    config: dict[str, Any]
    deleted: bool = False


class LastSeen(Struct, frozen=True, kw_only=True):
    """What was seen last. All empty where nothing ever was."""

    redis_url: str = ""
    """Without a password."""
    key_prefix: str = ""
    generation: int = 0
    seq: int = 0
    """How far the catalogue was."""
    seen_ms: int = 0
    own_hosts: tuple[str, ...] = ()
    """Names under which this data folder's `muster up` has joined: one for each boot."""
    hosts: dict[str, str] = {}
    """Hosts that have not left, ours included: name by id."""
    pools: dict[str, KnownPool] = {}
    declared: dict[str, PoolDeclaration] = {}
    """What the configuration file said at that time."""

    @property
    def position(self) -> tuple[int, int]:
        return self.generation, self.seq


def read(folder: Path) -> LastSeen:
    """What the data folder knows. Raises `ConfigurationError` for a file that is damaged."""
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=LastSeen)
    except FileNotFoundError:
        return LastSeen()
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _read_or_empty(folder: Path) -> LastSeen:
    """What is known, or nothing: where Redis answers, it is soon known again."""
    try:
        return read(folder)
    except ConfigurationError as error:
        log.warning("fallback.last_seen_unreadable", error=str(error))
        return LastSeen()


def own_host(settings: Settings) -> str:
    return settings.host_id or host_name()


def pools_to_serve(
    last_seen: LastSeen, declared: Mapping[str, PoolDeclaration]
) -> dict[str, PoolDeclaration]:
    """The pools of a fallback: those last seen, and what the file has changed since.

    As where a file is applied to the catalogue: what was changed or deleted live stands until the
    file says something else of that pool.
    """
    pools = {
        name: PoolDeclaration(pool.role_type, _known_settings(pool.config))
        for name, pool in last_seen.pools.items()
        if not pool.deleted
    }
    for name, declaration in declared.items():
        if last_seen.declared.get(name) == declaration:
            continue
        base = pools.get(name)
        if base is None:
            pools[name] = declaration
        elif base.role == declaration.role:
            pools[name] = PoolDeclaration(base.role, {**base.settings, **declaration.settings})
    return pools


class Observer:
    """Keeps the file as the catalogue is. `look` once before anything is started, then `follow`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings.redis_url, max_connections=1)
        self._reader = Reader(settings.redis_url)
        self._keys = Keys(settings.key_prefix)
        self._catalogue = CatalogueLog(Log(self._client, self._keys), self._reader)
        self._last_seen = self._initial_state(_read_or_empty(settings.data_dir))
        self._failing = False

    def _initial_state(self, previous: LastSeen) -> LastSeen:
        """What was known, with this start's own name; the position only of the same log."""
        settings, host = self._settings, own_host(self._settings)
        own = (*(name for name in previous.own_hosts if name != host), host)[-OWN_HOSTS_MAX:]
        url = redacted(settings.redis_url)
        if (previous.redis_url, previous.key_prefix) != (url, settings.key_prefix):
            return LastSeen(redis_url=url, key_prefix=settings.key_prefix, own_hosts=own)
        return replace(previous, own_hosts=own)

    async def refresh(self) -> None:
        """Read the catalogue on, and write down what has changed. Raises `LogError`."""
        state = await self._catalogue.refresh()
        position = await self._generation(), state.seq
        if position < self._last_seen.position:
            return  # this log has lost writes: what was seen stays known
        current = self._current_state(state, position)
        if current != replace(self._last_seen, seen_ms=current.seen_ms):
            self._write(current)

    async def follow(self) -> None:
        """Look again whenever the catalogue moves; until cancelled."""
        try:
            while True:
                await self._follow_once()
        finally:
            await self._reader.close()
            await self._client.aclose()

    async def _follow_once(self) -> None:
        after = {self._keys.catalogue: self._catalogue.state.stream_id}
        try:
            if await self._reader.read(after):
                await self.refresh()
        except LogError:
            await asyncio.sleep(RETRY_SECONDS)

    async def _generation(self) -> int:
        found = await ask(self._client, "HGET", self._keys.catalogue_meta, "generation")
        return int(found or 0)

    def _current_state(self, state: Catalogue, position: tuple[int, int]) -> LastSeen:
        return replace(
            self._last_seen,
            generation=position[0],
            seq=position[1],
            seen_ms=int(time.time() * 1000),
            hosts={h.host: h.hostname for h in state.hosts.values() if h.status != "left"},
            pools={
                name: KnownPool(pool.role_type, _settings_of(pool.config), pool.deleted)
                for name, pool in state.pools.items()
            },
            declared=self._settings.pools,
        )

    def _write(self, current: LastSeen) -> None:
        self._last_seen = current
        try:
            text = msgspec.json.format(msgspec.json.encode(current))
            write_atomic(self._settings.data_dir / NAME, text + b"\n")
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.warning("fallback.last_seen_unwritable", error=str(error))
            self._failing = True


def _known_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Without settings that only a newer version knows."""
    return {name: config[name] for name in PoolConfig.__struct_fields__ if name in config}


def _settings_of(config: PoolConfig) -> dict[str, Any]:
    settings: dict[str, Any] = msgspec.to_builtins(config)
    return settings
