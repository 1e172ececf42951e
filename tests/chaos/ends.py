"""How agents of a run may end: on request, or by completing as their input says.

None has a time to idle or to wait, none is dropped by an operator, and none can spend its restart
budget (`configuration.py`). The judge believes such an end; here it means that an agent was lost.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tests.chaos.views import select

ASKED = frozenset({"requested", "pool-deleted"})


def ended(url: str) -> list[tuple[Any, ...]]:
    """The agents that have ended, by the views: pool, id, status, reason, input."""
    query = "SELECT pool_name, agent_id, status, reason, input FROM {}agents"
    return select(url, f"{query} WHERE status IN ('terminated', 'failed')")


def judge_ends(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Those that ended in another way."""
    for pool, agent_id, status, reason, recorded in rows:
        asked = json.loads(recorded or "{}").get("do") == "complete"
        if status == "failed" or not (reason in ASKED or (reason == "completed" and asked)):
            yield f"agent {agent_id} in {pool} ended without a request: {status}, {reason}"
