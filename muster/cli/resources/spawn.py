"""`muster spawn`: starts one or more agents.

Every spawn has an `Idempotency-Key`: a generated one, or the user's (`--key`), with a number
appended where there are several. So a spawn with an unknown outcome can be repeated without
starting a second agent.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias
from urllib.parse import quote

from msgspec import Struct

from eventstore.ids import new_id
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, CommandError, Subparsers, declare, print_error
from muster.cli.arguments.values import json_object, pairs, seconds
from muster.cli.client import flags
from muster.cli.client.api_client import BASE, GatewayClient, NoReply
from muster.cli.client.concurrency import run_concurrently
from muster.cli.client.flags import CommandOptions
from muster.cli.client.shapes import AgentAnswer, PoolAnswer
from muster.terminal import render

HELP = """\
start agents

Starts agents in a pool and waits a while until they run.

  muster spawn developer_pool --project demo
  muster spawn developer_pool --project demo --count 15
  muster spawn developer_pool --project demo --input '{"task": "tidy up"}' --label team=red
  muster spawn developer_pool --project demo --input @task.json --max-idle-time never
  muster spawn developer_pool --project demo --key order-4711 --no-wait --json
  muster spawn developer_pool --project demo --durability replicated
"""
COUNT_MAX = 100_000
Request: TypeAlias = Mapping[str, object]


class Result(Struct, frozen=True):
    """One spawn: the agent and the answer, or the error."""

    agent: AgentAnswer | None
    document: object = None
    error: CommandError | None = None
    unreached: str = ""
    """The level of durability that was not reached, and why."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "spawn", run, HELP)
    parser.add_argument("pool", metavar="POOL", help="their pool")
    parser.add_argument("--project", required=True, metavar="ID", help="their project")
    parser.add_argument("--role", metavar="ROLE", help="their role (default: the pool's)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many (default 1)")
    parser.add_argument("--input", metavar="JSON", help="a JSON object, or @FILE, or @- for"
                        " standard input: the agent's `context.input`")  # fmt: skip
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="a label"
                        " (again for more)")  # fmt: skip
    parser.add_argument("--heartbeat-interval", metavar="S", help="seconds between checks")
    parser.add_argument("--max-idle-time", metavar="S", help="end them after S idle seconds,"
                        " or `never`")  # fmt: skip
    parser.add_argument("--pending-timeout", metavar="S", help="withdraw them if they did not start"
                        " within S seconds")  # fmt: skip
    flags.add_wait_flags(parser, no_wait="do not wait until they run")
    parser.add_argument("--key", metavar="TEXT", help="idempotency key: the same key again"
                        " returns the same agents")  # fmt: skip
    flags.add_durability_flag(parser)
    targets.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.count <= COUNT_MAX:
        raise BadInput(f"--count: {args.count} is not between 1 and {COUNT_MAX}")
    options = flags.command_options(args)
    request = _request(args)
    keys = _keys(args.key, args.count)
    gateway = GatewayClient(targets.service(args))
    request = {**request, "role_type": args.role or _role(gateway, args.pool)}
    results = spawn_all(gateway, request, keys, options)
    _print_results([result for result in results if result.agent], as_json=args.json)
    durability_code = flags.print_unreached("spawn", [result.unreached for result in results])
    return max(_print_errors([result.error for result in results if result.error]), durability_code)


def _request(args: argparse.Namespace) -> Request:
    """The body of a spawn; the gateway chooses values that are not given."""
    request: dict[str, object] = {"project_id": args.project, "pool_name": args.pool}
    for name in ("heartbeat_interval", "pending_timeout"):
        if (text := getattr(args, name)) is not None:
            request[name] = seconds(text, f"--{name.replace('_', '-')}")
    if args.max_idle_time is not None:
        request["max_idle_time"] = _idle(args.max_idle_time)
    if args.input:
        request["input"] = json_object(args.input, "--input")
    if args.label:
        request["labels"] = pairs(args.label, "--label")
    return request


def _idle(text: str) -> float | None:
    return None if text == "never" else seconds(text, "--max-idle-time")


def _role(gateway: GatewayClient, pool: str) -> str:
    return gateway.get(f"{BASE}/pools/{quote(pool, safe='')}").read(PoolAnswer).role_type


def _keys(key: str | None, count: int) -> list[str]:
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        raise BadInput("--key: expected printable ASCII")
    if key is None:
        return [new_id() for _ in range(count)]
    return [key] if count == 1 else [f"{key}-{number}" for number in range(1, count + 1)]


def spawn_all(
    gateway: GatewayClient, request: Request, keys: Sequence[str], options: CommandOptions
) -> list[Result]:
    """One spawn per key, some at the same time; results in the order of the keys."""
    if len(keys) == 1:
        return [_spawn(gateway, request, keys[0], options)]
    with _progress(len(keys)) as advance:
        return run_concurrently(lambda key: _spawn(gateway, request, key, options), keys, advance)


def _spawn(gateway: GatewayClient, request: Request, key: str, options: CommandOptions) -> Result:
    try:
        answer = gateway.call(
            "POST",
            f"{BASE}/spawn",
            body=request,
            headers={**options.headers, "Idempotency-Key": key},
            timeout_seconds=options.timeout_seconds,
        )
        agent, unreached = answer.read(AgentAnswer), flags.unreached_level(answer)
        return Result(agent, answer.document(), unreached=unreached)
    except NoReply as error:
        return Result(None, error=NoReply(f"{error}\n  to get its result, repeat with --key {key}"))
    except CommandError as error:
        return Result(None, error=error)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar, at a terminal."""
    screen = render.console(stderr=True)
    if not screen.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("spawning", total=total)
        yield lambda: progress.advance(task)


def _print_results(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        for result in results:
            print(render.json_line(result.document), flush=True)
    elif results:
        columns = tuple(render.Column(name) for name in ("AGENT", "STATUS", "WORKER", "REASON"))
        agents = [result.agent for result in results if result.agent]
        rows = [
            (agent.agent_id, render.status(agent.status), agent.process_id, agent.reason)
            for agent in agents
        ]
        render.show(render.Table(columns, rows))


def _print_errors(errors: Sequence[CommandError]) -> int:
    """Print the errors, equal ones once; returns the exit code."""
    for text, number in Counter(map(str, errors)).items():
        print_error("spawn", f"{text} ({number} times)" if number > 1 else text)
    return max((error.exit_code for error in errors), default=0)
