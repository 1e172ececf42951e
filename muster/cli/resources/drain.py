"""let workers release their agents and end

A worker that drains gets no more agents. Those that it has are stopped in good order and run again
in other workers, with their ids; then it ends. The pool starts another worker if it needs one.
With --deadline its agents first have so long to end by themselves; `muster uncordon` withdraws it.

  muster drain 01a2b3c4
  muster drain 01a2b3c4 --reason 'the kernel is updated' --deadline 10m
"""

import argparse

from muster.cli.arguments.command import Subparsers
from muster.cli.arguments.values import span
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.worker_commands import declare_command, run_command
from muster.terminal import render


def add(subparsers: Subparsers) -> None:
    parser = declare_command(subparsers, "drain", run, __doc__)
    parser.add_argument("--deadline", metavar="SPAN", help="let its agents end by themselves for"
                        " so long: 90s, 10m, 1h30m")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    seconds = span(args.deadline, "--deadline") if args.deadline else 0.0
    return run_command(args, "drain", _result, {"deadline_seconds": seconds} if seconds else {})


def _result(worker: WorkerAnswer) -> str:
    agents = render.count(worker.agent_count, "agent")
    if worker.drain_at and worker.status != "draining":
        return f"drains at {render.timestamp(worker.drain_at)}, and has {agents}"
    return f"drains, and releases {agents}"
