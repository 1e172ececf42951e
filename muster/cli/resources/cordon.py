"""let workers get no more agents

A cordoned worker gets no more agents; those that it has run on. Its free slots are no room: agents
that wait get another worker. It counts as one of the pool's workers, and is kept also if it is
empty, until it is uncordoned or drained.

  muster cordon 01a2b3c4
  muster cordon 01a2b3c4 --reason 'its memory grows'
"""

import argparse

from muster.cli.arguments.command import Subparsers
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.worker_commands import declare_command, run_command
from muster.terminal import render


def add(subparsers: Subparsers) -> None:
    declare_command(subparsers, "cordon", run, __doc__)


def run(args: argparse.Namespace) -> int:
    return run_command(args, "cordon", _result)


def _result(worker: WorkerAnswer) -> str:
    if not worker.cordoned:
        return "drains already"
    return f"is cordoned, and has {render.count(worker.agent_count, 'agent')}"
