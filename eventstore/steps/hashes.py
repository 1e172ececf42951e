"""The write side's form of an agent: a Redis hash of short strings.

Values over 64 bytes would double what a hash takes. `command_id` and `claimed` are kept beside
these fields by the scripts, and fields that a newer version added stay where they are.
"""

from collections.abc import Mapping

from eventstore.errors import Unreadable
from eventstore.language.agents import Agent, Status, Stop


def to_hash(agent: Agent) -> dict[str, str]:
    """The write side's form of an agent: short strings. `command_id` is kept by the scripts."""
    return {
        "status": agent.status.value,
        "pool_name": agent.pool_name,
        "role_type": agent.role_type,
        "project_id": agent.project_id,
        "process_id": agent.worker_id,
        "incarnation": str(agent.incarnation),
        "version": str(agent.version),
        "epoch": str(agent.epoch),
        "claim_seq": str(agent.claim_seq),
        "stop": agent.stop.value,
        "reason": agent.reason,
        "heartbeat_interval": f"{agent.heartbeat_interval:.15g}",
        "max_idle_time": "" if agent.max_idle_time is None else f"{agent.max_idle_time:.15g}",
        "expires_ms": str(agent.expires_ms),
        "due_ms": str(agent.due_ms),
        "failures": ",".join(_base36(at) for at in agent.failures),
        "losses": ",".join(_base36(at) for at in agent.losses),
        "alone": "1" if agent.alone else "",
    }


def from_hash(agent_id: str, fields: Mapping[str, str]) -> Agent:
    """The inverse of `to_hash`; fields that a newer version added are passed over, and stay.

    Raises `Unreadable`.
    """
    try:
        return _from_hash(agent_id, fields)
    except KeyError as error:
        raise Unreadable("agent", agent_id, f"its hash has no field {error}") from error
    except ValueError as error:
        raise Unreadable("agent", agent_id, str(error)) from error


def _from_hash(agent_id: str, fields: Mapping[str, str]) -> Agent:
    return Agent(
        agent_id=agent_id,
        pool_name=fields["pool_name"],
        role_type=fields["role_type"],
        project_id=fields["project_id"],
        status=Status(fields["status"]),
        reason=fields["reason"],
        stop=Stop(fields["stop"]),
        incarnation=int(fields["incarnation"]),
        version=int(fields["version"]),
        worker_id=fields["process_id"],
        epoch=int(fields["epoch"]),
        claim_seq=int(fields["claim_seq"]),
        heartbeat_interval=float(fields["heartbeat_interval"]),
        max_idle_time=float(fields["max_idle_time"]) if fields["max_idle_time"] else None,
        expires_ms=int(fields["expires_ms"]),
        due_ms=int(fields["due_ms"]),
        failures=tuple(int(at, 36) for at in fields["failures"].split(",") if at),
        losses=tuple(int(at, 36) for at in fields["losses"].split(",") if at),
        alone=bool(fields.get("alone")),
    )


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
