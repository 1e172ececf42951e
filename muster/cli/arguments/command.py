"""What all commands have in common: how they are declared, their errors and exit codes.

    exit code   means
    0           done
    1           refused, failed, or a problem was found
    2           wrong usage
    3           the service, Redis or the database does not answer
    130, 141    ended by Ctrl-C, or because the output was closed

    MusterError
    └── CommandError
        ├── Refused              1
        ├── BadInput             2
        └── ServiceUnreachable   3

A command raises one of these; its message is printed to standard error, without a traceback.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

from eventstore.errors import ConfigurationError, LogUnreachable, MusterError, ServerUnsuitable
from eventstore.names import unknown_name
from muster.settings.addresses import redacted
from muster.settings.environment import unknown_variables
from muster.settings.settings import locale_advice
from muster.terminal import render

INTERRUPTED = 130
BROKEN_PIPE = 141

Run: TypeAlias = Callable[[argparse.Namespace], int]
Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"


class CommandError(MusterError):
    """The command failed."""

    exit_code = 1


class Refused(CommandError):
    """The service refused the request. `kind`: the type of its problem, if it named one."""

    def __init__(self, message: str = "", *, kind: str = "") -> None:
        super().__init__(*filter(None, (message,)))
        self.kind = kind


class BadInput(CommandError):
    """The command was used wrongly."""

    exit_code = 2


class ServiceUnreachable(CommandError):
    """The service does not answer."""

    exit_code = 3


class Parser(argparse.ArgumentParser):
    """Names the word or flag that was probably meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = "command" if action.nargs == argparse.PARSER else "choice"
            names = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, unknown_name(kind, str(value), names))

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """End with what is wrong about arguments that were left over."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        flag, word = next((w for w in words if w.startswith("-")), ""), words[0]
        if flag:
            self.error(unknown_name("flag", flag.partition("=")[0], flags))
        self.error(f"what is `{word}`? It is one word too many")


def add_parser(subparsers: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    """`text`: what it does in a line, a paragraph, and examples, with empty lines between them."""
    # `python -OO` has removed the docstrings that some commands use as their texts.
    summary, description, examples = (text or "\n\n\n\n").split("\n\n", 2)
    parser: Parser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 80),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def declare(subparsers: Subparsers, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Add a command; `run` returns the exit code and may raise any `MusterError`."""
    parser = add_parser(subparsers, name, text)
    full_name = parser.prog.removeprefix("muster ")
    parser.set_defaults(run=lambda args: run_command(full_name, run, args), parser=parser)
    return parser


def run_command(name: str, run: Run, args: argparse.Namespace) -> int:
    """Run a command; returns its exit code, also where it raises."""
    try:
        code = run(args)
        sys.stdout.flush()
    except MusterError as error:
        print_error(name, error)
        return _exit_code(error)
    except UnicodeEncodeError as error:  # only arguments can contain such text
        print_error(name, f"this is not UTF-8: {error.object!r}{locale_advice()}")
        return BadInput.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Python flushes standard output again when it exits; give it a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        print_error(name, error)
        return CommandError.exit_code
    return code


def print_error(name: str, error: object) -> None:
    """Print an error of a command to standard error."""
    print(f"muster {name}: {render.clean(str(error))}", file=sys.stderr)


def print_unknown_variables(name: str) -> None:
    """Name the variables `MUSTER_…` that a command finds and that are not settings."""
    for text in unknown_variables(os.environ):
        print_error(name, text)


def print_note(text: str) -> None:
    """Print a note for people to standard error: it is not part of the command's output."""
    print(render.clean(text), file=sys.stderr)


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turn errors of the database driver into one line. Raises `CommandError`."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from projector.store.failures import reason

    try:
        yield
    except DBAPIError as error:
        raise ServiceUnreachable(f"the database {redacted(url)}: {reason(error)}") from error
    except SQLAlchemyError as error:
        raise Refused(f"the database {redacted(url)}: {reason(error)}") from error


def _exit_code(error: MusterError) -> int:
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, LogUnreachable):
        return ServiceUnreachable.exit_code
    unfit = isinstance(error, ConfigurationError | ServerUnsuitable)
    return BadInput.exit_code if unfit else Refused.exit_code
