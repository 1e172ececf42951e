"""The preloaded process that workers are forked from.

It imports Muster's worker code and the users' agent classes once, freezes the garbage collector, so
that children share those pages, and then forks a worker for every order. It has no event loop and
no threads, which is what makes forking from it safe. An import that starts threads is therefore
not done here: the zygote restarts itself without it and leaves it to each child.

Its messages are JSON objects over one socket, one a line. In: the options of a worker. Out:
`ZygoteMessage`. When the socket closes the zygote ends; its workers do not.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import ConfigurationError
from eventstore.log.script_runner import script
from workers.api import role_loader
from workers.api.agent import Agent
from workers.process.main import main as work
from workers.process.options import WorkerOptions

COMMAND = "import sys; from workers.launch.zygote import main; sys.exit(main(sys.argv[1:]))"


class Plan(Struct, frozen=True, kw_only=True):
    """What to preload: role names and where their classes are."""

    roles: dict[str, str]
    app_dir: str = ""
    deferred: tuple[str, ...] = ()
    """Roles whose import starts threads: imported by each child, after the fork."""


class ZygoteMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from the zygote."""

    ready: bool = False
    failed: str = ""
    """An import failed: the traceback."""
    deferred: tuple[str, ...] = ()
    worker_id: str = ""
    pid: int = 0
    """The worker was forked as this process."""
    ended: int = 0
    """This process ended …"""
    code: int = 0
    """… with this exit code, negative for a signal."""


def arguments(plan: Plan, fd: int) -> list[str]:
    """The command line of a zygote. `-P`: without the current folder on the module path."""
    return [sys.executable, "-P", "-c", COMMAND, str(fd), msgspec.json.encode(plan).decode()]


def main(argv: Sequence[str]) -> int:
    channel = socket.socket(fileno=int(argv[0]))
    plan = msgspec.json.decode(argv[1], type=Plan)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group: others decide
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    gc.disable()
    try:
        classes, threaded = _preload(plan)
    except ConfigurationError as error:
        _send(channel, ZygoteMessage(failed=str(error)))
        return 1
    if threaded:
        os.set_inheritable(channel.fileno(), True)
        command_line = arguments(
            replace(plan, deferred=(*plan.deferred, *threaded)), channel.fileno()
        )
        os.execv(command_line[0], command_line)
    gc.collect()
    gc.freeze()
    _send(channel, ZygoteMessage(ready=True, deferred=plan.deferred))
    return _serve(channel, plan, classes)


def _preload(plan: Plan) -> tuple[dict[str, type[Agent]], list[str]]:
    """Import what may be imported before the fork; also names the roles that start threads."""
    for name in ("claim", "commit", "draw", "renew"):
        script(name)  # read once, shared by all
    classes: dict[str, type[Agent]] = {}
    threaded: list[str] = []
    for name, path in plan.roles.items():
        if name in plan.deferred:
            continue
        loaded = role_loader.load(path, plan.app_dir)
        classes[name] = loaded.role
        if loaded.threads:
            threaded.append(name)
    return classes, threaded


def _serve(channel: socket.socket, plan: Plan, classes: dict[str, type[Agent]]) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    buffer = b""
    while True:
        readable, _, _ = select.select([channel.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            _report_ended(channel)
        if channel.fileno() not in readable:
            continue
        received = channel.recv(65536)
        if not received:
            return 0
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            options = msgspec.json.decode(line, type=WorkerOptions)
            pid = os.fork()
            if pid == 0:
                os.close(wake_read)
                os.close(wake_write)
                channel.close()
                _become_worker(options, plan, classes)
            _send(channel, ZygoteMessage(worker_id=options.worker_id, pid=pid))


def _become_worker(options: WorkerOptions, plan: Plan, classes: dict[str, type[Agent]]) -> None:
    """All that the child does. Never returns, whatever happens."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        for name in plan.deferred:
            classes[name] = role_loader.load(plan.roles[name], plan.app_dir).role
        code = work(options, classes)
    except BaseException:  # noqa: BLE001  # the child must not return into the zygote's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _report_ended(channel: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(ended[1])
            _send(channel, ZygoteMessage(ended=ended[0], code=code))


def _send(channel: socket.socket, message: ZygoteMessage) -> None:
    try:
        channel.sendall(msgspec.json.encode(message) + b"\n")
    except OSError:
        os._exit(0)  # the supervisor is gone; the workers are not our business
