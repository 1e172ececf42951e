"""`muster workers`: the worker processes, how full they are and when they were last heard."""

import argparse
import time
from collections.abc import Sequence

import msgspec

from muster import render
from muster.commands import connecting
from muster.commands.answers import WorkerAnswer, WorkerList
from muster.commands.asking import BASE, Gateway
from muster.commands.command import Subparsers, declare, note

EXAMPLES = """\
  muster workers
  muster workers --pool developer_pool
  muster workers --json | jq '.[] | {worker_id, agent_count}'
"""


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "workers",
        run,
        summary="list worker processes",
        description="Lists the worker processes that live or are being started.",
        examples=EXAMPLES,
    )
    parser.add_argument("--pool", metavar="NAME", help="of this pool only")
    connecting.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    gateway = Gateway(connecting.service(args))
    listed = gateway.get(f"{BASE}/monitor/dashboard").read(WorkerList).workers
    found = [(msgspec.json.decode(raw, type=WorkerAnswer), raw) for raw in listed]
    found = [(worker, raw) for worker, raw in found if args.pool in (None, worker.pool_name)]
    if args.json:
        render.print_json([raw for _, raw in found])
    elif found:
        render.show(table([worker for worker, _ in found]))
    else:
        note("no workers")
    return 0


def table(found: Sequence[WorkerAnswer]) -> render.Table:
    now_ms = time.time() * 1000
    columns = (
        render.Column("WORKER"),
        render.Column("POOL"),
        render.Column("HOST", drop=2),
        render.Column("PID", right=True),
        render.Column("STATUS"),
        render.Column("AGENTS", right=True),
        render.Column("AGE", right=True),
        render.Column("HEARD", right=True),
        render.Column("LAG", right=True, drop=1),
        render.Column("REASON"),
    )
    return render.Table(columns, [_row(worker, now_ms) for worker in found])


def _row(worker: WorkerAnswer, now_ms: float) -> render.Row:
    return (
        worker.worker_id,
        worker.pool_name,
        render.tail_of(worker.host) if render.at_terminal() else worker.host,
        str(worker.pid or ""),
        render.status(worker.status),
        f"{worker.agent_count}/{worker.max_agents}",
        render.age(worker.started_at or worker.requested_at, now_ms),
        render.age(worker.last_heartbeat, now_ms),
        f"{worker.loop_lag_ms:.1f}ms" if worker.last_heartbeat else "",
        render.Cell(worker.reason, "dim"),
    )
