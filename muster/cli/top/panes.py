"""The columns of each list, what its filter finds, and how its items are named."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from muster.cli.client.shapes import AgentAnswer, AlertAnswer, PoolAnswer, WorkerAnswer
from muster.cli.events.lines import STYLES, RecordedEvent, details, number
from muster.cli.resources.ps import labels_text
from muster.cli.resources.ps import reason_text as reason_of_agent
from muster.cli.resources.workers import reason_text as reason_of_worker
from muster.cli.top.cells import SEVERITIES, slots, utilisation
from muster.cli.top.model import Model
from muster.cli.top.rows import Rows, Shown
from muster.terminal import render
from muster.terminal.render import Cell

T = TypeVar("T")
TABS: Final = ("pools", "workers", "agents", "events", "alerts")


def pools(model: Model) -> Rows[PoolAnswer]:
    def status(pool: PoolAnswer, _: float) -> Cell:
        if pool.config.get("paused"):
            return Cell("paused", "yellow")
        return render.status(pool.status)

    def failed(pool: PoolAnswer, _: float) -> Cell:
        found = model.failed(pool.pool_name)
        return Cell(f"{found:,}", "red" if found else "dim")

    return Rows(
        (
            Shown("POOL", 21, lambda one, _: one.pool_name, key=lambda one: one.pool_name),
            Shown("STATUS", 8, status, drop=1),
            Shown(
                "USED",
                8,
                lambda one, _: utilisation(one.used_capacity, one.total_capacity, 8),
                key=lambda one: -one.utilization,
            ),
            Shown(
                "SLOTS", 9, lambda one, _: f"{one.used_capacity}/{one.total_capacity}", right=True
            ),
            Shown("WORKERS", 7, lambda one, _: f"{one.process_count:,}", right=True, drop=2),
            Shown("FAILED", 6, failed, right=True, key=lambda one: -model.failed(one.pool_name)),
            Shown(
                "PENDING",
                7,
                lambda one, _: Cell(
                    f"{one.pending_count:,}", "yellow" if one.pending_count else "dim"
                ),
                right=True,
                key=lambda one: -one.pending_count,
            ),
            Shown("WAITING FOR", 30, lambda one, _: _waiting_for(model, one)),
        ),
        lambda one: one.pool_name,
        "no pools yet: muster pools create NAME --role ROLE, or [pools.NAME] in muster.toml",
        "pools",
        marks=True,
    )


def _waiting_for(model: Model, pool: PoolAnswer) -> Cell:
    waits = model.waits_for(pool.pool_name)
    if paused := pool.config.get("paused"):
        return Cell(f"paused: {paused}{f'; {waits}' if waits else ''}", "yellow")
    return Cell(waits, "dim")


def workers(model: Model) -> Rows[WorkerAnswer]:
    return Rows(
        (
            Shown("WORKER", 9, lambda one, _: render.short_id(one.worker_id)),
            Shown("POOL", 16, lambda one, _: one.pool_name, key=lambda one: one.pool_name, drop=3),
            Shown("SLOTS", 10, lambda one, _: slots(one, model.by_worker.get(one.worker_id, ()))),
            Shown(
                "USED",
                6,
                lambda one, _: f"{one.agent_count}/{one.max_agents}",
                right=True,
                key=lambda one: -one.agent_count,
            ),
            Shown("STATUS", 9, lambda one, _: _worker_status(one)),
            Shown("HOST", 14, lambda one, _: one.host, key=lambda one: one.host, drop=5),
            Shown(
                "AGE",
                6,
                lambda one, now: render.age(one.started_at or one.requested_at, now),
                right=True,
                drop=2,
                key=lambda one: one.started_at or one.requested_at or 0,
            ),
            Shown(
                "SEEN",
                5,
                lambda one, now: render.age(one.last_heartbeat, now),
                right=True,
                key=lambda one: one.last_heartbeat or 0,
            ),
            Shown(
                "LAG",
                7,
                lambda one, _: f"{one.loop_lag_ms:.0f}ms" if one.last_heartbeat else "",
                right=True,
                drop=4,
                key=lambda one: -one.loop_lag_ms,
            ),
            Shown(
                "MEMORY",
                7,
                lambda one, _: f"{one.memory_bytes / 1_000_000:.0f}MB" if one.memory_bytes else "",
                right=True,
                drop=6,
                key=lambda one: -one.memory_bytes,
            ),
            Shown("REASON", 20, lambda one, _: Cell(reason_of_worker(one), "dim")),
        ),
        lambda one: one.worker_id,
        "no workers yet: a pool starts them when it is asked for agents (muster spawn POOL)",
        "workers",
        marks=True,
    )


def _worker_status(worker: WorkerAnswer) -> Cell:
    if worker.cordoned and worker.status == "active":
        return Cell("cordoned", "yellow")
    return render.status(worker.status)


def agents() -> Rows[AgentAnswer]:
    return Rows(
        (
            Shown("AGENT", 9, lambda one, _: render.short_id(one.agent_id)),
            Shown(
                "STATE", 10, lambda one, _: render.status(one.status), key=lambda one: one.status
            ),
            Shown("NOW", 4, lambda one, _: one.activity, key=lambda one: one.activity, drop=3),
            Shown("POOL", 16, lambda one, _: one.pool_name, key=lambda one: one.pool_name, drop=1),
            Shown(
                "PROJECT", 12, lambda one, _: one.project_id, key=lambda one: one.project_id, drop=2
            ),
            Shown("WORKER", 9, lambda one, _: render.short_id(one.process_id), drop=4),
            Shown(
                "INC",
                3,
                lambda one, _: str(one.incarnation),
                right=True,
                drop=5,
                key=lambda one: -one.incarnation,
            ),
            Shown(
                "AGE",
                6,
                lambda one, now: render.age(one.created_at, now),
                right=True,
                key=lambda one: one.created_at,
            ),
            Shown("REASON", 30, lambda one, _: Cell(reason_of_agent(one), "dim")),
        ),
        lambda one: one.agent_id,
        "no agents: muster spawn POOL --project PROJECT asks for one",
        "agents",
        marks=True,
    )


def events() -> Rows[RecordedEvent]:
    def kind(event: RecordedEvent, _: float) -> Cell:
        name = event.fields.get("type", "?")
        return Cell(name, STYLES.get(name.partition(".")[2], ""))

    def text(event: RecordedEvent, _: float) -> Cell:
        return Cell(details(event.fields.get("data", "")), "dim")

    def clock(event: RecordedEvent, _: float) -> str:
        return render.timestamp(number(event.fields.get("ts", "")) or event.ms)[:-4]

    return Rows(
        (
            Shown("TIME", 8, clock),
            Shown("POSITION", 22, lambda one, _: f"{one.pool}:{one.seq}", drop=1),
            Shown("EVENT", 22, kind, key=lambda one: one.fields.get("type", "")),
            Shown("SUBJECT", 16, lambda one, _: render.short_id(one.fields.get("subject", ""))),
            Shown("WHAT", 30, text),
        ),
        lambda one: f"{one.pool}:{one.stream_id}",
        "no events yet",
        "events",
    )


def alerts() -> Rows[AlertAnswer]:
    def severity(alert: AlertAnswer, _: float) -> Cell:
        sign, style = SEVERITIES.get(alert.severity, ("? ", ""))
        return Cell(f"{sign} {alert.severity}", style)

    return Rows(
        (
            Shown("SEVERITY", 11, severity, key=lambda one: one.severity),
            Shown(
                "SINCE",
                6,
                lambda one, now: render.age(one.since, now),
                right=True,
                key=lambda one: one.since or 0,
            ),
            Shown("ALERT", 22, lambda one, _: one.name, key=lambda one: one.name),
            Shown("ABOUT", 16, lambda one, _: one.pool_name or render.short_id(one.subject)),
            Shown("COUNT", 5, lambda one, _: f"{one.count:,}", right=True, drop=1),
            Shown("MESSAGE", 30, lambda one, _: one.message),
        ),
        lambda one: f"{one.name}/{one.pool_name}/{one.subject}",
        "nothing is wrong",
        "alerts",
    )


# ---- what is found -----------------------------------------------------------------------------


def matching(items: Sequence[T], text: str) -> list[T]:
    """Items in which every word of a text is found. `state:failed` and the like are such words."""
    words = text.lower().split()
    if not words:
        return list(items)
    return [item for item in items if all(word in searched(item) for word in words)]


def searched(item: object) -> str:
    """The text of an item in which is searched."""
    return next(make(item) for kind, make in _SEARCHED if isinstance(item, kind)).lower()


def _agent(one: AgentAnswer) -> str:
    return (
        f"{one.agent_id} state:{one.status} pool:{one.pool_name} project:{one.project_id}"
        f" role:{one.role_type} worker:{one.process_id} {one.activity}"
        f" {labels_text(one.labels)} {reason_of_agent(one)}"
    )


def _worker(one: WorkerAnswer) -> str:
    state = "cordoned" if one.cordoned else one.status
    return (
        f"{one.worker_id} state:{state} {one.status} pool:{one.pool_name} host:{one.host} {one.pid}"
        f" {reason_of_worker(one)}"
    )


def _event(one: RecordedEvent) -> str:
    return f"pool:{one.pool}:{one.seq} {' '.join(one.fields.values())}"


_SEARCHED: Sequence[tuple[type, Callable[..., str]]] = (
    (AgentAnswer, _agent),
    (WorkerAnswer, _worker),
    (PoolAnswer, lambda one: f"pool:{one.pool_name} role:{one.role_type} {one.status}"),
    (RecordedEvent, _event),
    (
        AlertAnswer,
        lambda one: f"{one.severity} {one.name} pool:{one.pool_name} {one.subject} {one.message}",
    ),
)
