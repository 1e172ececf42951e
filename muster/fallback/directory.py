"""The folders of fallbacks. They are in the data folder, and its lock covers them.

    fallback/         serves: a log, its views and its identity, which last through restarts
    handover-<time>/  retired: it never serves again, and what it lists is being handed over
    fallback-<time>/  handed over: `views.db` is the archive of what happened

The names are the only marker of these states, so that each change is one rename.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from eventstore.atomic_file import read_json, sync_folder, write_json
from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import ConfigurationError
from eventstore.ids import new_id
from muster.settings.addresses import sqlite_address

SERVING: Final = "fallback"
RETIRED: Final = "handover"
DONE: Final = "fallback"


class Identity(Struct, frozen=True, kw_only=True):
    """Which log this is. `real` is the address that it serves for, without a password."""

    log_id: str
    real: str
    reason: str
    since_ms: int


class Folder:
    """The folder of one fallback."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._identity = self.path / "identity.json"
        self._log = self.path / "redis"

    @property
    def exists(self) -> bool:
        return self._identity.exists() or self._log.exists()

    @property
    def views_url(self) -> str:
        return sqlite_address(self.path / "views.db")

    def open(self, real: str, reason: str) -> Identity:
        """The log that is there, else a new one. Raises `ConfigurationError`."""
        if self.exists:
            return self.identity()
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            identity = Identity(
                log_id=new_id(), real=real, reason=reason, since_ms=int(time.time() * 1000)
            )
            write_json(self._identity, identity)
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be used: {error.strerror}") from None
        return identity

    def identity(self) -> Identity:
        """Raises `ConfigurationError`."""
        return read_json(self._identity, Identity)

    def server(self) -> EmbeddedServer:
        return EmbeddedServer(self._log)

    def retire(self) -> None:
        """Never serve this log again. Its server must have ended."""
        now = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        self.rename(_unused(self.path.with_name(f"{RETIRED}-{now}")))

    def done_path(self) -> Path:
        """Where a retired folder is stored once all of it is handed over."""
        name = self.path.name.replace(RETIRED, DONE, 1)
        return _unused(self.path.with_name(name))

    def rename(self, target: Path) -> None:
        self.path.rename(target)
        sync_folder(target.parent)


def serving(data_dir: Path) -> Folder:
    """The fallback that serves, or would."""
    return Folder(data_dir / SERVING)


def retired(data_dir: Path) -> list[Folder]:
    """Those that wait to be handed over, the oldest first."""
    return [Folder(path) for path in sorted(data_dir.absolute().glob(f"{RETIRED}-*"))]


def not_handed_over(data_dir: Path) -> list[Folder]:
    """All that agents may live in, the oldest first."""
    latest = serving(data_dir)
    return [*retired(data_dir), *([latest] if latest.exists else [])]


def _unused(path: Path) -> Path:
    """The path, or the first free one with a number after it."""
    target, number = path, 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}-{number}")
    return target
