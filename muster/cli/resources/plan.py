"""show which workers of a pool could be emptied

Where agents are spread over more workers than they need, some workers can be emptied: their agents
are moved to free slots of the others. Shows which ones and why, and why not the others. The exit
code is 4 if there is something to do, else 0.

  muster plan developer_pool
  muster plan developer_pool --busy
  muster plan developer_pool --json
"""

import argparse
from collections.abc import Sequence
from urllib.parse import quote

from msgspec import Struct

from muster.cli.arguments.command import Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import GatewayClient
from muster.cli.resources.pace import add_watch_flags
from muster.cli.resources.pools import POOLS
from muster.terminal import render

TO_DO = 4
"""The exit code where there is something to do."""


class PlannedWorkerAnswer(Struct, frozen=True, kw_only=True):
    worker_id: str = ""
    host: str = ""
    agents: int = 0
    busy: int = 0
    free: int = 0
    action: str = ""
    started: bool = False
    why: str = ""


class PlanAnswer(Struct, frozen=True, kw_only=True):
    """A plan as the gateway answers it."""

    workers_fewer: int = 0
    moves: int = 0
    running: bool = False
    why: str = ""
    workers: Sequence[PlannedWorkerAnswer] = ()


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "plan", run, __doc__)
    parser.add_argument("pool", metavar="POOL", help="its name")
    parser.add_argument("--busy", action="store_true", help="as if busy agents may be moved, too")
    add_watch_flags(parser)
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    if args.watch:
        from muster.cli.resources import watching  # it starts slowly

        return watching.watch(args, _show)
    return _show(args)


def _show(args: argparse.Namespace) -> int:
    query = {"busy": "true" if args.busy else None}
    answer = GatewayClient(args).get(f"{path_of(args.pool)}/plan", query)
    plan = answer.read(PlanAnswer)
    if is_json(args):
        print_document(args, answer.document())
    else:
        print_plan(plan)
    return TO_DO if plan.workers_fewer else 0


def path_of(pool: str) -> str:
    return f"{POOLS.path}/{quote(pool, safe='')}"


def print_plan(plan: PlanAnswer) -> None:
    """Its workers, and a sentence that says what it comes to."""
    names = ("WORKER", "HOST", "AGENTS", "BUSY", "FREE", "ACTION", "WHY")
    columns = tuple(
        render.Column(name, right=name in {"AGENTS", "BUSY", "FREE"}, drop=int(name == "HOST"))
        for name in names
    )
    rows = [
        (
            render.id_cell(one.worker_id),
            render.id_cell(one.host),
            str(one.agents),
            str(one.busy),
            str(one.free),
            render.Cell(one.action, "yellow" if one.action == "empty" else ""),
            one.why,
        )
        for one in plan.workers
    ]
    if rows:
        render.show(render.Table(columns, rows))
        print()
    print(summary(plan))


def summary(plan: PlanAnswer) -> str:
    """What would be done, or why nothing would be."""
    running = " (under way)" if plan.running else ""
    if not plan.workers_fewer:
        return f"nothing to do: {plan.why}{running}"
    workers = render.count(plan.workers_fewer, "worker")
    return f"{workers} can be emptied{running}: {plan.why}"
