"""A pool's leader, where the projector has published a forecast."""

import asyncio
import time

from eventstore.language.events import PoolScalingDecided
from eventstore.language.forecast import AHEAD, STEP_MS, Forecast
from eventstore.language.scaling import decide_scale
from eventstore.log import forecasts
from tests.integration.workers.hosts import POOL, Site
from tests.integration.workers.test_scaling_decisions import decisions
from tests.waiting import until


async def publish(site: Site) -> Forecast:
    """Fifteen agents more within seven seconds, by a rate that stays."""
    now = int(time.time() * 1000)
    made = Forecast(now - now % STEP_MS, 0.8, growth=(650,) * AHEAD)
    await forecasts.publish(site.log.client, site.log.keys, {POOL: made})
    return made


async def test_an_idle_pool_gets_workers_for_the_growth_that_is_expected(site: Site) -> None:
    """Its decision says how good the forecast was, and can be made again."""
    pool = await site.pool(forecast="on")
    host = await site.host(poll_seconds=60.0)
    await until(lambda: POOL in host._pools and host._pools[POOL].idle)
    made = await publish(site)
    await until(lambda: decisions(site))
    event: PoolScalingDecided = decisions(site)[0]
    assert (event.reason, event.desired) == ("forecast", 2)
    assert event.candidates == {"load": 0, "forecast": 2, "min-workers": 0}
    assert event.observed is not None
    assert event.memory is not None
    assert event.observed.forecast == made
    again, _ = decide_scale(event.observed, pool.pool.config.scale_policy, event.memory)
    assert again.desired == 2
    await until(lambda: not host._pools[POOL].idle)


async def test_one_that_is_only_recorded_starts_nothing(site: Site) -> None:
    pool = await site.pool(forecast="only")
    await site.host()
    await publish(site)
    await asyncio.gather(*(pool.spawn() for _ in range(5)))
    await site.until_running(5)
    event = decisions(site)[0]
    assert (event.reason, event.desired) == ("pending-spawns", 1)
    assert event.candidates["forecast"] >= 2
