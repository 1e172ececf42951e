"""For how long a value that others write has been the same, by this host's clock only."""

import time


class Observed:
    """A value, and for how long it has been the same, by this host's monotonic clock."""

    def __init__(self) -> None:
        self.value: object = None
        self.changed = False
        """Whether the last observation found another one."""
        self._key: object = None
        self._since: float | None = None
        self._now = 0.0

    def observe(self, value: object, key: object) -> None:
        """It is `value` now; `key` says whether that is another one than before."""
        self._now = time.monotonic()
        self.changed = key != self._key
        if self.changed or self._since is None:
            self._since = self._now
        self.value, self._key = value, key

    def interrupt(self) -> None:
        """Time in which nothing could be observed does not count."""
        self._since = None

    @property
    def age_seconds(self) -> float:
        """For how long it has been the same; 0 if it was never observed."""
        return 0.0 if self._since is None else self._now - self._since
