"""Where the service, its Redis, its database and its logs are.

The sources, in this order: a flag, the environment, and the file `running.json` that `muster up`
writes to its data directory while it runs. So on one machine no flag is needed.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from muster.cli.arguments.command import BadInput, Run, Subparsers, declare
from muster.cli.arguments.output import JSON, add_output_flags
from muster.process.running_file import NAME, Running, read
from muster.settings import addresses
from muster.settings.checks import check_key_prefix
from muster.settings.settings import abbreviate

DEFAULT_URL = "http://127.0.0.1:8000"

Flags: TypeAlias = Mapping[str, tuple[str, str]]
"""Flags that have a value: what the help calls the value, and the help."""
DATA_DIR_FLAG: Flags = {
    "--data-dir": ("DIR", "data directory of `muster up` (MUSTER_DATA_DIR; default .muster)")
}
SERVICE_FLAGS: Flags = {
    "--url": ("URL", f"the gateway (MUSTER_URL; {DEFAULT_URL})"),
    "--token": ("TOKEN", "its token; better set MUSTER_API_TOKEN, which other users cannot see"),
    **DATA_DIR_FLAG,
}
"""For commands that call the gateway."""
LOG_FLAGS: Flags = {
    "--redis-url": ("URL", "the Redis of the log (MUSTER_REDIS_URL, REDIS_URL)"),
    **DATA_DIR_FLAG,
    "--key-prefix": ("TEXT", "prefix of all keys (MUSTER_KEY_PREFIX)"),
    "--database-url": ("URL", "the database of the views (MUSTER_DATABASE_URL, DATABASE_URL)"),
}
"""For commands that read the log and the views themselves."""


def add_flags(
    parser: argparse.ArgumentParser,
    flags: Flags,
    default: object = None,
    formats: Sequence[str] = JSON,
) -> None:
    """Flags, and those of the output. `default` SUPPRESS: for a nested parser, `declare_action`."""
    add_output_flags(parser, formats, default)
    for name, (value, text) in flags.items():
        parser.add_argument(name, metavar=value, default=default, help=text)


def declare_action(
    actions: Subparsers,
    name: str,
    run: Run,
    summary: str,
    example: str,
    add: Callable[[argparse.ArgumentParser, object], None] | None = None,
) -> argparse.ArgumentParser:
    """An action of a command, such as `pools set`; `example`: its arguments in an example.

    `add`: adds its flags, with a default; those of the service unless given.
    Service flags before the action apply unless they are repeated after it.
    """
    parser = declare(actions, name, run, f"{summary}\n\n{summary.capitalize()}.\n\n  {example}\n")
    add = add or (lambda parser, default: add_flags(parser, SERVICE_FLAGS, default))
    add(parser, argparse.SUPPRESS)
    return parser


def is_service_named(args: argparse.Namespace) -> bool:
    """Whether it is said where the gateway is; else it is only likely."""
    return bool(args.url or os.environ.get("MUSTER_URL") or running(args).url)


def service_url(args: argparse.Namespace) -> str:
    """The address of the gateway. Raises `BadInput`.

    Where a data directory is named, only what runs on it is meant: another gateway that happens to
    listen at the usual address may be of another system.
    """
    source, url = "--url", args.url
    if not url and not args.data_dir:
        source, url = "MUSTER_URL", os.environ.get("MUSTER_URL")
    url = url or running(args).url
    if not url:
        if args.data_dir or os.environ.get("MUSTER_DATA_DIR"):
            raise BadInput(
                f"nothing is running under {data_directory(args)}; name another --data-dir, or the"
                " address of a gateway with --url"
            )
        url = DEFAULT_URL
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        has_host = addresses.is_host_name(parts.hostname or "")
        is_http = parts.scheme in ("http", "https") and has_host and parts.port != 0
    except ValueError:  # an invalid port
        is_http = False
    if not is_http:
        raise BadInput(
            f"{source}: {addresses.redacted(url)!r} is not an address such as {DEFAULT_URL}"
        )
    return url


def token(args: argparse.Namespace) -> str:
    """The token that the gateway requires, if any. Raises `BadInput`."""
    found = args.token or os.environ.get("MUSTER_API_TOKEN") or ""
    if not (found.isascii() and found.isprintable()):
        raise BadInput("the token (--token, MUSTER_API_TOKEN) is not printable ASCII")
    return str(found)


def find_address(args: argparse.Namespace, name: str, *, only_folder: bool | None = None) -> str:
    """`redis_url` or `database_url`, empty if none is configured. Raises `ConfigurationError`.

    `only_folder`: leave out the environment; where it is not given, if a flag names the folder.
    """
    flag, given = f"--{name.replace('_', '-')}", getattr(args, name)
    named = (given, flag) if given else None
    if named is None and not (bool(args.data_dir) if only_folder is None else only_folder):
        named = addresses.environment_value(name, os.environ)
    if named is None:
        return str(getattr(running(args), name))
    if name == "redis_url":
        return addresses.redis_address(*named)
    return addresses.database_address(*named)


def redis_url(args: argparse.Namespace) -> str:
    """The address of Redis. Raises `BadInput` if none is configured, `ConfigurationError`."""
    if found := find_address(args, "redis_url"):
        return found
    raise _not_given("Redis", args)


def database_url(args: argparse.Namespace, *, may_be_missing: bool = False) -> str:
    """As `optional_database_url`. Raises `BadInput` also if none is configured.

    `may_be_missing`: a file that does not exist is to be created.
    """
    find = find_address if may_be_missing else optional_database_url
    if found := find(args, "database_url"):
        return found
    raise _not_given("database", args)


def optional_database_url(args: argparse.Namespace, name: str = "database_url") -> str:
    """The database of the views, empty if none is configured. Raises `ConfigurationError`.

    Raises `BadInput` if its SQLite file is missing: opening it would create an empty archive that
    looks like the real one.
    """
    found = find_address(args, name)
    if not found:
        return ""
    from projector.store.engines import missing_file

    if missing := missing_file(found):
        usual = data_directory(args) / "views.db"
        hint = f"; the views of {data_directory(args)} are {addresses.sqlite_address(usual)}"
        raise BadInput(
            f"there is no SQLite file {abbreviate(missing, str)}: name the database that a"
            f" projector or `muster up` writes; these also create a new one"
            f"{hint if usual.exists() else ''}"
        )
    return found


def key_prefix(args: argparse.Namespace) -> str:
    """The prefix of all keys. Raises `BadInput`, `ConfigurationError`."""
    flag = args.key_prefix
    prefix = os.environ.get("MUSTER_KEY_PREFIX") if flag is None else str(flag)
    if prefix is None or (flag is None and args.data_dir and running(args).url):
        return running(args).key_prefix
    check_key_prefix(prefix, "MUSTER_KEY_PREFIX" if flag is None else "--key-prefix")
    return prefix


def log_directory(args: argparse.Namespace) -> Path:
    directory = args.log_dir or os.environ.get("MUSTER_LOG_DIR") or running(args).log_dir
    return Path(directory) if directory else data_directory(args) / "logs"


def data_directory(args: argparse.Namespace) -> Path:
    return Path(args.data_dir or os.environ.get("MUSTER_DATA_DIR") or ".muster")


def running(args: argparse.Namespace) -> Running:
    """What `muster up` published of itself; empty where none runs on the data directory."""
    folder = data_directory(args)
    try:
        return read(folder)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{folder / NAME} cannot be read: {error}") from error


def _not_given(what: str, args: argparse.Namespace) -> BadInput:
    folder, found = data_directory(args), "has none"
    if args.data_dir:
        return BadInput(
            f"nothing is running under {folder}; name another --data-dir, or give"
            f" --{what.lower()}-url"
        )
    try:
        (folder / NAME).open("rb").close()
    except PermissionError:  # a `muster up` of another user may run there
        found = "cannot be read by this user"
    except OSError:
        pass
    return BadInput(
        f"no {what} is configured: give --{what.lower()}-url, set MUSTER_{what.upper()}_URL, or"
        f" name the data directory of a running `muster up` (--data-dir; {folder} {found})"
    )
