"""What the shadow policies of a pool would decide: recorded by its leader, and never done.

Each is decided in every round of the leader, on the survey of the real decision. Recorded is what
would change the number of workers, and the first decision of all: from there on it is compared. A
leader of another term begins again, with the workers that are there, as does a policy that changed.
"""

from collections.abc import Mapping

from msgspec import Struct

from eventstore.language.events import PoolShadowDecided
from eventstore.language.pool_config import PoolConfig
from eventstore.language.scale_policy import ScalePolicy
from eventstore.language.scaling_state import Observation
from eventstore.language.shadow import Shadow, ShadowDecision, decide_shadow
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.supervisor import scaling
from workers.supervisor.worker_monitor import PoolContext


class _Tried(Struct):
    """A policy, and what it would have; None: nothing is recorded of it yet."""

    policy: ScalePolicy
    shadow: Shadow | None = None


class Shadows:
    """Those of one pool, within one term of its leader."""

    def __init__(self, context: PoolContext, lead: Leadership) -> None:
        self._context = context
        self._lead = lead
        self._config: PoolConfig | None = None
        self._tried: dict[str, _Tried] = {}

    async def reconcile(self, seen: Observation, survey: Survey) -> None:
        """Decide and record. `seen`: what the real decision was made from."""
        config = self._context.pool().config
        if config is not self._config:
            self._config, self._tried = config, self._read(config.shadow_policies)
        if not self._tried:
            return
        thinness = scaling.thinness(survey, config)
        after: dict[str, Shadow] = {}
        step = self._context.pool_log.step()
        step.check(clauses.Leads(self._lead.host, self._lead.term))
        for name, tried in self._tried.items():
            before = tried.shadow or Shadow(running=seen.workers)
            decided, after[name] = decide_shadow(seen, tried.policy, before, thinness=thinness)
            if tried.shadow is None or decided.decision.desired != decided.decision.current:
                event = _event_of(name, decided, self._lead.term)
                step.event(event, self._context.pool_log.pool)
        if step.events and (await self._context.pool_log.commit(step)).outcome is not Outcome.DONE:
            return
        for name, shadow in after.items():
            self._tried[name].shadow = shadow

    def _read(self, policies: Mapping[str, ScalePolicy]) -> dict[str, _Tried]:
        """Go on with those that are the same."""
        known = self._tried
        return {
            name: known[name] if name in known and known[name].policy == policy else _Tried(policy)
            for name, policy in policies.items()
        }


def _event_of(name: str, decided: ShadowDecision, term: int) -> PoolShadowDecided:
    decision = decided.decision
    return PoolShadowDecided(
        policy=name,
        reason=scaling.reason_of(decision, decided.observed),
        current=decision.current,
        desired=decision.desired,
        wanted=decision.wanted,
        limit=decision.limit,
        term=term,
        candidates=decision.candidates,
        observed=decided.observed,
        memory=decided.memory,
    )
