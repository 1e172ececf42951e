"""How often and how soon an agent that failed is started again."""

from typing import Final

from msgspec import Struct

RETRY_AFTER_MAX_MS: Final = 86_400_000
"""A day: the longest that an agent may say it has to wait."""


class RestartPolicy(Struct, frozen=True):
    """How often and how soon a failing agent is started again; times in milliseconds.

    `limit`: how many failures in a row are allowed; None: any number. `start_limit`: how many of an
    agent that was never started. An agent that ran for `window_ms` starts a new row.
    """

    limit: int | None = None
    start_limit: int = 5
    window_ms: int = 600_000
    backoff_min_ms: int = 1_000
    backoff_max_ms: int = 300_000

    def delay_ms(self, failures: int, jitter: float) -> int:
        """Exponential back-off; `jitter` in [0, 1) shortens it by up to half."""
        full_ms = min(self.backoff_min_ms << min(failures - 1, 30), self.backoff_max_ms)
        return max(int(full_ms * (1 - jitter / 2)), min(self.backoff_min_ms, full_ms))

    def wait_ms(self, retry_after_ms: int, jitter: float) -> int:
        """How long an agent waits that said for how long; `jitter` adds up to a tenth."""
        bounded_ms = min(max(retry_after_ms, self.backoff_min_ms), RETRY_AFTER_MAX_MS)
        return int(bounded_ms * (1 + jitter / 10))
