"""Workers in processes of their own, run by a test, with agents of its own."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from eventstore.language import workers
from tests.worker_pool import ORIGIN, POOL, WorkerPool, eventually
from workers.process.options import WorkerOptions

CODE = """
import sys
import msgspec
from workers.api import role_loader as roles
from workers.launch.zygote import run_worker
from workers.process.options import WorkerOptions
from workers.runtime import calls
calls.STUCK_SECONDS = 1
options = msgspec.json.decode(sys.argv[1], type=WorkerOptions)
classes = {name: roles.load(f"agents_of_test:{name}", sys.argv[2]).role for name in sys.argv[3:]}
import os
os._exit(run_worker(options, classes))
"""

QUIET = """
from workers.api.agent import Agent

class Quiet(Agent):
    async def stop(self, context):
        print("stopped in good order")

"""


class Processes:
    """Worker processes of one test."""

    def __init__(self, pool: WorkerPool, app: Path, agents: str) -> None:
        self.pool, self.app = pool, app
        self.started: list[subprocess.Popen[bytes]] = []
        (app / "agents_of_test.py").write_text(QUIET + agents)

    async def start(self, *roles: str, **changes: Any) -> subprocess.Popen[bytes]:
        worker_id = await self.pool.order()
        options = self.pool.options(worker_id, exits=True, capture=True, **changes)
        process = self.run(options, *roles)
        await eventually(lambda: self._active(worker_id))
        return process

    def run(self, options: WorkerOptions, *roles: str) -> subprocess.Popen[bytes]:
        argument = msgspec.json.encode(options).decode()
        process = subprocess.Popen([sys.executable, "-c", CODE, argument, str(self.app), *roles])
        self.started.append(process)
        return process

    async def drain(self, process: subprocess.Popen[bytes]) -> None:
        """Order the worker to drain, and send the signal as a supervisor does."""
        drain = workers.Drain(reason="test")
        await self.pool.log.act_on_worker(POOL, "w1", drain, ORIGIN)
        process.terminate()

    async def _active(self, worker_id: str) -> bool:
        observed = await self.pool.log.worker(POOL, worker_id)
        return observed is not None and observed.worker.status == "active"

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def ended(process: subprocess.Popen[bytes], timeout: float = 30) -> int:
    """The exit code, once there is one."""
    return process.wait(timeout)


async def running(pool: WorkerPool, role: str) -> str:
    agent_id = await pool.spawn(role_type=role)
    await pool.reached(agent_id, "running")
    return agent_id
