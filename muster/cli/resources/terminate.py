"""`muster terminate`: ends agents, and waits a while until they have ended."""

import argparse
from collections.abc import Mapping
from urllib.parse import quote

from msgspec import Struct

from muster.cli.arguments import targets
from muster.cli.arguments.command import CommandError, Subparsers, declare, print_error
from muster.cli.arguments.values import agent_id, seconds
from muster.cli.client import durability
from muster.cli.client.api_client import BASE, TIMEOUT_SECONDS, Answer, GatewayClient
from muster.cli.client.concurrency import run_concurrently
from muster.cli.client.shapes import AgentAnswer
from muster.terminal import render

EXAMPLES = """\
  muster terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
  muster terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e --now
  muster ps --project demo --json | jq -r '.[].agent_id' | xargs muster terminate --no-wait
"""
WAIT_SECONDS = 5.0


class Request(Struct, frozen=True, kw_only=True):
    pool_name: str
    agent_id: str
    graceful: bool


class TerminateOptions(Struct, frozen=True, kw_only=True):
    """How agents end. An empty pool is looked up."""

    pool: str
    graceful: bool
    wait: float
    durability_header: Mapping[str, str]


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "terminate",
        run,
        summary="end agents",
        description="Ends agents for good: their `stop` is called first. One that has already ended"
        " is shown as it is.",
        examples=EXAMPLES,
    )
    parser.add_argument("agents", nargs="+", metavar="AGENT", help="an agent's id")
    parser.add_argument("--pool", default="", metavar="NAME", help="their pool (saves a look-up)")
    parser.add_argument("--now", action="store_true", help="do not call their `stop`")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait", metavar="S", help=f"wait at most S seconds (default {WAIT_SECONDS:g})"
    )
    waiting.add_argument("--no-wait", action="store_true", help="do not wait for their end")
    durability.add_flag(parser)
    targets.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(agent_id(text) for text in args.agents))
    wait = 0.0 if args.no_wait else seconds(args.wait or str(WAIT_SECONDS), "--wait")
    options = TerminateOptions(
        pool=args.pool, graceful=not args.now, wait=wait, durability_header=durability.header(args)
    )
    gateway = GatewayClient(targets.service(args))
    results = run_concurrently(lambda one: _terminate(gateway, one, options), ids)
    _print_agents([answer for answer in results if isinstance(answer, Answer)], as_json=args.json)
    answers = [answer for answer in results if isinstance(answer, Answer)]
    code = durability.print_pending("terminate", [durability.pending(answer) for answer in answers])
    for target_id, answer in zip(ids, results, strict=True):
        if isinstance(answer, CommandError):
            print_error("terminate", f"{target_id}: {answer}")
            code = max(code, answer.exit_code)
    return code


def _terminate(
    gateway: GatewayClient, target_id: str, options: TerminateOptions
) -> Answer | CommandError:
    try:
        pool = options.pool or _pool_of(gateway, target_id)
        return gateway.call(
            "POST",
            f"{BASE}/terminate",
            body=Request(pool_name=pool, agent_id=target_id, graceful=options.graceful),
            headers={
                "Prefer": f"wait={int(options.wait)}" if options.wait >= 1 else "respond-async",
                **options.durability_header,
            },
            timeout_seconds=options.wait + TIMEOUT_SECONDS,
        )
    except CommandError as error:
        return error


def _pool_of(gateway: GatewayClient, target_id: str) -> str:
    return gateway.get(f"{BASE}/{quote(target_id)}").read(AgentAnswer).pool_name


def _print_agents(answers: list[Answer], *, as_json: bool) -> None:
    if as_json:
        for answer in answers:
            print(render.json_line(answer.document()), flush=True)
    elif answers:
        agents = [answer.read(AgentAnswer) for answer in answers]
        columns = tuple(render.Column(name) for name in ("AGENT", "STATUS", "REASON"))
        rows = [(agent.agent_id, render.status(agent.status), agent.reason) for agent in agents]
        render.show(render.Table(columns, rows))
