"""let cordoned workers get agents again

Ends what `muster cordon` began. Agents that wait may then get the free slots of the worker.

muster uncordon 01a2b3c4
"""

import argparse

from muster.cli.arguments.command import Subparsers
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.worker_commands import declare_command, run_command


def add(subparsers: Subparsers) -> None:
    declare_command(subparsers, "uncordon", run, __doc__)


def run(args: argparse.Namespace) -> int:
    return run_command(args, "uncordon", _result)


def _result(worker: WorkerAnswer) -> str:
    return "is not cordoned" if worker.status == "active" else f"is {worker.status}"
