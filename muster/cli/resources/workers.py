"""list worker processes

Lists the worker processes that run or are being started.

  muster workers
  muster workers --pool developer_pool
  muster workers --all --as-of 14:03
  muster workers --json | jq '.[] | {worker_id, agent_count}'
"""

import argparse

from muster.cli.arguments.command import Subparsers, declare
from muster.cli.client.api_client import BASE
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.terminal import render


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "workers", run, __doc__)
    parser.add_argument("--pool", metavar="NAME", help="of this pool only")
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    add_list_flags(parser)


def run(args: argparse.Namespace) -> int:
    query = {"pool_name": args.pool, "include_ended": "true" if args.all else None}
    return WORKERS.show(args, query)


def _lag(worker: WorkerAnswer) -> str:
    return f"{worker.loop_lag_ms:.1f}ms" if worker.last_heartbeat else ""


def _memory(worker: WorkerAnswer) -> str:
    return f"{worker.memory_bytes / 1_000_000:.0f}MB" if worker.memory_bytes else ""


def reason_text(worker: WorkerAnswer) -> str:
    """The reason for its status, that it is cordoned, and the isolated agent that it runs."""
    is_cordoned = worker.cordoned and worker.ended_at is None
    cordoned = f"cordoned: {worker.cordoned}" if is_cordoned else ""
    if is_cordoned and worker.drain_at and worker.status != "draining":
        cordoned += f", drains at {render.timestamp(worker.drain_at)}"
    if is_cordoned and worker.cordon_kept:
        cordoned += f", and by a person: {worker.cordon_kept}"
    isolated = f"{worker.alone} runs isolated: it was lost twice" if worker.alone else ""
    return "; ".join(text for text in (worker.reason, cordoned, isolated) if text)


WORKERS: Listing[WorkerAnswer] = Listing(
    path=f"{BASE}/workers",
    name="workers",
    item=WorkerAnswer,
    columns=(
        Column("WORKER", lambda one, _: render.id_cell(one.worker_id)),
        Column("POOL", lambda one, _: one.pool_name),
        Column("HOST", lambda one, _: render.id_cell(one.host), drop=2),
        Column("PID", lambda one, _: str(one.pid or ""), right=True),
        Column("STATUS", lambda one, _: render.status(one.status)),
        Column("AGENTS", lambda one, _: f"{one.agent_count}/{one.max_agents}", right=True),
        Column(
            "AGE",
            lambda one, now: render.age(one.started_at or one.requested_at, now),
            right=True,
            key=lambda one: -(one.started_at or one.requested_at or 0),
        ),
        Column(
            "HEARTBEAT",
            lambda one, now: render.age(one.last_heartbeat, now),
            right=True,
            key=lambda one: -(one.last_heartbeat or 0),
        ),
        Column(
            "LAG", lambda one, _: _lag(one), right=True, drop=1, key=lambda one: one.loop_lag_ms
        ),
        Column(
            "MEMORY",
            lambda one, _: _memory(one),
            right=True,
            drop=3,
            key=lambda one: one.memory_bytes,
        ),
        Column("REASON", lambda one, _: render.Cell(reason_text(one), "dim")),
    ),
    identity=lambda worker: worker.worker_id,
    empty="no workers",
)
