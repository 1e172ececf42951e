"""Invariant 6: every row of the views against a fold of the log, at the position of the views."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from tests.chaos.judging import catalogue as catalogues
from tests.chaos.judging import pools, usage
from tests.chaos.judging.agents import Agent
from tests.chaos.judging.catalogue import TOKEN, Declared, Host, Token
from tests.chaos.judging.database import Database, Row
from tests.chaos.judging.entries import CATALOGUE
from tests.chaos.judging.history import Head, History
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.workers import Worker

JSON: Final = frozenset(
    {
        "input",
        "labels",
        "last_error",
        "config",
        "replacement",
        "scopes",
        "pools",
        "projects",
        "secrets",
    }
)
SINCE: Final = frozenset(
    {"alone", "has_run", "well_at", "failures_in_row", "losses_in_row", "restart"}
)
"""Columns that older views do not have."""
DEFAULT_INTERVAL: Final = 30.0


def judge(history: History, database: Database, *, at_rest: bool) -> Iterator[Offence]:
    """Compare one log's rows. At rest the views must have applied everything."""
    pool, row = history.pool, database.checkpoint(history.pool)
    at = Head(int(row["generation"]), int(row["seq"])) if row else Head()
    end = history.entries[-1] if history.entries else None
    if row is not None and row["status"] != "ok":
        yield Offence(6, f"its projection stopped: {row['status']}", pool)
    if at.seq and not history.contains(at.generation, at.seq):
        yield Offence(6, f"the views are at {at.generation}:{at.seq}, which the log has not", pool)
        return
    if (history.archived_to.generation, history.archived_to.seq) < (at.generation, at.seq):
        why = f"the archive ends at seq {history.archived_to.seq}, the views are at {at.seq}"
        yield Offence(5, why, pool)
    if at_rest and end is not None and (end.generation, end.seq) != (at.generation, at.seq):
        yield Offence(7, f"at rest the views are at seq {at.seq}, the log at {end.seq}", pool)
    if pool == CATALOGUE:
        yield from _judge_catalogue(history, database, at)
    else:
        yield from _judge_pool(history, database, at)


def judge_strays(logs: Collection[str], database: Database) -> Iterator[Offence]:
    """Rows of pools that have no log, so that no fold has them."""
    for table in ("agents", "workers"):
        for pool in sorted({str(row["pool_name"]) for row in database.views[table]} - set(logs)):
            yield Offence(6, f"in {table}: rows of a pool without a log", pool)


def _judge_catalogue(history: History, database: Database, at: Head) -> Iterator[Offence]:
    folded = catalogues.fold(history.up_to(at.generation, at.seq))
    declared = {name: pool_row(name, pool) for name, pool in folded.pools.items()}
    hosts = {name: host_row(name, host) for name, host in folded.hosts.items()}
    yield from compare("pools", CATALOGUE, declared, by(database.views["pools"], "pool_name"))
    yield from compare("hosts", CATALOGUE, hosts, by(database.views["hosts"], "host"))
    tokens = {row["name"]: row for row in map(token_row, folded.tokens.values())}
    yield from compare("tokens", CATALOGUE, tokens, by(database.views["tokens"], "name"))


def _judge_pool(history: History, database: Database, at: Head) -> Iterator[Offence]:
    pool = history.pool
    folded = pools.fold(pool, history.up_to(at.generation, at.seq))
    agents = {name: agent_row(name, pool, agent) for name, agent in folded.agents.items()}
    workers = {name: worker_row(name, pool, worker) for name, worker in folded.workers.items()}
    found = {
        name: [row for row in database.views[name] if row["pool_name"] == pool]
        for name in ("agents", "workers")
    }
    for name, key, expected in (("agents", "agent_id", agents), ("workers", "worker_id", workers)):
        rows = by(found[name], key)
        wanted = {n: r for n, r in expected.items() if n in rows or not _left(r, database)}
        yield from compare(name, pool, wanted, rows)
    if "usage_sums" in database.views:
        entries = history.up_to(at.generation, at.seq)
        accounts, sums = database.views["usage_accounts"], database.views["usage_sums"]
        yield from usage.judge(pool, entries, accounts, sums)


def _left(row: Row, database: Database) -> bool:
    """Whether what ended so long ago may have left the views. An agent that failed stays."""
    ended = row["status"] in {"terminated", "stopped", "lost"} and not row.get("agent_count")
    return bool(ended and row["ended_at"] < database.ended_before)


def by(rows: list[Row], key: str) -> dict[str, Row]:
    return {str(row[key]): row for row in rows}


def compare(
    table: str, pool: str, expected: Mapping[str, Row], found: Mapping[str, Row]
) -> Iterator[Offence]:
    """All rows that differ, are missing, or have no cause in the log."""
    for name in sorted({*expected, *found}):
        wanted, row = expected.get(name), found.get(name)
        if wanted is None or row is None:
            why = "no event mentions it" if wanted is None else "it is missing"
            yield Offence(6, f"in {table}: {why}", pool, subject=name)
            continue
        for column, value in wanted.items():
            if column in SINCE and column not in row:
                continue
            if column not in row or not same(column, value, row[column]):
                why = f"in {table}: {column} is {row.get(column)!r}, the log says {value!r}"
                yield Offence(6, why, pool, subject=name)


def same(column: str, wanted: Any, found: Any) -> bool:
    if column not in JSON:
        return bool(
            wanted == (found.replace("\ufffd", "\0") if _replaced(wanted, found) else found)
        )
    decoded = json.loads(found) if found else None
    if column == "config" and isinstance(decoded, dict):  # defaults are filled in
        return {name: decoded.get(name) for name in wanted} == wanted
    return bool((wanted or None) == (decoded or None))


def _replaced(wanted: Any, found: Any) -> bool:
    """PostgreSQL cannot store one character."""
    return isinstance(wanted, str) and "\0" in wanted and isinstance(found, str)


# ---- rows --------------------------------------------------------------------------------------


def agent_row(name: str, pool: str, agent: Agent) -> Row:
    asked = agent.requested.body
    return {
        "agent_id": name,
        "pool_name": pool,
        "role_type": asked.get("role_type", ""),
        "project_id": asked.get("project_id", ""),
        "status": agent.status,
        "reason": agent.reason,
        "stop": agent.stop,
        "incarnation": agent.incarnation,
        "version": agent.version,
        "process_id": agent.worker,
        "epoch": agent.epoch,
        "claim_seq": agent.claim_seq,
        "generation": agent.generation if agent.claim_seq else 0,
        "heartbeat_interval": asked.get("heartbeat_interval", DEFAULT_INTERVAL),
        "max_idle_time": asked.get("max_idle_time"),
        "expires_at": agent.expires_ms,
        "due_at": agent.due_ms,
        "failures": ",".join(map(str, agent.failures)),
        "losses": ",".join(map(str, agent.losses)),
        "alone": agent.alone,
        "has_run": agent.has_run,
        "well_at": agent.well_ms,
        "failures_in_row": agent.failures_in_row,
        "losses_in_row": agent.losses_in_row,
        "restart": agent.restart,
        "input": asked.get("input", {}),
        "labels": asked.get("labels", {}),
        "last_error": agent.last_error,
        "created_at": agent.requested.ts,
        "started_at": agent.started_ms,
        "ended_at": agent.ended_ms,
        "changed_at": agent.changed_ms,
    }


def worker_row(name: str, pool: str, worker: Worker) -> Row:
    return {
        "worker_id": name,
        "pool_name": pool,
        "host": worker.host,
        "pid": worker.pid,
        "start_time": worker.start_time,
        "status": worker.status,
        "reason": worker.reason,
        "draining": worker.draining,
        "cordoned": worker.cordoned,
        "drain_at": worker.drain_ms,
        "cordon_kept": worker.kept,
        "epoch": worker.epoch,
        "version": worker.version,
        "agent_count": len(worker.holds),
        "alone": worker.alone,
        "max_agents": worker.max_agents,
        "deadline_at": worker.deadline_ms,
        "requested_at": worker.requested.ts,
        "started_at": worker.started_ms,
        "ended_at": worker.ended_ms,
    }


def pool_row(name: str, pool: Declared) -> Row:
    return {
        "pool_name": name,
        "role_type": pool.role_type,
        "config": pool.config,
        "deleted": pool.status == "deleted",
        "replacement": pool.replacement,
        "version": pool.version,
        "created_seq": pool.created_seq,
        "created_at": pool.created_ms,
        "changed_at": pool.changed_ms,
    }


def host_row(name: str, host: Host) -> Row:
    return {
        "host": name,
        "hostname": host.hostname,
        "pid": host.pid,
        "status": host.status,
        "reason": host.reason,
        "version": host.version,
        "joined_at": host.joined_ms,
        "changed_at": host.changed_ms,
    }


def token_row(token: Token) -> Row:
    created = token.created
    return {
        "name": created.subject.removeprefix(TOKEN),
        "scopes": created.body.get("scopes"),
        "pools": created.body.get("pools"),
        "projects": created.body.get("projects"),
        "secrets": token.secrets,
        "actor": created.actor,
        "version": token.version,
        "created_at": created.ts,
        "changed_at": token.changed_ms,
    }
