"""What every command has in common: how it is declared, and how it ends.

    exit code   means
    0           done
    1           refused, failed, or something was found wrong
    2           used wrongly
    3           the service, Redis or the database does not answer
    130, 141    ended by Ctrl-C, or because nobody reads the output any more

    MusterError
    └── CommandError
        ├── Refused              1
        ├── BadInput             2
        └── ServiceUnreachable   3

A command raises one of these; what it has to say goes to standard error, without a traceback.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from eventstore.errors import ConfigurationError, LogUnreachable, MusterError, ServerUnsuitable
from muster.settings.addresses import redacted
from muster.terminal import render

INTERRUPTED = 130
BROKEN_PIPE = 141

Run: TypeAlias = Callable[[argparse.Namespace], int]
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class CommandError(MusterError):
    """The command did not do what it was asked to."""

    exit_code = 1


class Refused(CommandError):
    """The service refused."""


class BadInput(CommandError):
    """The command was used wrongly."""

    exit_code = 2


class ServiceUnreachable(CommandError):
    """The service does not answer."""

    exit_code = 3


def declare(
    subparsers: Subparsers, name: str, run: Run, *, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command; `run` answers the exit code and may raise any `MusterError`."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 80),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    full_name = parser.prog.removeprefix("muster ")
    parser.set_defaults(run=lambda args: run_command(full_name, run, args))
    return parser


def run_command(name: str, run: Run, args: argparse.Namespace) -> int:
    """Run a command and turn how it ended into an exit code."""
    try:
        code = run(args)
        sys.stdout.flush()
    except MusterError as error:
        print_error(name, error)
        return _exit_code(error)
    except UnicodeEncodeError as error:  # only what the shell gave can hold such text
        print_error(name, f"this is not UTF-8: {error.object!r}")
        return BadInput.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Python flushes standard output once more at its end; let that find a reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        print_error(name, error)
        return CommandError.exit_code
    return code


def print_error(name: str, error: object) -> None:
    """Say on standard error what is wrong, in the name of a command."""
    print(f"muster {name}: {render.clean(str(error))}", file=sys.stderr)


def print_note(text: str) -> None:
    """Tell a person something that is not the command's answer."""
    print(render.clean(text), file=sys.stderr)


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Around work with the database: its driver's errors as one line. Raises `CommandError`."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        raise ServiceUnreachable(f"the database {redacted(url)}: {lines[-1]}") from error
    except SQLAlchemyError as error:
        raise Refused(f"the database {redacted(url)}: {error}") from error


def _exit_code(error: MusterError) -> int:
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, LogUnreachable):
        return ServiceUnreachable.exit_code
    unfit = isinstance(error, ConfigurationError | ServerUnsuitable)
    return BadInput.exit_code if unfit else Refused.exit_code
