"""Workers in processes of their own, forked for a test, with agents of its own."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from eventstore.language import workers
from tests.waiting import until
from tests.worker_pool import ORIGIN, POOL, WorkerPool, eventually
from workers.process.options import WorkerOptions

TEMPLATE = """
import json, os, sys, traceback
import msgspec
from workers.api import role_loader
from workers.launch.randomness import reseed
from workers.launch.worker_process import Ready
from workers.process import registration
from workers.process.options import WorkerOptions
from workers.runtime import agent_run, calls
from workers.runtime.child_records import track
from workers.runtime.loop_guard import track_neighbours
from workers.runtime.process_state import watch

def become_worker(options, app, roles):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    reseed()
    classes = {name: role_loader.load(f"agents_of_test:{name}", app).role for name in roles}
    return Ready().run(msgspec.json.decode(options, type=WorkerOptions), classes)

calls.STUCK_SECONDS = agent_run.STUCK_SECONDS = 1
registration.ORDER_SECONDS = 0.3
for prepare in (track, watch, track_neighbours):
    prepare()
for line in sys.stdin:
    if not (pid := os.fork()):
        code = 70
        try:
            code = become_worker(*json.loads(line))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Forks one worker after the other, as a zygote does: starting Python takes longer than a test."""

QUIET = """
from workers.api.agent import Agent

class Quiet(Agent):
    async def stop(self, context):
        print("stopped in good order")

"""


class Template:
    """The process that workers are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TEMPLATE],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def fork(self, *arguments: object) -> int:
        """Fork a worker; returns its pid. The one before must have ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        return self.answer(60)

    def answer(self, timeout: float) -> int:
        """The next number that it says: a pid, then an exit code. Raises `TimeoutError`."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"the worker did not end within {timeout:g} s")
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class WorkerProcess:
    """One worker."""

    def __init__(self, template: Template, *arguments: object) -> None:
        self._template = template
        self._code: int | None = None
        self.pid = template.fork(*arguments)

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 30) -> int:
        """The exit code, once there is one."""
        if self._code is None:
            self._code = self._template.answer(timeout)
        return self._code

    def end(self) -> None:
        """Whatever it does."""
        if self._code is None:
            self.send_signal(signal.SIGKILL)
            self.wait()


class Processes:
    """Worker processes of one test, one after the other."""

    def __init__(self, pool: WorkerPool, app: Path, agents: str, template: Template) -> None:
        self.pool, self.app = pool, app
        self._template = template
        self._started: list[WorkerProcess] = []
        app.mkdir()
        (app / "agents_of_test.py").write_text(QUIET + agents)

    async def start(self, *roles: str, **changes: Any) -> WorkerProcess:
        worker_id = await self.pool.order()
        options = self.pool.options(worker_id, exits=True, capture=True, **changes)
        process = self.run(options, *roles)
        await eventually(lambda: self._active(worker_id))
        return process

    def run(self, options: WorkerOptions, *roles: str) -> WorkerProcess:
        encoded = msgspec.json.encode(options).decode()
        process = WorkerProcess(self._template, encoded, str(self.app), roles)
        self._started.append(process)
        return process

    async def drain(self, process: WorkerProcess) -> None:
        """Order the worker to drain, and send the signal as a supervisor does; it does."""
        drain = workers.Drain(reason="test")
        await self.pool.log.act_on_worker(POOL, "w1", drain, ORIGIN)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0

    async def running(self, role: str) -> str:
        """Ask for an agent and wait until it runs; returns its id."""
        return (await self.pool.running(role_type=role))[0]

    async def written(self, name: str) -> Any:
        """What an agent has written into a file, as JSON, once it is there."""
        path = self.app / name
        read = lambda: path.read_bytes() if path.exists() else b""  # noqa: E731
        text = await until(read, timeout=60, what=f"an agent has written {name}")
        return msgspec.json.decode(text)

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """What the first worker has logged, or of that such an event."""
        file = self.pool.log_dir / POOL / "w1.jsonl"
        text = file.read_bytes() if file.exists() else b""
        lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in text.splitlines()]
        return [line for line in lines if event in ("", line.get("event"))]

    async def _active(self, worker_id: str) -> bool:
        observed = await self.pool.log.worker(POOL, worker_id)
        return observed is not None and observed.worker.status == "active"

    def end(self) -> None:
        for process in self._started:
            process.end()
