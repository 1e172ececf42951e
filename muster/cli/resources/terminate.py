"""`muster terminate`: ask for the end of agents, and wait a while until they have ended."""

import argparse
from collections.abc import Mapping
from urllib.parse import quote

from msgspec import Struct

from muster.cli.arguments import targets
from muster.cli.arguments.command import CommandError, Subparsers, complain, declare
from muster.cli.arguments.values import agent_id, seconds
from muster.cli.client import durability
from muster.cli.client.api_client import BASE, TIMEOUT_SECONDS, Answer, Gateway
from muster.cli.client.concurrency import together
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


class Wish(Struct, frozen=True, kw_only=True):
    """How agents are to end. An empty pool: it is looked up."""

    pool: str
    graceful: bool
    wait: float
    assured: Mapping[str, str]


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "terminate",
        run,
        summary="end agents",
        description="Asks for the end of agents: their `stop` is called, then they are gone for"
        " good. One that has ended already is answered as it is.",
        examples=EXAMPLES,
    )
    parser.add_argument("agents", nargs="+", metavar="AGENT", help="an agent's id")
    parser.add_argument("--pool", default="", metavar="NAME", help="their pool (saves a look-up)")
    parser.add_argument("--now", action="store_true", help="do not call their `stop`")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument("--wait", metavar="S", help=f"wait so long (default {WAIT_SECONDS:g} s)")
    waiting.add_argument("--no-wait", action="store_true", help="do not wait for their end")
    durability.add_flag(parser)
    targets.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(agent_id(text) for text in args.agents))
    wait = 0.0 if args.no_wait else seconds(args.wait or str(WAIT_SECONDS), "--wait")
    wish = Wish(pool=args.pool, graceful=not args.now, wait=wait, assured=durability.header(args))
    gateway = Gateway(targets.service(args))
    ended = together(lambda one: _terminate(gateway, one, wish), ids)
    _tell([answer for answer in ended if isinstance(answer, Answer)], as_json=args.json)
    answers = [answer for answer in ended if isinstance(answer, Answer)]
    code = durability.complain("terminate", [durability.pending(answer) for answer in answers])
    for one, answer in zip(ids, ended, strict=True):
        if isinstance(answer, CommandError):
            complain("terminate", f"{one}: {answer}")
            code = max(code, answer.exit_code)
    return code


def _terminate(gateway: Gateway, one: str, wish: Wish) -> Answer | CommandError:
    try:
        pool = wish.pool or _pool_of(gateway, one)
        return gateway.call(
            "POST",
            f"{BASE}/terminate",
            body=Request(pool_name=pool, agent_id=one, graceful=wish.graceful),
            headers={
                "Prefer": f"wait={int(wish.wait)}" if wish.wait >= 1 else "respond-async",
                **wish.assured,
            },
            timeout_seconds=wish.wait + TIMEOUT_SECONDS,
        )
    except CommandError as error:
        return error


def _pool_of(gateway: Gateway, one: str) -> str:
    return gateway.get(f"{BASE}/{quote(one)}").read(AgentAnswer).pool_name


def _tell(answers: list[Answer], *, as_json: bool) -> None:
    if as_json:
        for answer in answers:
            print(render.json_line(answer.document()), flush=True)
    elif answers:
        agents = [answer.read(AgentAnswer) for answer in answers]
        columns = tuple(render.Column(name) for name in ("AGENT", "STATUS", "REASON"))
        rows = [(agent.agent_id, render.status(agent.status), agent.reason) for agent in agents]
        render.show(render.Table(columns, rows))
