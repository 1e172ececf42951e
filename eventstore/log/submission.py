"""Submits a spawn in one step, which writes everything or nothing.

A submit has an operation id, which is recorded with a digest of the request. A repeated submit with
the same id is answered with the result of the first. A submit whose reply was lost is repeated in
the same way, so it never creates a second agent.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import LogError, OutcomeUnknown, Recovered
from eventstore.language import agent_commands
from eventstore.language.agent_commands import Spawn
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested
from eventstore.log.log import Log, proof_of
from eventstore.log.replies import Outcome, Proof, Reply
from eventstore.steps import clauses
from eventstore.steps.step import Origin, Step

SUBMIT_ATTEMPTS = 3
"""How often a submit is committed at most: repeated after a lost reply and after a recovery."""


class SubmitResult(Struct, frozen=True):
    """How a submit ended: DONE, KNOWN (see `same`), CLOSED or FULL."""

    outcome: Outcome
    agent_id: str = ""
    same: bool = True
    """For KNOWN: whether the first request with this operation id was the same."""
    waiting: int = 0
    """For FULL: how many spawns wait."""
    seq: int = 0
    """For DONE and KNOWN: of its event; 0 for KNOWN if the log was recovered since."""
    agent: Agent | None = None
    """For DONE: the agent as requested."""
    proof: Proof | None = None
    """For DONE and KNOWN: identifies what was written."""


async def submit(
    log: Log,
    pool: Pool,
    request: AgentRequested,
    origin: Origin,
    *,
    agent_id: str,
    operation_id: str,
    digest: str,
    earlier_digest: Callable[[], str] = str,
    from_client: bool = False,
) -> SubmitResult:
    """Request an agent. `from_client`: the operation id is an `Idempotency-Key`, retained longer.

    `earlier_digest`: what an earlier version recorded for the same request.
    The caller makes `agent_id` and `operation_id`, so that it can name them if no reply comes.
    Raises `OutcomeUnknown` if it is not known whether the spawn was written, even after a retry;
    and `LogUnreachable`, `LogMissing`, `RolledBack`, `MemoryExhausted`: then nothing was written.
    """
    ttl_ms = log.retention.keys_ms if from_client else log.retention.operation_ms
    recorded_ms = ttl_ms if from_client else 0
    request = replace(request, operation_id=operation_id, digest=digest, operation_ms=recorded_ms)
    step = log.step(pool.pool_name, origin)
    step.check(
        clauses.OperationNew(operation_id),
        clauses.PoolIs(pool.created_seq, takes_spawns=True),
        clauses.BacklogBelow(pool.config.backlog_limit),
    )
    bodies = agent_commands.decide(Spawn(request=request), None)
    agent = step.agent(agent_id, None, bodies, checked=False)  # new, since its operation is
    recorded = clauses.RecordOperation(operation_id, digest, agent_id, ttl_ms)
    step.write(recorded, clauses.SetMeta("created", pool.created_seq))
    reply = await _commit_with_retries(log, step)
    match reply.outcome:
        case Outcome.DONE:
            proof = proof_of(step, reply)
            return SubmitResult(Outcome.DONE, agent_id, seq=reply.seq, agent=agent, proof=proof)
        case Outcome.KNOWN:
            known_digest, known_id, known_seq = (value.decode() for value in reply.rest)
            position = reply.generation, reply.seq
            proof = Proof(pool.pool_name, "operation", operation_id, known_id, *position)
            same = known_digest == digest or known_digest == earlier_digest()
            return SubmitResult(Outcome.KNOWN, known_id, same, seq=int(known_seq), proof=proof)
        case Outcome.FULL:
            return SubmitResult(Outcome.FULL, waiting=int(reply.rest[0]))
        case Outcome.CLOSED:
            return SubmitResult(Outcome.CLOSED)
        case other:
            raise LogError(f"a submit ended as {other}")


async def _commit_with_retries(log: Log, step: Step) -> Reply:
    """Commit, and repeat it after a lost reply or a recovery of the log.

    A recovery restores the operation ids, so an attempt that was archived is known.
    """
    unknown: OutcomeUnknown | None = None
    recovered: Recovered | None = None
    for _ in range(SUBMIT_ATTEMPTS):
        try:
            return await log.commit(step, adds_load=True)
        except OutcomeUnknown as error:
            if unknown is not None:
                raise
            unknown = error
        except Recovered as error:
            recovered = error
        except LogError as error:
            if unknown is None:
                raise
            raise unknown from error
    assert recovered is not None, "each attempt returns or raises"
    raise unknown or recovered
