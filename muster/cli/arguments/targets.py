"""Where the service, its Redis, its database and its logs are.

The sources, in this order: a flag, the environment, and the file `running.json` that `muster up`
writes to its data directory while it runs. So on one machine no flag is needed.
"""

import argparse
import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from muster.cli.arguments.command import BadInput
from muster.process.running_file import NAME, Running, read
from muster.settings import addresses
from muster.settings.values import abbreviate

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_DATA_DIR = ".muster"


class Service(Struct, frozen=True):
    """A gateway and the token it requires, if any."""

    url: str
    token: str = ""


def add_json_flag(parser: argparse.ArgumentParser, default: object = False) -> None:
    parser.add_argument(
        "--json", action="store_true", default=default, help="print JSON, for programs"
    )


def add_data_dir_flag(parser: argparse.ArgumentParser, default: object = None) -> None:
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default=default,
        help="data directory of `muster up` (MUSTER_DATA_DIR; default .muster)",
    )


def add_service_flags(parser: argparse.ArgumentParser, default: object = None) -> None:
    """For commands that call the gateway. `default` SUPPRESS: for a nested parser, see `pools`."""
    parser.add_argument(
        "--url", metavar="URL", default=default, help=f"the gateway (MUSTER_URL; {DEFAULT_URL})"
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        default=default,
        help="its token; better given as MUSTER_API_TOKEN, which other users cannot see",
    )
    add_data_dir_flag(parser, default)
    add_json_flag(parser, False if default is None else default)


def add_log_flags(parser: argparse.ArgumentParser) -> None:
    """For commands that read the log and the views themselves."""
    parser.add_argument(
        "--redis-url", metavar="URL", help="the Redis of the log (MUSTER_REDIS_URL, REDIS_URL)"
    )
    add_data_dir_flag(parser)
    parser.add_argument(
        "--key-prefix", metavar="TEXT", help="prefix of all keys (MUSTER_KEY_PREFIX)"
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="the database of the views (MUSTER_DATABASE_URL, DATABASE_URL)",
    )
    add_json_flag(parser)


def service(args: argparse.Namespace) -> Service:
    url = args.url or os.environ.get("MUSTER_URL") or running(args).url or DEFAULT_URL
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    if not _is_http(url):
        raise BadInput(
            f"--url: {addresses.redacted(url)!r} is not an address such as {DEFAULT_URL}"
        )
    token = args.token or os.environ.get("MUSTER_API_TOKEN") or ""
    if not (token.isascii() and token.isprintable()):
        raise BadInput("the token (--token, MUSTER_API_TOKEN) is not printable ASCII")
    return Service(url, token)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_host = addresses.is_host_name(parts.hostname or "")
        return parts.scheme in ("http", "https") and has_host and parts.port != 0
    except ValueError:  # an invalid port
        return False


def find_redis_url(args: argparse.Namespace) -> str:
    """The address of Redis, empty if none is configured. Raises `ConfigurationError`."""
    if args.redis_url:
        return addresses.redis_address(args.redis_url, "--redis-url")
    if named := addresses.environment_address("redis_url", os.environ):
        return addresses.redis_address(*named)
    return running(args).redis_url


def redis_url(args: argparse.Namespace) -> str:
    """The address of Redis. Raises `BadInput` if none is configured, `ConfigurationError`."""
    if found := find_redis_url(args):
        return found
    raise BadInput(_not_given("Redis", "--redis-url", "MUSTER_REDIS_URL", args))


def find_database_url(args: argparse.Namespace) -> str:
    """The database of the views, empty if none is configured. Raises `ConfigurationError`."""
    if args.database_url:
        addresses.validate_address(args.database_url, "--database-url")
        return str(args.database_url)
    if named := addresses.environment_address("database_url", os.environ):
        addresses.validate_address(*named)
        return named[0]
    return running(args).database_url


def database_url(args: argparse.Namespace) -> str:
    """The database of the views. Raises `BadInput` if none is configured or its file is missing.

    Raises `ConfigurationError` for an invalid address.
    """
    if found := optional_database_url(args):
        return found
    raise BadInput(_not_given("database", "--database-url", "MUSTER_DATABASE_URL", args))


def optional_database_url(args: argparse.Namespace) -> str:
    """The database of the views, empty if none is configured.

    Raises `BadInput` if its SQLite file is missing: opening it would create an empty archive that
    looks like the real one.
    """
    found = find_database_url(args)
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
    """The prefix of all keys. Raises `BadInput`."""
    flag = args.key_prefix
    prefix = os.environ.get("MUSTER_KEY_PREFIX") if flag is None else str(flag)
    if prefix is None:
        return running(args).key_prefix
    if "{" in prefix or "}" in prefix:
        source = "MUSTER_KEY_PREFIX" if flag is None else "--key-prefix"
        raise BadInput(f"{source}: braces are not allowed, they mark the Cluster slot")
    return prefix


def log_directory(args: argparse.Namespace) -> Path:
    directory = args.log_dir or os.environ.get("MUSTER_LOG_DIR") or running(args).log_dir
    return Path(directory) if directory else data_directory(args) / "logs"


def data_directory(args: argparse.Namespace) -> Path:
    return Path(args.data_dir or os.environ.get("MUSTER_DATA_DIR") or DEFAULT_DATA_DIR)


def running(args: argparse.Namespace) -> Running:
    """What `muster up` published of itself; empty where none runs on the data directory."""
    folder = data_directory(args)
    try:
        return read(folder)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{folder / NAME} cannot be read: {error}") from error


def _not_given(what: str, flag: str, variable: str, args: argparse.Namespace) -> str:
    folder = data_directory(args)
    found = "cannot be read by this user" if _unreadable(folder) else "has none"
    return (
        f"no {what} is configured: give {flag}, set {variable}, or name the data directory of a"
        f" running `muster up` (--data-dir; {folder} {found})"
    )


def _unreadable(folder: Path) -> bool:
    """Whether a `muster up` of another user may run there."""
    try:
        (folder / NAME).open().close()
    except OSError as error:
        return isinstance(error, PermissionError)
    return False
