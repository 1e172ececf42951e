"""The form of a command's output: `-o json|jsonl|wide|name`, and `--json`."""

import argparse
from collections.abc import Sequence

from muster.terminal import render

JSON = ("json", "jsonl")
"""One indented document; or a document a line."""
LIST = (*JSON, "wide", "name")
"""Also a table that is never narrowed to the terminal; and only the names, for other commands."""


def add_output_flags(
    parser: argparse.ArgumentParser, formats: Sequence[str] = JSON, default: object = None
) -> None:
    """`default` SUPPRESS: for a nested parser."""
    choice = parser.add_mutually_exclusive_group().add_argument
    choice("-o", "--output", choices=formats, default=default, metavar="FORM",
           help=f"print {', '.join(formats[:-1])} or {formats[-1]}")  # fmt: skip
    choice("--json", action="store_const", const="json", dest="output", default=default,
           help="print JSON, for programs; as -o json")  # fmt: skip


def is_json(args: argparse.Namespace) -> bool:
    return args.output in JSON


def print_document(args: argparse.Namespace, document: object) -> None:
    """One document, as JSON in the requested form."""
    if args.output == "jsonl":
        print(render.json_line(document), flush=True)
    else:
        render.print_json(document)
