"""`muster workers`: the worker processes, how full they are and when they were last heard."""

import argparse
from collections.abc import Iterator, Sequence

import msgspec

from muster.cli.arguments import targets
from muster.cli.arguments.command import Subparsers, declare, print_note
from muster.cli.client.api_client import BASE, Answer, GatewayClient
from muster.cli.client.as_of import add_as_of_flag, as_of, as_of_ms
from muster.cli.client.shapes import WorkerAnswer, WorkerPage
from muster.terminal import render

EXAMPLES = """\
  muster workers
  muster workers --pool developer_pool
  muster workers --all --as-of 14:03
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
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    add_as_of_flag(parser)
    targets.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    gateway = GatewayClient(targets.service(args))
    query = {
        "pool_name": args.pool,
        "include_ended": "true" if args.all else None,
        "as_of": as_of(args),
    }
    first = gateway.get(f"{BASE}/workers", query)
    now_ms = as_of_ms(first)
    found = list(_pages(gateway, first))
    if args.json:
        render.print_json(found)
    elif found:
        render.show(table([msgspec.json.decode(raw, type=WorkerAnswer) for raw in found], now_ms))
    else:
        print_note("no workers")
    return 0


def _pages(gateway: GatewayClient, first: Answer) -> Iterator[msgspec.Raw]:
    page = first.read(WorkerPage)
    while True:
        yield from page.workers
        if not page.next or not page.workers:
            return
        page = gateway.follow(page.next).read(WorkerPage)


def table(found: Sequence[WorkerAnswer], now_ms: float) -> render.Table:
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
        render.short_id(worker.host) if render.at_terminal() else worker.host,
        str(worker.pid or ""),
        render.status(worker.status),
        f"{worker.agent_count}/{worker.max_agents}",
        render.age(worker.started_at or worker.requested_at, now_ms),
        render.age(worker.last_heartbeat, now_ms),
        f"{worker.loop_lag_ms:.1f}ms" if worker.last_heartbeat else "",
        render.Cell(_reason(worker), "dim"),
    )


def _reason(worker: WorkerAnswer) -> str:
    """Why it is as it is: also that all of its slots are one agent's."""
    isolated = f"{worker.alone} runs alone: it was lost twice" if worker.alone else ""
    return "; ".join(text for text in (worker.reason, isolated) if text)
