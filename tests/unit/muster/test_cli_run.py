"""`muster run`: one agent in the foreground, with a debugger, Ctrl-C and an exit code."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
AGENT = """
import asyncio, logging, sys
from muster import Agent, Context

class Worker(Agent):
    async def start(self, context: Context) -> None:
        self.do = context.input.get("do", "")
        print("hello", context.project_id, context.labels, sys.stdout is sys.__stdout__)
        logging.getLogger(__name__).info("of the package")
        logging.getLogger("library").info("of a library")
        context.logger.info("started well", size=3)

    async def run(self, context: Context) -> None:
        number = 42
        if self.do == "break":
            breakpoint()
        if self.do == "crash":
            raise ValueError("no luck")
        if self.do == "":
            print("waiting", flush=True)
            await asyncio.sleep(60)
        if self.do == "stop":
            async with context.idle():
                print("waiting", flush=True)
                await context.stopping.wait()
            print("work is saved")

    async def stop(self, context: Context) -> None:
        print("stopped", flush=True)
        if self.do == "":
            await asyncio.sleep(60)
"""
COUNTER = """
import asyncio
from muster import Agent, Context

class Counter(Agent):
    count = 0
    async def restore(self, state):
        self.count = int(state)
    async def run(self, context: Context):
        self.count += 1
        print("waiting", self.count, flush=True)
        await context.stopping.wait()
    async def save(self):
        return str(self.count).encode()
"""
CONFIG = """
[roles.worker]
agent = "acme:Worker"

[pools.worker_pool]
role = "worker"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an agent."""
    (tmp_path / "acme.py").write_text(AGENT)
    (tmp_path / "muster.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `muster run` at pipes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "muster", "run", *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def test_an_agent_runs_to_its_end_with_a_debugger_and_prints_here(start) -> None:
    process = start("worker", "--input", '{"do": "break"}', "--label", "team=red")
    out, err = process.communicate("p number * 2\np context.input\nc\n", timeout=20)
    assert process.returncode == 0
    assert out.startswith("hello demo {'team': 'red'} True\n")
    assert "(Pdb) 84" in out
    assert "(Pdb) {'do': 'break'}" in out
    assert out.endswith("stopped\n")
    assert "of the package" in err
    assert "of a library" not in err
    assert "started well" in err
    assert err.splitlines()[-1] == "muster run: completed"


def test_a_crash_is_exit_code_1_with_its_traceback(start) -> None:
    process = start("acme:Worker", "--input", '{"do": "crash"}')
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert 'acme.py", line 18, in run' in err
    assert err.splitlines()[-2:] == ["ValueError: no luck", "muster run: crashed"]


def until_waiting(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert any(line == "waiting\n" for line in iter(process.stdout.readline, ""))


def test_ctrl_c_stops_it_in_good_order(start) -> None:
    process = start("worker", "--input", '{"do": "stop"}')
    until_waiting(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "work is saved\nstopped\n")
    assert "stopping in good order" in err
    assert "Traceback" not in err


def test_a_state_goes_on_in_a_file(start, folder: Path) -> None:
    (folder / "counting.py").write_text(COUNTER)
    for count in (1, 2):
        process = start("counting:Counter", "--state", "counter.state")
        assert process.stdout.readline() == f"waiting {count}\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert err.splitlines()[-1] == "muster run: released"
        assert (folder / "counter.state").read_text() == str(count)
    refused = start("counting:Counter", "--state", "gone/counter.state")
    _, err = refused.communicate(timeout=20)
    assert (refused.returncode, "a folder that exists" in err) == (2, True)


def test_a_second_ctrl_c_does_not_wait_for_its_stop(start) -> None:
    process = start("worker")
    until_waiting(process)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        (["wroker"], 1, "no role `wroker`; did you mean `worker`?"),
        (["worker", "--input", "[]"], 2, "--input: expected a JSON object"),
        (["worker", "--config", "none.toml"], 2, "none.toml does not exist"),
    ],
)
def test_what_cannot_be_run_is_named(folder, muster, words, code, printed) -> None:
    found, _, err = muster("run", *words)
    assert (found, printed in err) == (code, True), err
