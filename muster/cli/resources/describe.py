"""show an agent, a worker or a pool in full

Shows one agent (with its last error and events), one worker (with its agents) or one pool (with its
workers and settings), each with what happened to it and why, by its name or by six or more
characters of its id.

  muster describe agent 1a2c3d              an agent whose id begins or ends so
  muster describe 1a2c3d                    whatever has such an id
  muster describe pool developer_pool
  muster describe worker 1a2c3d --json      a worker, for a program
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

from eventstore.names import either
from muster.cli.arguments.command import BadInput, Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import BASE, GatewayClient
from muster.cli.client.names import resolve
from muster.cli.client.shapes import WorkerAnswer
from muster.cli.resources.agent_detail import print_facts, show_agent, when
from muster.cli.resources.as_of import add_as_of_flag, get_as_of
from muster.cli.resources.explain import print_explanation
from muster.cli.resources.pace import add_watch_flags
from muster.cli.resources.pools import print_pool
from muster.cli.resources.ps import AGENTS
from muster.cli.resources.workers import WORKERS, reason_text
from muster.settings.settings import abbreviate
from muster.terminal import render

KINDS: Final = ("agent", "worker", "pool")


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "describe", run, __doc__)
    parser.add_argument("words", nargs="+", metavar="NAME", help="a name or id, or six or more"
                        " characters of an id; `agent`, `worker` or `pool` (or agent/ and so on) in"
                        " front of it says which")  # fmt: skip
    add_watch_flags(parser)
    add_as_of_flag(parser)
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    if args.watch:
        from muster.cli.resources import watching  # it starts slowly

        return watching.watch(args, _show)
    return _show(args)


def _show(args: argparse.Namespace) -> int:
    kinds, text = _kinds_and_name(args.words)
    gateway = GatewayClient(args)
    found = resolve(gateway, text, *kinds)
    match found.kind:
        case "agent":
            explain = partial(print_explanation, gateway, found, args)
            return show_agent(gateway, found.name, args, explain)
        case "worker":
            code = _show_worker(gateway, found.name, args)
        case _:
            code = _show_pool(gateway, found.name, args)
    if not is_json(args):
        print_explanation(gateway, found, args)
    return code


def _kinds_and_name(words: Sequence[str]) -> tuple[Sequence[str], str]:
    """`agent 1a2c3d`, or only the name of something. Raises `BadInput`."""
    kind = words[0].removesuffix("s")
    if len(words) == 1:
        return KINDS, words[0]
    if len(words) == 2 and kind in KINDS:
        return (kind,), words[1]
    raise BadInput(f"{abbreviate(words[0])}: expected {either(KINDS)}, and its name or id")


def _show_worker(gateway: GatewayClient, worker_id: str, args: argparse.Namespace) -> int:
    answer = gateway.get(f"{WORKERS.path}/{quote(worker_id, safe='')}")
    agents = list(AGENTS.items(gateway, {"process_id": worker_id}, None))
    if is_json(args):
        print_document(args, {**answer.document(), "agents": agents})
        return 0
    worker = answer.read(WorkerAnswer)
    print_facts(
        [
            ("worker", worker.worker_id),
            ("pool", worker.pool_name),
            ("host", worker.host),
            ("pid", str(worker.pid or "")),
            ("status", render.status(worker.status)),
            ("reason", reason_text(worker)),
            ("agents", f"{worker.agent_count} of {worker.max_agents}"),
            ("requested", when(worker.requested_at)),
            ("started", when(worker.started_at)),
            ("last heartbeat", when(worker.last_heartbeat)),
            ("ended", when(worker.ended_at)),
        ]
    )
    if agents:
        print()
        render.show(AGENTS.table(agents))
    return 0


def _show_pool(gateway: GatewayClient, name: str, args: argparse.Namespace) -> int:
    answer, _ = get_as_of(gateway, f"{BASE}/pools/{quote(name, safe='')}", args)
    workers = [] if args.as_of else list(WORKERS.items(gateway, {"pool_name": name}, None))
    if is_json(args):
        print_document(args, {**answer.document(), "workers": workers})
        return 0
    print_pool(answer)
    if workers:
        print()
        render.show(WORKERS.table(workers))
    return 0
