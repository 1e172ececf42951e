"""The alerts there are: the severity of each, its message, and what to do.

docs/operations.md lists them.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Final

from msgspec import Struct

from projector.queries.views import Timed


class Rule(Struct, frozen=True):
    """`message` and `action` are filled with the facts of each case."""

    severity: str
    """`warning` or `critical`."""
    message: str
    action: str


_warning, _critical = partial(Rule, "warning"), partial(Rule, "critical")

RULES: Final[Mapping[str, Rule]] = {
    "pool-at-maximum": _warning(
        "{pending} spawns wait; all {maximum} workers are full",
        "raise max_workers of the pool, or end agents that are not needed",
    ),
    "worker-lost": _warning(
        "worker {subject} was lost: {reason}",
        "its agents were started elsewhere; see the worker's log for the cause",
    ),
    "agent-failed": _critical(
        "agent failed: {reason}",
        "see last_error of the agent; `muster restart {subject}` once the cause is removed",
    ),
    "state-lost": _critical(
        "agent waits: the state that it saved last (save {save}) is in neither Redis nor the"
        " database",
        "put the table agent_states back from a backup and run `muster restart {subject}`, or start"
        " it without: `muster restart {subject} --discard-state`",
    ),
    "role-unavailable": _critical(
        "agents of pool {subject} wait: {reason}",
        "declare the role in the file of every supervisor, or repair its import or set-up, and"
        " restart them; the agents start then, and nothing was counted against them",
    ),
    "process-damaged": _warning(
        "an agent of pool {subject} changed the {what}, which cannot be put back",
        "see `agent.process_state_remains` in the worker's log and correct the agent; a worker was"
        " replaced for this before, within 24 hours, so this one goes on as it is",
    ),
    "projection-stopped": _critical("the views are stopped at seq {seq}: {status}", "{action}"),
    "projection-lag": _warning(
        "the views are {seconds:.1f} s and {events} events behind",
        "check the projector: is it running, and what does its log say?",
    ),
    "projector-unavailable": _critical(
        "the views cannot be written: {text}",
        "do what the message says; the projector then goes on by itself",
    ),
    "views-file-repaired": _warning(
        "{text}",
        "find out who touched that file; remove what was put aside once it is not needed",
    ),
    "views-wal-large": _warning(
        "{text}",
        "end that reader's transaction: another program that has the file open",
    ),
    "database-unreachable": _critical(
        "the views cannot be read: {reason}",
        "repair the database, or see `muster doctor`; agents are started and ended meanwhile, and"
        " only reads are refused",
    ),
    "redis-unreachable": _critical(
        "{error}",
        "start Redis, make room on its disk, or repair the network; everything resumes by itself",
    ),
    "redis-memory": _critical("Redis uses {share:.0%} of {limit}", "{action}"),
    "redis-rewrite-needed": _critical(
        "Redis could not write its append-only file for a while, and may be unable to read it at"
        " its next start",
        "run BGREWRITEAOF there now, before it is restarted; `muster up` does so with its own"
        " server",
    ),
    "redis-not-enough-replicas": _critical(
        "Redis accepts no writes: {reason}",
        "bring a replica back, or CONFIG SET min-replicas-to-write lower: workers lose their"
        " leases meanwhile",
    ),
    "commands-unsaved": _critical(
        "{count} acknowledged commands are not in the recovered log: {listed}",
        "`command.lost` in the gateway's log names them all; send them again",
    ),
    "fallback-active": _warning(
        "a {mode} on a log of its own replaces {primary}, which could not be reached at the"
        " start: {reason}",
        "repair that Redis; agents of its log do not run meanwhile",
    ),
    "fallback-can-end": _warning(
        "{primary} answers again, and this is still the fallback",
        "restart `muster up`: the next start hands over to it",
    ),
    "fallback-left-over": _critical(
        "not handed over from a fallback: {listed}",
        "see {path}; ask again for what is still wanted, then remove that file",
    ),
    "stream-not-trimmed": _warning(
        "{entries:,} events are in Redis; what is above {events_max:,}, or older than {hours:g} h,"
        " should have left it",
        "check the projector: only what it has archived can leave",
    ),
    "parked": _critical(
        "{count} in pool {subject} could not be processed and are parked",
        "`muster parked` says what and why; remove the cause, then retry or drop them",
    ),
    "tail-stopped": _critical(
        "{reason}", "restart this gateway in the version that writes such events"
    ),
}


class Alert(Timed, frozen=True, kw_only=True):
    """`since` is in milliseconds since 1970, null where it is not known."""

    name: str
    severity: str
    subject: str
    message: str
    action: str
    since: int | None = None
    since_time: datetime | None = None
    pool_name: str = ""


def alert_of(
    name: str, subject: str = "", *, pool: str = "", since: int | None = None, **details: object
) -> Alert:
    """An alert about a pool (empty: the catalogue), or about another subject."""
    rule, subject = RULES[name], subject or pool or "catalogue"
    facts = {"subject": subject, **details}
    message, action = rule.message.format(**facts), rule.action.format(**facts)
    return Alert(
        name=name,
        severity=rule.severity,
        subject=subject,
        message=message,
        action=action,
        since=since,
        pool_name=pool,
    )
