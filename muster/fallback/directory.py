"""The fallback's folder: a log and views of its own, and an identity that lasts through restarts.

It stands in the data folder, whose lock is the one that covers it. Once all that lived in its log
has been handed over or named, it is renamed after its last day and kept: its `views.db` is the
archive of what happened.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import ConfigurationError
from eventstore.ids import new_id
from muster.process.atomic_file import sync_folder, write_atomic
from muster.settings.addresses import sqlite_address

NAME: Final = "fallback"


class Identity(Struct, frozen=True, kw_only=True):
    """Which log this is. `real` is what it stands in for, without a password."""

    log_id: str
    real: str
    reason: str
    since_ms: int


class Folder:
    """`path`: the data folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute() / NAME
        self._identity = self.path / "identity.json"
        self._log = self.path / "redis"

    @property
    def used(self) -> bool:
        """Whether there is a fallback log that nobody has taken over yet."""
        return self._identity.exists() or self._log.exists()

    @property
    def views_url(self) -> str:
        return sqlite_address(self.path / "views.db")

    def open(self, real: str, reason: str) -> Identity:
        """The log that is there, else a new one. Raises `ConfigurationError`."""
        if self.used:
            return self.identity()
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            identity = Identity(
                log_id=new_id(), real=real, reason=reason, since_ms=int(time.time() * 1000)
            )
            write_atomic(self._identity, msgspec.json.encode(identity))
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be used: {error.strerror}") from None
        return identity

    def identity(self) -> Identity:
        try:
            return msgspec.json.decode(self._identity.read_bytes(), type=Identity)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"{self._identity} cannot be read: {error}") from error

    def server(self, *, appendfsync: str) -> EmbeddedServer:
        return EmbeddedServer(self._log, appendfsync=appendfsync)

    def archive_path(self) -> Path:
        """Where the folder is to be kept: a name of its own, by the time."""
        day = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        target = self.path.with_name(f"{NAME}-{day}")
        number = 1
        while target.exists():
            number += 1
            target = self.path.with_name(f"{NAME}-{day}-{number}")
        return target

    def retire(self, target: Path) -> None:
        """Put the folder there, once its server has ended: there is no fallback any more."""
        self.path.rename(target)
        sync_folder(target.parent)
