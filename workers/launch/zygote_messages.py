"""What a supervisor and its zygote say to each other.

The messages are JSON objects over one socket, one a line. To the zygote: the options of a worker.
From it: `ZygoteMessage`.
"""

import contextlib
import sys

import msgspec
from msgspec import Struct

from eventstore.connection.address import Address
from workers.process.options import WorkerOptions

COMMAND = (
    "import sys; from eventstore.plain_logging import import_structlog; import_structlog();"
    " from workers.launch.zygote import main; sys.exit(main(sys.argv[1:]))"
)


class Plan(Struct, frozen=True, kw_only=True):
    """What to preload: role names and where their classes are."""

    roles: dict[str, str]
    app_dir: str = ""
    otel: bool = False
    """Whether workers use OpenTelemetry, so that they share its code."""
    import_seconds: float = 60.0
    """How long the import of a role may take."""
    deferred: tuple[str, ...] = ()
    """Each worker of such a role imports it after the fork: as declared, or because the import
    starts threads or opens connections."""


class ZygoteMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from the zygote."""

    importing: str = ""
    """What it imports from now on."""
    ready: bool = False
    failed: str = ""
    """An import failed: the traceback. Or why the worker could not be forked."""
    deferred: tuple[str, ...] = ()
    worker_id: str = ""
    pid: int = 0
    """The worker was forked as this process."""
    ended: int = 0
    """This process ended …"""
    code: int = 0
    """… with this exit code, negative for a signal."""


def read_options(line: bytes) -> WorkerOptions:
    """The options of a worker, before the fork: what its address imports is shared then."""
    options = msgspec.json.decode(line, type=WorkerOptions)
    with contextlib.suppress(ValueError):  # the worker says so
        Address(options.redis_url)
    return options


def arguments(plan: Plan, fd: int) -> list[str]:
    """The command line of a zygote. `-P`: without the current folder on the module path."""
    return [sys.executable, "-P", "-c", COMMAND, str(fd), msgspec.json.encode(plan).decode()]
