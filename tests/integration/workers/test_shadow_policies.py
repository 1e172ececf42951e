"""What a running supervisor records of the policies that are only tried."""

import asyncio
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from eventstore.language.agent_commands import Terminate
from eventstore.language.events import PoolShadowDecided
from eventstore.language.scaling import decide_scale
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, raw_events
from tests.waiting import until

SHADOW: dict[str, dict[str, Any]] = {
    "generous": {"buffer": 25, "max_workers": 100},
    "hasty": {"down": {"window_seconds": 0}},
    "late": {"up": {"window_seconds": 1000}},
}


def decisions(site: Site, policy: str) -> list[PoolShadowDecided]:
    found = [e["data"] for e in raw_events(site.url) if e["type"] == "pool.shadow_decided"]
    decided = [msgspec.json.decode(data, type=PoolShadowDecided) for data in found]
    return [one for one in decided if one.policy == policy]


async def test_what_other_policies_would_do_is_recorded_and_not_done(site: Site) -> None:
    """They begin with the workers that there are, and each goes on with its own."""
    pool = await site.pool(max_workers=3)
    await site.host()
    ids = [(await pool.spawn()).agent_id for _ in range(15)]
    await site.until_running(15)
    assert not any(e["type"] == "pool.shadow_decided" for e in raw_events(site.url))
    tried = partial(replace, shadow=SHADOW)
    policies = (await site.catalogue.change_pool(POOL, tried, ORIGIN)).catalogue.pools[POOL].config
    await until(lambda: all(decisions(site, name) for name in SHADOW), timeout=5)
    first = {name: decisions(site, name)[0] for name in SHADOW}
    assert {name: (one.current, one.desired) for name, one in first.items()} == {
        "generous": (2, 4), "hasty": (2, 2), "late": (2, 2),
    }  # fmt: skip
    await asyncio.gather(*(site.log.act(POOL, one, Terminate(), ORIGIN) for one in ids))
    await until(lambda: decisions(site, "hasty")[-1].desired == 0, timeout=5)
    assert len(await site.workers()) == 2
    for event in (one for name in SHADOW for one in decisions(site, name)):
        policy = policies.shadow_policies[event.policy]
        decision, _ = decide_scale(event.observed, policy, event.memory)
        assert (decision.current, decision.desired) == (event.current, event.desired)
        assert (decision.wanted, decision.limit) == (event.wanted, event.limit)
        assert decision.candidates == event.candidates
    assert len(decisions(site, "late")) == 1, "the first, and none that changes nothing"
    site.check()
