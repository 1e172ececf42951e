"""The preloaded process that workers are forked from.

It imports Muster's worker code and the users' agent classes once, freezes the garbage collector, so
that children share those pages, and then forks a worker for every order. It has no event loop then
and no threads, which is what makes forking from it safe. An import that starts threads is therefore
not done here: the zygote restarts itself without it, and leaves it to the workers of that role.

It reads the options of workers from its socket (see `zygote_messages`). When that closes the
zygote ends; its workers do not.
"""

import asyncio
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from eventstore.errors import ConfigurationError
from eventstore.log.script_runner import script
from workers.api import role_loader
from workers.api.agent import Agent
from workers.host.process_tree import (
    all_processes,
    become_subreaper,
    descendants,
    name_process,
)
from workers.launch.worker_process import Forked, ignore
from workers.launch.zygote_messages import Plan, ZygoteMessage, arguments, read_options
from workers.output.capture import Capture
from workers.output.descriptors import StandardPipes
from workers.process.options import WorkerOptions
from workers.runtime.child_records import STARTED, track
from workers.runtime.loop_guard import guard_loop, track_neighbours
from workers.runtime.process_state import watch
from workers.runtime.worker_loop import Loop

ZYGOTE_NAME: Final = "muster-zygote"
SPARE_AFTER_SECONDS: Final = 0.1
"""After the last launch. The new worker has the processors until then."""
SPARE_SECONDS: Final = 3.0
"""How long a spare process waits for a launch."""

log = structlog.get_logger("muster.worker")


def main(argv: Sequence[str]) -> int:
    with socket.socket(fileno=int(argv[0])) as channel:
        return _run(channel, msgspec.json.decode(argv[1], type=Plan))


def _run(channel: socket.socket, plan: Plan) -> int:
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all: others decide
        signal.signal(number, ignore)
    become_subreaper()  # of what a killed worker leaves
    name_process(ZYGOTE_NAME)
    track()
    watch()
    gc.disable()
    try:
        classes, unforkable = _preload(plan, channel)
    except ConfigurationError as error:
        _send(channel, ZygoteMessage(failed=str(error)))
        return 1
    if unforkable:
        os.set_inheritable(channel.fileno(), True)
        command_line = arguments(
            replace(plan, deferred=(*plan.deferred, *unforkable)), channel.fileno()
        )
        os.execv(command_line[0], command_line)
    Capture.prepare()
    _run_loop()
    gc.collect()
    gc.freeze()
    _send(channel, ZygoteMessage(ready=True, deferred=plan.deferred))
    return _serve(channel, classes)


def _preload(plan: Plan, channel: socket.socket) -> tuple[dict[str, type[Agent]], list[str]]:
    """Import what may be imported before the fork; also names the roles that do not bear it."""
    for name in ("claim", "commit", "draw", "renew"):
        script(name)  # read once, shared by all
    track_neighbours()
    if plan.otel:
        importlib.import_module("workers.process.exports")
    classes: dict[str, type[Agent]] = {}
    unforkable: list[str] = []
    for name, path in plan.roles.items():
        if name in plan.deferred:
            continue
        _send(channel, ZygoteMessage(importing=f"role {name!r} ({path})"))
        loaded = role_loader.load(path, plan.app_dir)
        classes[name] = loaded.role
        if loaded.cannot_fork:
            unforkable.append(name)
    return classes, unforkable


def _run_loop() -> None:
    """What Python stores of code that has run, and where methods are found, is shared then."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    guard_loop(loop)
    loop.run_until_complete(asyncio.sleep(0))
    asyncio.set_event_loop(None)
    loop.close()


def _serve(channel: socket.socket, classes: dict[str, type[Agent]]) -> int:
    signals, wake = os.pipe()
    for end in (signals, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, ignore)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children = Children(channel, classes, (signals, wake))
    buffer = b""
    while True:
        seconds = children.timeout_seconds
        readable, _, _ = select.select([channel.fileno(), signals], [], [], seconds)
        if not readable:
            children.change_spare()
        if signals in readable:
            os.read(signals, 4096)
            children.collect()
        if channel.fileno() not in readable:
            continue
        received = _receive(channel)
        if not received:
            return 0
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            children.launch(line)


class Children:
    """What was forked here: workers, and for a while after a launch a spare process."""

    def __init__(
        self, channel: socket.socket, classes: dict[str, type[Agent]], ends: tuple[int, int]
    ) -> None:
        self.timeout_seconds: float | None = None
        """`change_spare` is to be called if nothing comes for so long."""
        self._channel, self._classes, self._ends = channel, classes, ends
        self._known = set(descendants(os.getpid()))  # what imports have started
        self._workers: dict[int, tuple[WorkerOptions, StandardPipes]] = {}
        self._spare: Forked | None = None
        self._likely: WorkerOptions | None = None

    def launch(self, line: bytes) -> None:
        """Start the worker of these options."""
        spare, self._spare = self._spare, None
        forked = spare if spare is not None and spare.order(line) else None  # it waits for that
        options = read_options(line)
        try:
            if forked is None:
                forked = self._fork()
                forked.order(line)
        except OSError as error:  # for a while, perhaps
            _send(self._channel, ZygoteMessage(worker_id=options.worker_id, failed=str(error)))
            return
        self._workers[forked.pid] = options, forked.pipes
        self._likely = options
        self.timeout_seconds = SPARE_AFTER_SECONDS
        _send(self._channel, ZygoteMessage(worker_id=options.worker_id, pid=forked.pid))

    def change_spare(self) -> None:
        """Fork one: another launch may follow. Or end it, as none did."""
        if self._spare is not None:
            self._dismiss()
        else:
            with contextlib.suppress(OSError):
                self._spare = self._fork(self._likely)
            self.timeout_seconds = SPARE_SECONDS if self._spare is not None else None

    def collect(self) -> None:
        """Report the children that have ended, and kill what those have left."""
        for pid in _report_ended(self._channel):
            self._known.discard(pid)
            if pid in self._workers:
                _save_output(*self._workers.pop(pid))
            elif self._spare is not None and pid == self._spare.pid:
                self._dismiss()
        self._known |= _kill_orphans(self._known)

    def _fork(self, likely: WorkerOptions | None = None) -> Forked:
        """Raises `OSError`."""
        forked = Forked.fork(self._classes, self._close, likely)
        self._known.add(forked.pid)
        return forked

    def _close(self) -> None:
        """In a child: what is the zygote's. (No spare one is there while another is forked.)"""
        self._channel.close()
        for end in self._ends:
            os.close(end)
        for _, pipes in self._workers.values():
            pipes.close()

    def _dismiss(self) -> None:
        assert self._spare is not None
        self._spare.dismiss()
        self._spare = self.timeout_seconds = None


def _report_ended(channel: socket.socket) -> set[int]:
    """Report the children that have ended; returns their pids."""
    pids: set[int] = set()
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pids.add(ended[0])
            STARTED.pop(ended[0], None)
            code = os.waitstatus_to_exitcode(ended[1])
            _send(channel, ZygoteMessage(ended=ended[0], code=code))
    return pids


def _save_output(options: WorkerOptions, pipes: StandardPipes) -> None:
    """What a worker that has ended has left unread: its last words, above all."""
    if options.capture:
        pipes.save_remains(options.new_output({}))
    pipes.close()


def _kill_orphans(known: set[int]) -> set[int]:
    """Kill what a worker left that has died. Each that dies leaves its own children here.

    Returns those that may not be signalled.
    """
    refused: set[int] = set()
    for pid, found in all_processes().items():
        if found.parent == os.getpid() and pid not in known and not found.ended:
            try:
                found.process.signal(signal.SIGKILL)
                log.warning("worker.children_killed", pid=pid, command=found.name)
            except PermissionError:
                log.error("worker.children_remain", pid=pid, command=found.name)
                refused.add(pid)
    return refused


def _receive(channel: socket.socket) -> bytes:
    """Empty once the supervisor is gone, also if it was killed and had not read all of ours."""
    with contextlib.suppress(ConnectionError):
        return channel.recv(65536)
    return b""


def _send(channel: socket.socket, message: ZygoteMessage) -> None:
    try:
        channel.sendall(msgspec.json.encode(message) + b"\n")
    except OSError:
        os._exit(0)  # the supervisor is gone; the workers are not our business
