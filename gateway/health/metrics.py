"""`/metrics` of a gateway: what it has observed itself, and whether Redis and the views answer it.

What is true of the whole system the active projector reports (`projector/service/metrics.py`).
"""

from collections.abc import Sequence
from typing import Final

from eventstore.metrics.measures import Measures
from gateway.backend.backend import Backend
from gateway.backend.call import Call, answered_once
from gateway.health.facts import redis_facts
from gateway.wire.answer import Answer
from gateway.wire.problems import Problem

CONTENT_TYPE: Final = "text/plain"


@answered_once
async def metrics(call: Call) -> Answer:
    """Figures for Prometheus, of this gateway."""
    from eventstore.metrics import exposition

    text = exposition.expose(*await figures(call.backend))
    return Answer(text, content_type=exposition.CONTENT_TYPE)


async def figures(backend: Backend) -> Sequence[Measures]:
    """Those of now."""
    now = Measures()
    redis = await redis_facts(backend)
    now.set("muster_up", int(redis.reachable), "redis")
    now.set("muster_up", int(await _views_answer(backend)), "views")
    fallback = backend.options.fallback
    now.set("muster_fallback", int(fallback is not None))
    now.set("muster_fallback_can_end", int(bool(fallback and fallback.primary_reachable_ms)))
    return backend.observations.measures, now


async def _views_answer(backend: Backend) -> bool:
    try:
        async with backend.read_views():
            await backend.positions()
    except Problem:
        return False
    return True
