"""What users and programs rely on: HTTP, settings and commands, without prose or class names."""

import argparse
from typing import Any

import msgspec

from gateway.server.routes import build_document
from gateway.wire.problems import Body as ProblemBody
from gateway.wire.problems import Kind
from muster.cli.main import command_line
from muster.settings.settings import NAMES, Settings
from tests.golden_forms import Form


def surface_forms() -> Form:
    """Paths and bodies, problems, settings, commands."""
    defaults = Settings()
    return {
        "http": _wordless(_resolved(msgspec.to_builtins(build_document("0", token=True)))),
        "problem": [field.encode_name for field in msgspec.structs.fields(ProblemBody)],
        "problems": {kind.value: kind.status for kind in Kind if kind.status},
        "settings": {name: str(getattr(defaults, name)) for name in sorted(NAMES)},
        "commands": _commands(command_line()),
    }


def _resolved(document: Form) -> Form:
    """With each schema where it is referred to: their names are those of classes."""
    schemas = document["components"]["schemas"]

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(schemas[part["$ref"].rpartition("/")[2]])
            return {name: resolve(value) for name, value in part.items()}
        return [resolve(one) for one in part] if isinstance(part, list) else part

    for operations in document["paths"].values():  # each problem has the same body
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if not status.startswith("2"):
                    response.pop("content", None)
    found: Form = resolve(document["paths"])
    return found


def _wordless(part: Any, *, names: bool = False) -> Any:
    """Without prose. `names`: the keys are a schema's own."""
    if isinstance(part, list):
        return [_wordless(one) for one in part]
    if not isinstance(part, dict):
        return part
    prose = () if names else ("description", "summary", "title", "example", "operationId", "tags")
    return {
        name: _wordless(value, names=not names and name == "properties")
        for name, value in part.items()
        if name not in prose
    }


def _commands(parser: argparse.ArgumentParser) -> Form:
    """Every command and subcommand with its flags and arguments."""
    found: Form = {"takes": []}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: _commands(below) for name, below in action._name_parser_map.items()}
        else:
            found["takes"].append(" ".join(action.option_strings) or action.dest)
    return found
