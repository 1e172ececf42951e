"""What commands on agents have in common: flags, many calls at once, and their results."""

import argparse
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeVar

from eventstore.language.durability import Level
from muster.cli.arguments.command import CommandError, print_error
from muster.cli.arguments.output import LIST, is_json
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.arguments.values import seconds
from muster.cli.client.api_client import BASE, TIMEOUT_SECONDS, Answer, GatewayClient
from muster.cli.client.shapes import AgentAnswer
from muster.terminal import render

R = TypeVar("R")
WAIT_SECONDS: Final = 5.0
THREADS_MAX: Final = 32
SIGNAL_SECONDS: Final = 0.2
"""How long Ctrl-C may take, where it comes just before a wait."""
NOT_REACHED: Final = 1
"""The exit code where the requested durability was not reached in time."""
COLUMNS: Mapping[str, Callable[[AgentAnswer], render.Cell | str]] = {
    "AGENT": lambda agent: render.id_cell(agent.agent_id),
    "STATUS": lambda agent: render.status(agent.status),
    "WORKER": lambda agent: render.id_cell(agent.process_id),
    "REASON": lambda agent: agent.reason,
}


def add_command_flags(parser: argparse.ArgumentParser, *, no_wait: str) -> None:
    """How long to wait for the outcome, the durability to reach before the answer, the gateway."""
    either = parser.add_mutually_exclusive_group().add_argument
    either("--wait", metavar="S", help=f"wait at most S seconds (default {WAIT_SECONDS:g})")
    either("--no-wait", action="store_true", help=no_wait)
    parser.add_argument("--durability", choices=[level.value for level in Level], help="the level"
                        " to be reached before the answer (default: the gateway's)")  # fmt: skip
    add_flags(parser, SERVICE_FLAGS, formats=LIST)


class CommandSender:
    """Sends commands with the flags above. Raises `BadInput`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._wait = 0.0 if args.no_wait else seconds(args.wait or str(WAIT_SECONDS), "--wait")
        prefer = f"wait={int(self._wait)}" if self._wait >= 1 else "respond-async"
        level = {"Muster-Durability": args.durability} if args.durability else {}
        self._headers = {"Prefer": prefer, **level}
        self.gateway = GatewayClient(args)

    def send(self, name: str, body: object, headers: Mapping[str, str] = {}) -> Answer:
        return self.gateway.call(
            "POST",
            f"{BASE}/{name}",
            body=body,
            headers={**self._headers, **headers},
            timeout_seconds=self._wait + TIMEOUT_SECONDS,
        )


def run_all(
    args: argparse.Namespace,
    send: Callable[[str], Answer],
    items: Sequence[str],
    columns: Sequence[str],
    progress: AbstractContextManager[Callable[[], None]] | None = None,
) -> int:
    """Send a command for each item, some at the same time; print all; returns the exit code.

    Without `progress` the items are agents, which errors name.
    """

    with progress or nullcontext(lambda: None) as advance:
        results = run_concurrently(partial(run_each, send, named=progress is None), items, advance)
    return print_results(args, results, columns)


def run_each(
    send: Callable[[str], Answer], item: str, *, named: bool = True
) -> tuple[Answer, AgentAnswer] | CommandError:
    """The result of one call. `named`: its error names the item."""
    try:
        answer = send(item)
        return answer, answer.read(AgentAnswer)
    except CommandError as error:
        if named and item not in str(error):
            error.args = (f"{item}: {error}",)
        return error


def print_results(
    args: argparse.Namespace,
    results: Sequence[tuple[Answer, AgentAnswer] | CommandError],
    columns: Sequence[str],
) -> int:
    """Print all, without columns only the errors; returns the exit code."""
    accepted = [result for result in results if not isinstance(result, CommandError)]
    if columns:
        _print_agents(args, accepted, columns)
    errors = [result for result in results if isinstance(result, CommandError)]
    unreached = [text for answer, _ in accepted if (text := _unreached(answer))]
    for text, number in Counter([*unreached, *map(str, errors)]).items():
        print_error(args.command, f"{text} ({number} times)" if number > 1 else text)
    return max([NOT_REACHED if unreached else 0, *(error.exit_code for error in errors)])


def _print_agents(
    args: argparse.Namespace, accepted: Sequence[tuple[Answer, AgentAnswer]], columns: Sequence[str]
) -> None:
    """JSON is a document a line in any case: it can be read before all have answered."""
    for answer, agent in accepted:
        if is_json(args):
            print(render.json_line(answer.document()), flush=True)
        elif args.output == "name":
            print(agent.agent_id)
    if accepted and args.output in (None, "wide"):
        rows = [[COLUMNS[name](agent) for name in columns] for _, agent in accepted]
        table = render.Table(tuple(map(render.Column, columns)), rows)
        render.show(table, fit=args.output != "wide")


def _unreached(answer: Answer) -> str:
    """The requested level of durability that was not reached, and why; empty if it was.

    That is not a refusal: the command is carried out. A script checks the exit code.
    """
    level, _, reason = answer.headers.get("muster-durability-pending", "").partition("; reason=")
    why = reason.strip('"')
    return f"accepted, but not yet {level}: {why}" if level else ""


def run_concurrently(
    call: Callable[[str], R], items: Sequence[str], advance: Callable[[], None]
) -> list[R]:
    """The results of `call` for each item, in order; raises the first error of a call.

    `advance` is called in the caller's thread after each result. Ctrl-C ends all calls at once: the
    threads of an executor would be joined.
    """
    results: list[Future[R]] = [Future() for _ in items]
    todo = deque(zip(items, results, strict=True))
    done: SimpleQueue[Future[R]] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                item, result = todo.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                result.set_result(call(item))
            except BaseException as error:  # noqa: BLE001  (raised in the caller)
                result.set_exception(error)
            done.put(result)

    try:
        for _ in range(min(len(items), THREADS_MAX)):
            Thread(target=work, daemon=True).start()
        for _ in items:
            _next(done).result()
            advance()
    finally:
        todo.clear()
    return [result.result() for result in results]


def _next(done: "SimpleQueue[R]") -> R:
    """Wait in parts: a signal that comes just before a wait does not end it."""
    while True:
        with suppress(Empty):
            return done.get(timeout=SIGNAL_SECONDS)
