"""replace the workers of a pool by new ones, few at a time

For new code of agents: each host imports it again. All workers of the pool are cordoned, and then
drain, one after the other; what they release runs in new workers. The next one follows when these
have proved themselves: they are ready, and their first agents run. Where they fail it stops, and
the old workers that are left get agents again. It goes on without this command, which only shows
its progress: the exit code is 1 if it has stopped.

  muster replace developer_pool --reason 'version 2.1'
  muster replace developer_pool --max-unavailable 3 --deadline 10m
  muster replace developer_pool --follow
  muster replace developer_pool --cancel
"""

import argparse
import time
from urllib.parse import quote

from eventstore.language.replacement import Replacement, ReplacementStatus
from muster.cli.arguments.command import CommandError, Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.arguments.values import span
from muster.cli.client.api_client import Answer, GatewayClient
from muster.cli.client.shapes import PoolAnswer, WorkerAnswer
from muster.cli.resources.pools import POOLS, replacement_text
from muster.cli.resources.workers import WORKERS
from muster.terminal import render

POLL_SECONDS = 1.0


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "replace", run, __doc__)
    parser.add_argument("pool", metavar="POOL")
    parser.add_argument("--max-unavailable", type=int, default=1, metavar="N",
                        help="so many workers may be gone at once (default: 1)")  # fmt: skip
    parser.add_argument("--deadline", metavar="SPAN", help="let the agents of each worker end by"
                        " themselves for so long: 90s, 10m, 1h30m")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the request")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for its end")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--follow", action="store_true", help="show the progress of one that runs")
    others.add_argument("--cancel", action="store_true", help="stop one that runs")
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    gateway = GatewayClient(args)
    path = f"{POOLS.path}/{quote(args.pool, safe='')}"
    reason: dict[str, object] = {"reason": args.reason} if args.reason else {}
    if args.cancel:
        answer = gateway.call("POST", f"{path}/replace/cancel", body=reason)
        return _show_end(answer, args)
    if not args.follow:
        body = {"max_unavailable": args.max_unavailable, **reason}
        if args.deadline:
            body["deadline_seconds"] = span(args.deadline, "--deadline")
        answer = gateway.call("POST", f"{path}/replace", body=body)
        if args.no_wait:
            return _show_end(answer, args)
    return _show_end(_wait(gateway, path, args), args)


def _wait(gateway: GatewayClient, path: str, args: argparse.Namespace) -> Answer:
    """The pool when no replacement runs any more. Ctrl-C ends only the waiting."""
    shown = ""
    while True:
        answer = gateway.get(path)
        replacement = answer.read(PoolAnswer).replacement
        if replacement is None:
            raise CommandError(f"the workers of pool {args.pool} were never replaced")
        if not replacement.runs:
            return answer
        items = list(WORKERS.items(gateway, {"pool_name": args.pool}, None))
        text = _progress(replacement, [WORKERS.read(item) for item in items])
        if text != shown and not is_json(args):
            print(text, flush=True)
        shown = text
        time.sleep(POLL_SECONDS)


def _progress(replacement: Replacement, workers: list[WorkerAnswer]) -> str:
    old = [one for one in workers if 0 < one.epoch < replacement.epoch and not one.ended_at]
    draining = sum(one.status == "draining" for one in old)
    new = [one for one in workers if one.epoch > replacement.epoch and not one.ended_at]
    starting = sum(one.status == "requested" for one in workers)
    left = f"{len(old)} of {render.count(replacement.workers, 'worker')} left"
    return f"{left}, {draining} of them draining; {len(new)} new, {starting} starting"


def _show_end(answer: Answer, args: argparse.Namespace) -> int:
    replacement = answer.read(PoolAnswer).replacement
    stopped = replacement is not None and replacement.status is ReplacementStatus.STOPPED
    if is_json(args):
        print_document(args, answer.document())
    elif replacement is None:
        print(f"the workers of pool {args.pool} were never replaced")
    else:
        print(replacement_text(args.pool, replacement))
    return int(stopped and not args.cancel)
