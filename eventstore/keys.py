"""The names of all Redis keys.

All keys of a pool have its name as hash tag, so that they share one Redis Cluster slot and a script
may use any of them.
"""

import re
from typing import Final

POOL_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}")
CATALOGUE: Final = ""
"""Used in place of a pool's name for the catalogue."""
GROUP: Final = "workers"
"""The consumer group of every pool's commands."""

CATALOGUE_PARTS: Final = ("meta", "snapshot", "hosts", "retiring", "salvage")
"""Of the catalogue, besides its stream and what expires within minutes."""


class Keys:
    """Key names with an optional prefix (`MUSTER_KEY_PREFIX`)."""

    def __init__(self, prefix: str = "") -> None:
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"key prefix {prefix!r}: braces would break hash tags")
        self.prefix = prefix
        self.catalogue = f"{prefix}muster:catalogue"
        self._catalogue_part = f"{prefix}{{{self.catalogue}}}"
        self.alerts = f"{prefix}muster:alerts"

    def pool(self, pool: str, part: str) -> str:
        """A key of a pool: `meta`, `events`, `commands`, `inbox:<worker>` …

        The catalogue has `events`, `snapshot`, `meta`, `hosts` and `salvage`.
        """
        if pool == CATALOGUE:
            return self.catalogue if part == "events" else f"{self._catalogue_part}:{part}"
        return f"{self.prefix}pool:{{{pool}}}:{part}"

    def alerts_part(self, part: str) -> str:
        """A key next to the stream of alerts, in its slot: `meta`, `open`, `reports`."""
        return f"{self.prefix}{{{self.alerts}}}:{part}"

    def renamed(self) -> dict[str, str]:
        """The keys that had the prefix only within their hash tag, and their names now."""
        if not self.prefix:
            return {}
        old = f"{{{self.catalogue}}}"
        return {f"{old}:{part}": self.pool(CATALOGUE, part) for part in CATALOGUE_PARTS}

    def agent(self, pool: str, agent_id: str) -> str:
        return f"{self.prefix}agent:{{{pool}}}:{agent_id}"

    def state(self, pool: str, agent_id: str) -> str:
        """What an agent saved last."""
        return f"{self.prefix}state:{{{pool}}}:{agent_id}"

    def process(self, pool: str, worker_id: str) -> str:
        return f"{self.prefix}process:{{{pool}}}:{worker_id}"
