"""A command that acts on agents, one or many: what is asked before, and what is said after."""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from muster.cli.arguments.command import CommandError, print_note
from muster.cli.client.api_client import Answer
from muster.cli.resources.agent_commands import (
    CommandSender,
    print_results,
    run_concurrently,
    run_each,
)
from muster.cli.resources.progress_bar import progress_bar
from muster.cli.resources.selection import (
    Selected,
    is_selective,
    list_selected,
    require_confirmation,
    select,
)
from muster.terminal import render

COLUMNS: Final = ("AGENT", "STATUS", "REASON")
SHOWN_MAX: Final = 20
"""Of more agents that were selected by flags only a summary is printed, and what failed."""


class Words(Struct, frozen=True):
    """How a command is spoken of: `terminating`, `terminated`."""

    doing: str
    done: str


def act_on_agents(
    args: argparse.Namespace,
    words: Words,
    states: Sequence[str],
    send: Callable[[CommandSender, Selected], Answer],
) -> int:
    """Send the command for each agent that `args` name or select; returns the exit code.

    `states`: those of the agents that are meant where no state is named. Raises `CommandError`.
    """
    sender = CommandSender(args)
    selected = select(sender.gateway, args, states)
    if not selected:
        print_note(f"no agents to be {words.done}")
        return 0
    if args.dry_run:
        return list_selected(sender.gateway, args, selected, words.done)
    selective = is_selective(args)
    if selective:
        require_confirmation(len(selected), args, words.done)
    by_id = {one.agent_id: one for one in selected}
    attempt = partial(run_each, lambda agent_id: send(sender, by_id[agent_id]))
    answered = 0
    try:
        with progress_bar(words.doing, len(selected)) as advance:

            def count() -> None:
                nonlocal answered
                answered += 1
                advance()

            results = run_concurrently(attempt, list(by_id), count)
    except KeyboardInterrupt:
        if selective:
            print_note(
                f"interrupted: {answered:,} of {len(selected):,} were answered; some others may"
                f" have been {words.done}, too: the same command with --dry-run lists the rest"
            )
        raise
    if selective:
        accepted = [result[1].status for result in results if not isinstance(result, CommandError)]
        print_note(summary(words, Counter(accepted), len(selected)))
    shows_all = not selective or len(selected) <= SHOWN_MAX or args.output is not None
    return print_results(args, results, COLUMNS if shows_all else ())


def summary(words: Words, accepted: Mapping[str, int], number: int) -> str:
    """What came of it, in a line. `accepted`: how many agents are now in which state."""
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(accepted.items()))
    refused = number - sum(accepted.values())
    failed = f"; not {words.done}: {refused:,}" if refused else ""
    return f"{words.done}: {sum(accepted.values()):,} of {render.count(number, 'agent')}" + (
        f" ({states}){failed}" if states else failed
    )
