"""Invariant 7: which keys may stay forever, which as long as their subject lives, and which not.

Restated from the documents. A key without an expiry and is neither is one that would
pile up.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from tests.chaos.judging.entries import CATALOGUE
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.pools import Pool

PERMANENT: Final = re.compile(
    r"pool:\{[^}]+\}:(events|commands|heartbeats|processes|agents|due|timeouts|orders|lost"
    r"|signals|meta|leader|alone|parked|stalled)"
    r"|muster:catalogue|\{muster:catalogue\}:(meta|hosts|snapshot|retiring)"
    r"|muster:alerts|\{muster:alerts\}:(meta|open|webhooks|deliveries|dead|hooks)"
)
OF_AGENT: Final = re.compile(r"(?:agent|state):\{([^}]+)\}:(.+)|pool:\{([^}]+)\}:spec:(.+)")
OF_WORKER: Final = re.compile(r"process:\{([^}]+)\}:(.+)|pool:\{([^}]+)\}:held:(.+)")


def judge(lasting: Iterable[str], prefix: str, pools: dict[str, Pool]) -> Iterator[Offence]:
    """`lasting`: the keys that do not expire. They were listed before the logs were read, so the
    logs know whatever a key is of."""
    for key in lasting:
        name = _without(prefix, key)
        if PERMANENT.fullmatch(name):
            continue
        if not _belongs(name, pools):
            yield Offence(7, "neither expires nor is permanent", pool_of(name), subject=key)


def fading(expiring: Iterable[str], prefix: str) -> Iterator[Offence]:
    """Permanent keys must not expire."""
    for key in expiring:
        name = _without(prefix, key)
        if PERMANENT.fullmatch(name):
            yield Offence(7, "it expires, and is permanent", pool_of(name), subject=key)


def _without(prefix: str, key: str) -> str:
    """The catalogue's hash tag has the prefix too."""
    return key.removeprefix(prefix).replace(f"{{{prefix}", "{", 1)


def _belongs(key: str, pools: dict[str, Pool]) -> bool:
    """Whether its subject is live."""
    if match := OF_AGENT.fullmatch(key):
        return _agent_is_live(pools.get(match[1] or match[3]), match[2] or match[4])
    if match := OF_WORKER.fullmatch(key):
        return _worker_is_stored(pools.get(match[1] or match[3]), match[2] or match[4])
    return False


def pool_of(key: str) -> str:
    """By its hash tag; the catalogue's name for what has none of a pool."""
    match = re.search(r"\{([^}]+)\}", key)
    return match[1] if match and not match[1].endswith("muster:catalogue") else CATALOGUE


def _agent_is_live(pool: Pool | None, name: str) -> bool:
    agent = pool.agents.get(name) if pool else None
    return agent is not None and not agent.ended


def _worker_is_stored(pool: Pool | None, name: str) -> bool:
    """It is live, or is still being reaped."""
    worker = pool.workers.get(name) if pool else None
    if pool is None or worker is None:
        return False
    return not worker.ended or bool(worker.fenced and name in pool.uncleared)
