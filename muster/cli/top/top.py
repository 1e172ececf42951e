"""watch everything, full screen, and act on it

Shows what is wrong, pools, workers with their slots, agents, events and alerts, as they change.
Enter shows one of them in full, with why it is so and its last error; keys terminate, restart,
drain, cordon and pause, and say before what they will touch. `?` lists the keys.

  muster top
  muster top --url https://muster.internal:8000
  MUSTER_API_TOKEN=… NO_COLOR=1 muster top
"""

import argparse
import asyncio
import sys

from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Subparsers, declare
from muster.cli.client.api_client import BASE, GatewayClient
from muster.terminal import render


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "top", run, __doc__)
    for name, (value, text) in targets.SERVICE_FLAGS.items():
        parser.add_argument(name, metavar=value, help=text)


def run(args: argparse.Namespace) -> int:
    if not (render.at_terminal() and sys.stdin.isatty()):
        raise BadInput(
            "this needs a terminal; `muster ps --watch` prints what changes anywhere, and `muster"
            " alerts` what is wrong"
        )
    GatewayClient(args).get(f"{BASE}/pools")  # what is wrong from the start is said in words
    asyncio.run(_show(targets.service_url(args), targets.token(args)))
    return 0


async def _show(url: str, token: str) -> None:
    from muster.cli.top.app import Top  # both take a while to import
    from muster.cli.top.connection import Connection

    async with Connection(url, token) as connection:
        await Top(connection).run_async()
