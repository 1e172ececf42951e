"""let workers release their agents and end

A worker that drains gets no more agents. Those that it has are stopped in good order and run again
in other workers, with their ids; then it ends. The pool starts another worker if it needs one.

  muster drain 01a2b3c4
  muster drain 01a2b3c4 --reason 'the kernel is updated'
"""

import argparse

from muster.cli.arguments.command import Subparsers
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.worker_commands import declare_command, run_command
from muster.terminal import render


def add(subparsers: Subparsers) -> None:
    declare_command(subparsers, "drain", run, __doc__)


def run(args: argparse.Namespace) -> int:
    return run_command(args, "drain", _result)


def _result(worker: WorkerAnswer) -> str:
    return f"drains, and releases {render.count(worker.agent_count, 'agent')}"
