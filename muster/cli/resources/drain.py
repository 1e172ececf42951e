"""let workers release their agents and end

A worker that drains gets no more agents. Those that it has are stopped in good order and run again
in other workers, with their ids; then it ends. The pool starts another worker if it needs one.

  muster drain 01a2b3c4
  muster drain 01a2b3c4 --reason 'the kernel is updated'
"""

import argparse
from urllib.parse import quote

from muster.cli.arguments.command import Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import GatewayClient
from muster.cli.client.names import full_id
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.workers import WORKERS
from muster.terminal import render


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "drain", run, __doc__)
    parser.add_argument("workers", nargs="+", metavar="WORKER", help="a worker's id, or"
                        " six or more characters of its beginning or end")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the request")
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    gateway = GatewayClient(args)
    ids = list(dict.fromkeys(full_id(gateway, "worker", text) for text in args.workers))
    body = {"reason": args.reason} if args.reason else {}
    for worker_id in ids:
        answer = gateway.call("POST", f"{WORKERS.path}/{quote(worker_id)}/drain", body=body)
        if is_json(args):
            print_document(args, answer.document())
            continue
        worker = answer.read(WorkerAnswer)
        agents = render.count(worker.agent_count, "agent")
        has = "has ended" if worker.ended_at else f"drains, and releases {agents}"
        print(f"worker {worker_id} {has}")
    return 0
