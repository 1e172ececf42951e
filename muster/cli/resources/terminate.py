"""`muster terminate`: ends agents, and waits a while until they have ended."""

import argparse
from urllib.parse import quote

from muster.cli.arguments import targets
from muster.cli.arguments.command import CommandError, Subparsers, declare, print_error
from muster.cli.arguments.values import agent_id
from muster.cli.client import flags
from muster.cli.client.api_client import BASE, Answer, GatewayClient
from muster.cli.client.concurrency import run_concurrently
from muster.cli.client.flags import CommandOptions
from muster.cli.client.shapes import AgentAnswer
from muster.terminal import render

HELP = """\
end agents

Ends agents for good: their `stop` is called first. One that has already ended is shown as it is.

  muster terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
  muster terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e --now
  muster ps --project demo --json | jq -r '.[].agent_id' | xargs muster terminate --no-wait
"""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "terminate", run, HELP)
    parser.add_argument("agents", nargs="+", metavar="AGENT", help="an agent's id")
    parser.add_argument("--pool", default="", metavar="NAME", help="their pool (saves a look-up)")
    parser.add_argument("--now", action="store_true", help="do not call their `stop`")
    flags.add_wait_flags(parser, no_wait="do not wait for their end")
    flags.add_durability_flag(parser)
    targets.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(agent_id(text) for text in args.agents))
    options, gateway = flags.command_options(args), GatewayClient(targets.service(args))
    results = run_concurrently(lambda one: _terminate(gateway, one, args, options), ids)
    answers = [answer for answer in results if isinstance(answer, Answer)]
    _print_agents(answers, as_json=args.json)
    code = flags.print_unreached("terminate", [flags.unreached_level(answer) for answer in answers])
    for target_id, answer in zip(ids, results, strict=True):
        if isinstance(answer, CommandError):
            print_error("terminate", f"{target_id}: {answer}")
            code = max(code, answer.exit_code)
    return code


def _terminate(
    gateway: GatewayClient, target_id: str, args: argparse.Namespace, options: CommandOptions
) -> Answer | CommandError:
    try:
        pool = args.pool or _pool_of(gateway, target_id)
        return gateway.call(
            "POST",
            f"{BASE}/terminate",
            body={"pool_name": pool, "agent_id": target_id, "graceful": not args.now},
            headers=options.headers,
            timeout_seconds=options.timeout_seconds,
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
