"""The rules of alerts: when each is raised, how severe it is, what it says, and what to do.

`docs/operations.md` lists them, and has a runbook for each under its name.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

from msgspec import Struct

from eventstore.log import notices
from gateway.alerts import conditions, server_conditions
from gateway.alerts.conditions import Condition
from gateway.alerts.facts import DATABASE, REDIS, VIEWS

PENDING_SECONDS: Final = 300.0
WAL_UNARCHIVED_SECONDS: Final = 300.0
RUNBOOKS: Final = "docs/operations.md"


class Rule(Struct, frozen=True, kw_only=True):
    """`message` and `action` are filled with the details of a finding."""

    severity: str
    """`warning` or `critical`."""
    when: Condition
    message: str
    action: str
    for_seconds: float = 0.0
    """For so long the condition has to hold."""
    needs: tuple[str, ...] = ()
    """What must be readable to decide it: `redis`, `views`, `database`; with none it always is."""
    own: bool = False
    """Only the gateway that it is about knows, and reports it to the one that writes alerts."""


_warning, _critical = partial(Rule, severity="warning"), partial(Rule, severity="critical")

RULES: Final[Mapping[str, Rule]] = {
    # pools and their agents
    "failure-rate": _warning(
        when=conditions.failure_rate,
        message="{failures} failures at {tried} starts of agents of pool {subject} within five"
        " minutes",
        action="see last_error of the agents: `muster ps --pool {subject}`; something that all of"
        " them need has probably failed",
    ),
    "crash-looping": _warning(
        when=conditions.crash_looping,
        message="{several} of pool {pool} failed three times in a row or more; last: {reason}",
        action="`muster explain {subject}` says what happened; correct the cause, then `muster"
        " restart {subject}`, which ends its back-off",
    ),
    "agent-failed": _critical(
        when=conditions.agent_failed,
        message="{several} of pool {pool} failed: {reason}",
        action="see last_error of the agent; `muster restart {subject}` once the cause is removed",
    ),
    "pending-too-long": _warning(
        when=conditions.pending_too_long,
        for_seconds=PENDING_SECONDS,
        needs=(VIEWS,),
        message="{pending} spawns of pool {subject} wait, one for more than five minutes: {reason}",
        action="the reason says what they wait for; `muster explain {subject}` has the decisions of"
        " the scaling",
    ),
    "pool-at-maximum": _warning(
        when=conditions.pool_at_maximum,
        needs=(VIEWS,),
        message="{pending} spawns wait; all {maximum} workers are full",
        action="raise max_workers of the pool, or end agents that are not needed",
    ),
    "role-unavailable": _critical(
        when=conditions.role_unavailable,
        needs=(REDIS,),
        message="agents of pool {subject} wait: {reason}",
        action="declare the role in the file of every supervisor, or repair its import or set-up,"
        " and restart them; the agents start then, and nothing was counted against them",
    ),
    "state-lost": _critical(
        when=conditions.state_lost,
        needs=(VIEWS,),
        message="the state that {several} of pool {pool} saved last ({reason}) is in neither"
        " Redis nor the database",
        action="put the table agent_states back from a backup and run `muster restart {subject}`,"
        " or start it without: `muster restart {subject} --discard-state`",
    ),
    "process-damaged": _warning(
        when=conditions.process_damaged,
        needs=(REDIS,),
        message="an agent of pool {subject} changed the {what}, which cannot be put back",
        action="see `agent.process_state_remains` in the worker's log and correct the agent; a"
        " worker was replaced for this before, within 24 hours, so this one goes on as it is",
    ),
    "parked": _critical(
        when=conditions.parked,
        needs=(REDIS,),
        message="{number} in pool {subject} could not be processed and are parked",
        action="`muster parked` says what and why; remove the cause, then retry or drop them",
    ),
    # workers
    "worker-lost": _warning(
        when=conditions.worker_lost,
        message="lost {several} of pool {pool}: {reason}",
        action="its agents were started elsewhere; see the worker's log for the cause, and `muster"
        " explain {subject}`",
    ),
    "leases-lost": _critical(
        when=conditions.leases_lost,
        message="{several} of pool {pool} lost their leases within ten minutes: {reason}",
        action="check the load and the memory of their hosts, and the network to Redis; a longer"
        " lease_seconds of the pool bears longer pauses",
    ),
    # logs and views
    "log-halted": _critical(
        when=conditions.log_halted,
        needs=(REDIS,),
        message="the log of {subject} accepts no writes: {reason}",
        action="`muster recover` rebuilds the log from the archive; with --dry-run it only says"
        " what is lost",
    ),
    "tail-stopped": _critical(
        when=conditions.tail_stopped,
        own=True,
        message="{reason}",
        action="restart this gateway in the version that writes such events",
    ),
    "commands-unsaved": _critical(
        when=conditions.commands_unsaved,
        own=True,
        message="{number} acknowledged commands are not in the recovered log: {listed}",
        action="`command.lost` in the gateway's log names them all; send them again",
    ),
    "projection-stopped": _critical(
        when=conditions.projection_stopped,
        needs=(VIEWS,),
        message="the views are stopped at seq {seq}: {status}",
        action="{action}",
    ),
    "projection-lag": _warning(
        when=conditions.projection_lag,
        needs=(REDIS, VIEWS),
        message="the views are {seconds:.1f} s and {events} events behind",
        action="check the projector: is it running, and what does its log say?",
    ),
    "stream-not-trimmed": _warning(
        when=conditions.archive_behind,
        needs=(REDIS,),
        message="{entries:,} events are in Redis; what is above {events_max:,}, or older than"
        " {hours:g} h, should have left it",
        action="check the projector: only what it has archived can leave",
    ),
    "projector-unavailable": _critical(
        when=conditions.notice(notices.UNAVAILABLE),
        needs=(REDIS,),
        message="the views cannot be written: {text}",
        action="do what the message says; the projector then goes on by itself",
    ),
    "views-file-repaired": _warning(
        when=conditions.notice(notices.REPAIRED),
        needs=(REDIS,),
        message="{text}",
        action="find out who touched that file; remove what was put aside once it is not needed",
    ),
    "views-wal-large": _warning(
        when=conditions.notice(notices.WAL_LARGE),
        needs=(REDIS,),
        message="{text}",
        action="end that reader's transaction: another program that has the file open",
    ),
    "archive-not-pruned": _warning(
        when=conditions.notice(notices.NOT_PRUNED),
        needs=(REDIS,),
        message="events that are older than the retention of the archive stay in it: {text}",
        action="do what the message says; nothing is lost, and the projector tries again every few"
        " minutes",
    ),
    "database-unreachable": _critical(
        when=conditions.database_unreachable,
        message="the views cannot be read: {reason}",
        action="repair the database, or see `muster doctor`; agents are started and ended"
        " meanwhile, and only reads are refused",
    ),
    "webhook-undelivered": _warning(
        when=conditions.webhook_undelivered,
        needs=(REDIS,),
        message="{number} messages to webhook {subject} were not accepted: {error}",
        action="`muster webhooks test {subject}` tries it; `muster webhooks dead` lists them, to be"
        " sent again or forgotten",
    ),
    # Redis and this host
    "redis-unreachable": _critical(
        when=conditions.redis_unreachable,
        message="{error}",
        action="start Redis, make room on its disk, or repair the network; everything resumes by"
        " itself",
    ),
    "redis-memory": _critical(
        when=conditions.redis_memory,
        needs=(REDIS,),
        message="Redis uses {share:.0%} of {limit}",
        action="{action}",
    ),
    "redis-cannot-save": _critical(
        when=conditions.redis_cannot_save,
        needs=(REDIS,),
        message="Redis cannot save its data: {error}",
        action="make room on its disk and see its log; what is only in its memory is lost with it",
    ),
    "redis-rewrite-needed": _critical(
        when=conditions.redis_rewrite_needed,
        needs=(REDIS,),
        own=True,
        message="Redis could not write its append-only file for a while, and may be unable to read"
        " it at its next start",
        action="run BGREWRITEAOF there now, before it is restarted; `muster up` does so with its"
        " own server",
    ),
    "redis-not-enough-replicas": _critical(
        when=conditions.redis_not_enough_replicas,
        message="Redis accepts no writes: {reason}",
        action="bring a replica back, or CONFIG SET min-replicas-to-write lower: workers lose their"
        " leases meanwhile",
    ),
    "clock-differs": _warning(
        when=conditions.clock_differs,
        needs=(REDIS,),
        message="log time, which is that of Redis, is {seconds:.0f} s {way} the clock of this host",
        action="synchronise the clocks of the hosts; back-offs, time-outs and retention go by log"
        " time, which never goes back",
    ),
    "disk-nearly-full": _critical(
        when=conditions.disk_nearly_full,
        message="{megabytes:,.0f} MB are free where the views are: {path}",
        action="make room there: without it neither the views nor the archive can be written, and"
        " Redis grows",
    ),
    # the server of the database, and certificates
    "database-wal-not-archived": _critical(
        when=server_conditions.wal_not_archived,
        for_seconds=WAL_UNARCHIVED_SECONDS,
        needs=(DATABASE,),
        message="PostgreSQL cannot archive its write-ahead log: {file} failed, and none was"
        " archived since",
        action="see its log for the error of archive_command; until it succeeds nothing leaves"
        " pg_wal, and no backup can be restored to a time after that",
    ),
    "database-wal-large": _warning(
        when=server_conditions.wal_large,
        needs=(DATABASE,),
        message="PostgreSQL keeps {megabytes:,.0f} MB of write-ahead log, where max_wal_size is"
        " {usual:,.0f} MB; because of {why}",
        action="see pg_replication_slots and pg_stat_archiver; drop a slot that is not needed,"
        " before the disk is full",
    ),
    "database-transaction-old": _warning(
        when=server_conditions.transaction_old,
        needs=(DATABASE,),
        message="a transaction has been open in the database for {hours:.1f} hours: {who}",
        action="end it, with pg_terminate_backend(PID) or ROLLBACK PREPARED: what was removed since"
        " then stays in the tables, which grow and get slower",
    ),
    "certificate-expires": _warning(
        when=server_conditions.certificate_expires,
        own=True,
        message="the certificate {use} {when}: {subject}",
        action="replace the file in time; new connections use it without a restart",
    ),
    "certificate-expires-soon": _critical(
        when=server_conditions.certificate_expires_soon,
        own=True,
        message="the certificate {use} {when}: {subject}",
        action="replace the file now; new connections use it without a restart",
    ),
    # fallbacks
    "fallback-active": _warning(
        when=conditions.fallback_active,
        message="a {mode} on a log of its own replaces {primary}, which could not be reached at the"
        " start: {reason}",
        action="repair that Redis; agents of its log do not run meanwhile",
    ),
    "fallback-can-end": _warning(
        when=conditions.fallback_can_end,
        message="{primary} answers again, and this is still the fallback",
        action="restart `muster up`: the next start hands over to it",
    ),
    "fallback-left-over": _critical(
        when=conditions.fallback_left_over,
        message="not handed over from a fallback: {listed}",
        action="see {path}; ask again for what is still wanted, then remove that file",
    ),
}


def runbook(name: str) -> str:
    """Where the runbook of an alert is."""
    return f"{RUNBOOKS}#{name}"
