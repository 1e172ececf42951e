"""Commands that act on workers, one after the other."""

import argparse
from collections.abc import Callable, Mapping
from urllib.parse import quote

from muster.cli.arguments.command import Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import GatewayClient
from muster.cli.client.names import full_id
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.workers import WORKERS


def declare_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    doc: str | None,
) -> argparse.ArgumentParser:
    parser = declare(subparsers, name, run, doc or "")
    parser.add_argument("workers", nargs="+", metavar="WORKER", help="a worker's id, or"
                        " six or more characters of its beginning or end")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the request")
    add_flags(parser, SERVICE_FLAGS)
    return parser


def run_command(
    args: argparse.Namespace,
    name: str,
    result: Callable[[WorkerAnswer], str],
    more: Mapping[str, object] = {},
) -> int:
    """`result`: what became of a worker that has not ended; `more`: other fields of the body."""
    gateway = GatewayClient(args)
    ids = list(dict.fromkeys(full_id(gateway, "worker", text) for text in args.workers))
    body = {**({"reason": args.reason} if args.reason else {}), **more}
    for worker_id in ids:
        answer = gateway.call("POST", f"{WORKERS.path}/{quote(worker_id)}/{name}", body=body)
        if is_json(args):
            print_document(args, answer.document())
            continue
        worker = answer.read(WorkerAnswer)
        print(f"worker {worker_id} {'has ended' if worker.ended_at else result(worker)}")
    return 0
