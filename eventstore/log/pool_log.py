"""One pool's log, written on behalf of one actor: `Log` with the pool and the origin bound.

The methods are those of `Log` under the same names, without these two arguments.
"""

from functools import partial

from eventstore.log.log import Log
from eventstore.steps.step import Origin


class PoolLog:
    """The write side of one pool, for one actor."""

    def __init__(self, log: Log, pool: str, origin: Origin) -> None:
        self.log = log
        self.pool = pool
        self.origin = origin
        self.step = partial(log.step, pool, origin)
        self.commit = log.commit
        self.act = partial(log.act, pool, origin=origin)
        self.act_on_worker = partial(log.act_on_worker, pool, origin=origin)
        self.claim = partial(log.claim, pool)
        self.park = partial(log.park, pool)
        self.lead = partial(log.lead, pool)
        self.allocate_epoch = partial(log.allocate_epoch, pool)
        self.survey = partial(log.survey, pool)
        self.agent = partial(log.agent, pool)
        self.worker = partial(log.worker, pool)
        self.saved_state = partial(log.saved_state, pool)
        self.held = partial(log.held, pool)
        self.live = partial(log.live, pool)
        self.waiting_isolated = partial(log.waiting_isolated, pool)
        self.now_ms = partial(log.now_ms, pool)
        self.high_water_mark = partial(log.high_water_mark, pool)
