"""move agents of a pool, so that it needs fewer workers

Does what `muster plan` shows, and waits for it: workers are cordoned and their agents released,
at most `moves_per_minute` of the pool, to go on in other workers. Empty workers end. Ctrl-C only
ends the waiting.

  muster consolidate developer_pool
  muster consolidate developer_pool --busy --reason 'before the night'
  muster consolidate developer_pool --no-wait
"""

import argparse
import time

from muster.cli.arguments.command import Subparsers, declare, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import Answer, GatewayClient
from muster.cli.resources.plan import PlanAnswer, path_of, print_plan
from muster.terminal import render

POLL_SECONDS = 1.0


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "consolidate", run, __doc__)
    parser.add_argument("pool", metavar="POOL", help="its name")
    parser.add_argument("--busy", action="store_true", help="move busy agents, too")
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the request")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it is done")
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    gateway = GatewayClient(args)
    body = {"busy": args.busy, **({"reason": args.reason} if args.reason else {})}
    answer = gateway.call("POST", f"{path_of(args.pool)}/consolidate", body=body)
    plan = answer.read(PlanAnswer)
    if not is_json(args):
        print_plan(plan)
    if plan.running and not args.no_wait:
        answer = _wait(gateway, args, plan)
    if is_json(args):
        print_document(args, answer.document())
    return 0


def _wait(gateway: GatewayClient, args: argparse.Namespace, plan: PlanAnswer) -> Answer:
    """Until nothing of it is under way; returns the last plan."""
    first, shown = len(plan.workers), ""
    query = {"busy": "true" if args.busy else None}
    while True:
        time.sleep(POLL_SECONDS)
        answer = gateway.get(f"{path_of(args.pool)}/plan", query)
        plan = answer.read(PlanAnswer)
        if not plan.running:
            break
        progress = f"{render.count(plan.moves, 'agent')} to move from"
        progress += f" {render.count(plan.workers_fewer, 'worker')}"
        if progress != shown:
            print_note(progress)
            shown = progress
    if not is_json(args):
        print(f"pool {args.pool}: {first} workers before, {len(plan.workers)} now")
    return answer
