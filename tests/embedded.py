"""The embedded server for tests that have no event loop, and wait until it serves."""

from eventstore.embedded.server import PONG, EmbeddedServer
from eventstore.errors import DirectoryInUse
from tests.waiting import until_sync

LOCK_SECONDS = 5.0
"""How long a predecessor on the directory may take to save and end."""


class WaitingServer(EmbeddedServer):
    """An embedded server whose start returns once it has loaded its data and answers."""

    def start(self) -> None:
        until_sync(self._launched, timeout=LOCK_SECONDS)
        try:
            until_sync(self._serves, timeout=60.0)
        except BaseException:
            self.stop()
            raise

    def _launched(self) -> bool:
        try:
            self.launch()
        except DirectoryInUse:
            return False
        return True

    def _serves(self) -> bool:
        self.require_running()
        return self.ping() == PONG
