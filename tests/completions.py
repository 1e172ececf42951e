"""The table of what shells complete, made from the commands as they are.

python -m tests.completions        stores it: after a command or an option has changed
"""

import argparse
import json
from typing import Any, Final

from muster.cli.completion.table import FLAG, PATH, TEXT, Command
from muster.cli.main import command_line

KINDS: Final = {
    "pool": "pool", "pools": "pool", "project": "project", "role": "role", "state": "state",
    "status": "state", "agent": "agent", "agents": "agent", "worker": "worker",
    "workers": "worker", "types": "event-type",
}  # fmt: skip
"""The kind of a value, by the name of what it is parsed into."""
BY_COMMAND: Final = {
    ("describe", "words"): "name",
    ("explain", "name"): "name",
    ("logs", "name"): "name",
    ("parked", "ids"): "agent",
    ("pools", "name"): "pool",
    ("token", "name"): "token",
    ("webhooks", "name"): "webhook",
    ("pools", "role"): "role",
}
METAVARS: Final = {"FILE": "file", "DIR": "directory"}


def current_table() -> dict[str, Command]:
    """The table of the commands as they are now."""
    parsers, helps = _nested(command_line())
    found = {name: _command(name, parser) for name, parser in parsers.items()}
    for name, text in helps.items():
        found[name]["help"] = text
    return found


def encoded(table: dict[str, Command]) -> str:
    """The content of the file: a line for each command."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(command, ensure_ascii=False, sort_keys=True)}"
        for name, command in sorted(table.items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _nested(parser: argparse.ArgumentParser) -> tuple[dict[str, argparse.ArgumentParser], Any]:
    """The nested parsers and their helps, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            return dict(action._name_parser_map), helps
    return {}, {}


def _command(name: str, parser: argparse.ArgumentParser) -> Command:
    options: dict[str, list[str]] = {}
    words: list[str] = []
    more = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        kind = _kind(name, action)
        for option in action.option_strings:
            if option.startswith("--"):
                options[option] = [kind, action.help or ""]
        if not action.option_strings:
            words.append(kind)
            more = action.nargs in ("+", "*", argparse.REMAINDER)
    nested, helps = _nested(parser)
    actions = {one: _command(name, inner) | {"help": helps[one]} for one, inner in nested.items()}
    return {"options": options, "words": words, "more": more, "actions": actions, "help": ""}


def _kind(command: str, action: argparse.Action) -> str:
    if action.option_strings and action.nargs == 0:
        return FLAG
    if action.choices:
        return f"one of {' '.join(map(str, action.choices))}"
    known = BY_COMMAND.get((command, action.dest)) or KINDS.get(action.dest)
    return known or METAVARS.get(str(action.metavar), TEXT)


if __name__ == "__main__":
    PATH.write_text(encoded(current_table()), encoding="utf-8")
