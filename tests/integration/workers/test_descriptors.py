"""What leaves a worker by descriptors 1 and 2 is in its log, of an agent where that is known."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.workers.hosts import POOL, Site
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("real_zygotes")

AGENTS = """
import asyncio, concurrent.futures, ctypes, faulthandler, multiprocessing, os, subprocess, sys
from muster import Agent

FORK = multiprocessing.get_context("fork")
SHARED = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)

def say(text):
    print(text)
    os.write(1, b"by descriptor " + text.encode() + b"\\n")

class Speaker(Agent):
    async def start(self, context):
        await asyncio.to_thread(SHARED.submit(print, "shared").result)

    async def run(self, context):
        if context.input.get("crash"):
            ctypes.CDLL(None).printf(b"of a library\\n")
            os.write(2, b"no newline")
            ctypes.string_at(0)
        subprocess.run(["echo", "run"])
        subprocess.run("echo shell >&2; echo -n part; sleep 1; echo", shell=True)
        subprocess.run(["echo", "to stdout"], stdout=sys.stdout, stderr=subprocess.STDOUT)
        subprocess.run("echo both; echo errors >&2", shell=True, stderr=subprocess.STDOUT)
        os.waitpid(os.posix_spawn("/bin/echo", ["echo", "spawned"], os.environ), 0)
        await (await asyncio.create_subprocess_exec("echo", "exec")).wait()
        await (await asyncio.create_subprocess_shell("echo loop; echo loop errors >&2")).wait()
        for method in ("fork", "spawn"):
            child = multiprocessing.get_context(method).Process(target=say, args=(method,))
            child.start()
            await asyncio.to_thread(child.join)
        os.write(1, b"written ")
        os.write(1, b"\\xc3")
        os.write(1, b"\\xa4\\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        await context.stopping.wait()
"""


@pytest.fixture(autouse=True)
def speaking(tmp_path: Path) -> None:
    (tmp_path / "speaking.py").write_text(AGENTS, encoding="utf-8")


def lines(site: Site) -> list[dict[str, Any]]:
    files = (site.folder / "logs" / POOL).glob("*.jsonl")
    return [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]


def texts(site: Site, stream: str, agent_id: str = "") -> list[str]:
    return [
        line["message"]
        for line in lines(site)
        if line["stream"] == stream and line.get("agent_id", "") == agent_id
    ]


async def test_all_that_an_agent_starts_is_in_its_log(site: Site) -> None:
    pool = await site.pool()
    await site.host(agent="speaking:Speaker")
    [agent] = await site.run(pool)
    expected = [
        "run", "part", "to stdout", "both", "errors", "spawned", "exec", "loop",
        "fork", "by descriptor fork", "spawn", "by descriptor spawn",
    ]  # fmt: skip

    def all_written() -> bool:  # the order of what comes by different pipes is not fixed
        return (
            sorted(texts(site, "stdout", agent)) == sorted(expected)
            and "written ä" in texts(site, "stdout")
        )  # fmt: skip

    await until(all_written, timeout=20, what="all is written")
    assert texts(site, "stderr", agent) == ["shell", "loop errors"]
    assert texts(site, "stdout") == ["shared", "written ä"]
    [part] = [line for line in lines(site) if line.get("message") == "part"]
    assert part["partial"]

    def restored() -> list[str]:
        return [line["what"] for line in lines(site) if line.get("event") == "output.restored"]

    await until(restored, what="a descriptor that leads elsewhere is put back")
    assert restored() == ["descriptor 2"]


async def test_the_last_words_of_a_worker_are_in_its_log(site: Site) -> None:
    pool = await site.pool(backoff_min_seconds=30.0, backoff_max_seconds=30.0)
    await site.host(agent="speaking:Speaker")
    await pool.spawn(input=msgspec.Raw(b'{"crash": true}'))
    for stream, words in (
        ("stdout", "of a library"),
        ("stderr", "Segmentation fault"),
        ("stderr", "speaking.py"),
    ):
        await until(
            lambda: words in "".join(texts(site, stream)),  # noqa: B023  # it ends within
            timeout=20,
            what=f"the worker's last words: {words}",
        )
