"""States as rows, and rows as states: nothing that a fold knows is lost in a table.

The projector restarts from its rows instead of replaying the log, so `agent_of(agent_record(a))`
is `a` again. A `Record` is a row as SQLAlchemy takes and gives it.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import RowMapping

from eventstore.language.agents import Agent, Status, Stop
from eventstore.language.catalogue import Host, Pool
from eventstore.language.events import Error
from eventstore.language.pool_config import read_config, write_config
from eventstore.language.workers import Worker, WorkerStatus

Record: TypeAlias = dict[str, Any]
Row: TypeAlias = RowMapping | Mapping[str, Any]

_labels = msgspec.json.Decoder(dict[str, str])
_error = msgspec.json.Decoder(Error)


def agent_record(agent: Agent, generation: int) -> Record:
    """`generation` is that of the log: with `claim_seq` it makes the fencing token.

    A log that is recovered has every claim given up, so a claim is of the log's own generation.
    """
    return {
        "agent_id": agent.agent_id,
        "pool_name": agent.pool_name,
        "role_type": _storable(agent.role_type),
        "project_id": _storable(agent.project_id),
        "status": agent.status.value,
        "reason": _storable(agent.reason),
        "stop": agent.stop.value,
        "incarnation": agent.incarnation,
        "version": agent.version,
        "process_id": agent.worker_id,
        "epoch": agent.epoch,
        "claim_seq": agent.claim_seq,
        "generation": generation if agent.claim_seq else 0,
        "heartbeat_interval": agent.heartbeat_interval,
        "max_idle_time": agent.max_idle_time,
        "expires_at": agent.expires_ms,
        "due_at": agent.due_ms,
        "failures": ",".join(map(str, agent.failures)),
        "losses": ",".join(map(str, agent.losses)),
        "alone": agent.alone,
        "input": bytes(agent.input).decode(),
        "labels": _json(agent.labels),
        "last_error": _json(agent.last_error) if agent.last_error else "",
        "created_at": agent.requested_ms,
        "started_at": agent.started_ms,
        "ended_at": agent.ended_ms,
        "changed_at": agent.changed_ms,
    }


def agent_of(row: Row) -> Agent:
    return Agent(
        agent_id=row["agent_id"],
        pool_name=row["pool_name"],
        role_type=row["role_type"],
        project_id=row["project_id"],
        status=Status(row["status"]),
        reason=row["reason"],
        stop=Stop(row["stop"]),
        incarnation=row["incarnation"],
        version=row["version"],
        worker_id=row["process_id"],
        epoch=row["epoch"],
        claim_seq=row["claim_seq"],
        heartbeat_interval=row["heartbeat_interval"],
        max_idle_time=row["max_idle_time"],
        expires_ms=row["expires_at"],
        due_ms=row["due_at"],
        failures=times(row["failures"]),
        losses=times(row["losses"]),
        alone=row["alone"],
        input=msgspec.Raw(row["input"].encode()),
        labels=labels(row),
        last_error=last_error(row),
        requested_ms=row["created_at"],
        started_ms=row["started_at"],
        ended_ms=row["ended_at"],
        changed_ms=row["changed_at"],
    )


def times(text: str) -> tuple[int, ...]:
    return tuple(int(at) for at in text.split(",") if at)


def labels(row: Row) -> dict[str, str]:
    return _labels.decode(row["labels"])


def last_error(row: Row) -> Error | None:
    return _error.decode(row["last_error"]) if row["last_error"] else None


def worker_record(worker: Worker, agent_count: int, isolated_agent: str) -> Record:
    """`alone`: the agent that has it for itself, if one does."""
    return {
        "worker_id": worker.worker_id,
        "pool_name": worker.pool_name,
        "host": _storable(worker.host),
        "pid": worker.pid,
        "start_time": worker.start_time,
        "status": worker.status.value,
        "reason": _storable(worker.reason),
        "draining": worker.draining,
        "epoch": worker.epoch,
        "version": worker.version,
        "agent_count": agent_count,
        "alone": isolated_agent,
        "max_agents": worker.max_agents,
        "deadline_at": worker.deadline_ms,
        "requested_at": worker.requested_ms,
        "started_at": worker.started_ms,
        "ended_at": worker.ended_ms,
    }


def worker_of(row: Row) -> Worker:
    return Worker(
        worker_id=row["worker_id"],
        pool_name=row["pool_name"],
        host=row["host"],
        max_agents=row["max_agents"],
        status=WorkerStatus(row["status"]),
        reason=row["reason"],
        draining=row["draining"],
        version=row["version"],
        epoch=row["epoch"],
        pid=row["pid"],
        start_time=row["start_time"],
        deadline_ms=row["deadline_at"],
        requested_ms=row["requested_at"],
        started_ms=row["started_at"],
        ended_ms=row["ended_at"],
    )


def pool_record(pool: Pool) -> Record:
    return {
        "pool_name": pool.pool_name,
        "role_type": _storable(pool.role_type),
        "config": bytes(write_config(pool.config, pool.unknown)).decode(),
        "deleted": pool.deleted,
        "version": pool.version,
        "created_seq": pool.created_seq,
        "created_at": pool.created_ms,
        "changed_at": pool.changed_ms,
    }


def pool_of(row: Row) -> Pool:
    config, unknown = read_config(row["config"].encode())
    return Pool(
        pool_name=row["pool_name"],
        role_type=row["role_type"],
        config=config,
        unknown=unknown,
        deleted=row["deleted"],
        version=row["version"],
        created_seq=row["created_seq"],
        created_ms=row["created_at"],
        changed_ms=row["changed_at"],
    )


def host_record(host: Host) -> Record:
    return {
        "host": host.host,
        "hostname": _storable(host.hostname),
        "pid": host.pid,
        "status": host.status,
        "reason": _storable(host.reason),
        "version": host.version,
        "joined_at": host.joined_ms,
        "changed_at": host.changed_ms,
    }


def host_of(row: Row) -> Host:
    return Host(
        host=row["host"],
        hostname=row["hostname"],
        pid=row["pid"],
        status=row["status"],
        reason=row["reason"],
        version=row["version"],
        joined_ms=row["joined_at"],
        changed_ms=row["changed_at"],
    )


def _storable(text: str) -> str:
    """PostgreSQL holds every character but this one."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
