"""`muster logs`: many rotated files as one log, and what comes after."""

import errno
import json
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import muster
from muster.__main__ import main
from muster.cli.events.logs import JoinedLog
from muster.terminal.log_reader import read_line
from tests.waiting import until_sync

ONE = "01936b3e-7c1f-7e60-9f52-000000000001"
TWO = "01936b3e-7c1f-7e60-9f52-000000000002"


def line(second: int, text: str, agent: str = ONE, **fields: object) -> str:
    document = {"ts": f"2026-11-24T14:00:{second:02}.000Z", "level": "info", "message": text}
    return json.dumps({**document, "agent_id": agent, "stream": "stdout", **fields}) + "\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two workers' logs; that of the first was rotated twice."""
    pool = tmp_path / "developer_pool"
    pool.mkdir()
    (pool / "w1.jsonl.2").write_text(line(1, "first") + line(3, "third"))
    (pool / "w1.jsonl.1").write_text(line(5, "fifth"))
    (pool / "w1.jsonl").write_text(line(7, "seventh"))
    (pool / "w2.jsonl").write_text(line(2, "second", TWO) + line(6, "sixth", TWO))
    (tmp_path / "tester_pool").mkdir()
    (tmp_path / "tester_pool" / "w3.jsonl").write_text(line(4, "fourth"))
    return tmp_path


@pytest.fixture
def join(folder) -> Iterator[Callable[..., JoinedLog]]:
    """Opens the logs that are wanted; they are closed at the end."""
    opened: list[JoinedLog] = []

    def open_log(**wanted: Any) -> JoinedLog:
        opened.append(JoinedLog(folder, **{"since_ms": 0.0, **wanted}))
        return opened[-1]

    yield open_log
    for log in opened:
        log.close()


def texts(log: JoinedLog) -> list[str]:
    return [found.text for found in log.added()]


def test_files_of_all_workers_are_merged_by_time_with_the_rotated_ones(join):
    order = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
    assert texts(join()) == order


def test_only_matching_lines_are_printed(join):
    assert texts(join(agent=TWO)) == ["second", "sixth"]
    assert texts(join(pool="tester_pool")) == ["fourth"]
    assert texts(join(worker="w2")) == ["second", "sixth"]


def test_following_survives_rotations_and_finds_new_workers(folder, join):
    """Also where a file was rotated twice between two polls, and a line was incomplete."""
    path = folder / "developer_pool" / "w1.jsonl"
    log = join(pool="developer_pool", worker="w1")
    assert texts(log)[-1] == "seventh"
    with path.open("a") as file:
        file.write(line(8, "eighth") + line(9, "ninth")[:20])
    assert texts(log) == ["eighth"]
    with path.open("a") as file:
        file.write(line(9, "ninth")[20:])
    for number, name in ((10, "tenth"), (11, "eleventh")):
        Path(f"{path}.1").replace(f"{path}.2")
        path.replace(f"{path}.1")
        path.write_text(line(number, name))
    assert texts(log) == ["ninth", "tenth", "eleventh"]
    assert texts(log) == []


def test_a_worker_that_comes_later_is_followed_too(folder, join):
    log = join()
    assert len(texts(log)) == 7
    (folder / "tester_pool" / "w9.jsonl").write_text(line(9, "new"))
    assert texts(log) == ["new"]


def test_a_line_that_is_no_json_is_text_of_its_neighbours_time():
    found = read_line(b"Segmentation fault\n", 17.0, Path("developer_pool/w1.jsonl"))
    assert (found.ts_ms, found.text, found.pool) == (17.0, "Segmentation fault", "developer_pool")
    assert found.worker_id == "w1"


def test_the_last_lines_are_printed_plainly(folder, capsys):
    assert main(["logs", "--log-dir", str(folder), "-n", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [text.split()[-1] for text in printed] == ["sixth", "seventh"]
    assert f"info     developer_pool {TWO}  sixth" in printed[0]


def test_json_is_printed_as_in_the_file(folder, capsys):
    assert main(["logs", "--log-dir", str(folder), "-n", "all", "--json", TWO]) == 0
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert printed == [json.loads(line(2, "second", TWO)), json.loads(line(6, "sixth", TWO))]


def test_fields_and_tracebacks_are_printed_without_control_characters(folder, capsys):
    path = folder / "tester_pool" / "w3.jsonl"
    fields: dict[str, Any] = {
        "event": "job.done",
        "message": "\x1b[2Jx",
        "took": 3,
        "exception": "Trace\nBoom",
    }
    path.write_text(line(4, "", **fields))
    main(["logs", "--log-dir", str(folder), "--pool", "tester_pool"])
    assert capsys.readouterr().out.endswith("  job.done  �[2Jx  took=3\n    Trace\n    Boom\n")


def test_a_log_that_cannot_be_read_is_named(folder, capsys, monkeypatch):
    """It is not left out: what is missing would seem not to have happened."""
    real = Path.open

    def opened(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "w3.jsonl":
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert main(["logs", "--log-dir", str(folder)]) == 1
    path = folder / "tester_pool" / "w3.jsonl"
    assert capsys.readouterr().err == f"muster logs: {path}: Too many open files\n"


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((256, resource.RLIM_INFINITY), [(10_240, resource.RLIM_INFINITY)]),
        ((256, 4096), [(4096, 4096)]),
        ((20_000, resource.RLIM_INFINITY), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_more_files_may_be_open_where_the_system_allows_it(folder, monkeypatch, limits, raised):
    """macOS says that there is no limit, and refuses to have none."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("resource.setrlimit", lambda _, both: found.append(both))
    assert main(["logs", "--log-dir", str(folder)]) == 0
    assert found == raised


@pytest.mark.parametrize("wrong", [["--since", "soon"], ["-n", "few"]])
def test_bad_input_is_one_line_and_exit_code_2(folder, capsys, wrong):
    assert main(["logs", "--log-dir", str(folder), *wrong]) == 2
    said = capsys.readouterr().err
    assert said.startswith("muster logs: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["tester_pol"], "no agent, worker or pool `tester_pol`; did you mean `tester_pool`?"),
        (["7"], "no agent, worker or pool `7`"),
        (["--pool", "../x"], "no pool `../x`; there are: developer_pool, tester_pool"),
        (["--worker", "*"], "no worker `*`"),
        ([ONE.replace("1", "9")], "no agent, worker or pool"),
    ],
)
def test_a_name_that_is_in_no_log_is_refused(folder, capsys, words, printed):
    assert main(["logs", "--log-dir", str(folder), *words]) == 1
    assert capsys.readouterr().err.startswith(f"muster logs: {printed}")


@pytest.mark.parametrize(
    ("name", "count"),
    [("00000002", 2), (TWO[-6:], 2), (f"…{TWO[-8:]}", 2), ("developer_pool", 6), ("tester_pool", 1),
     ("w2", 2), ("worker/w2", 2), (f"agent/{TWO}", 2), (ONE.upper(), 5)],
)  # fmt: skip
def test_agents_workers_and_pools_are_named_by_themselves_or_by_parts(folder, capsys, name, count):
    assert main(["logs", "--log-dir", str(folder), name]) == 0
    assert len(capsys.readouterr().out.splitlines()) == count


def test_a_part_that_several_ids_have_is_refused_with_the_candidates(folder, capsys):
    assert main(["logs", "--log-dir", str(folder), ONE[:8]]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"muster logs: `{ONE[:8]}` may be any of these:"
    assert [line.split()[:2] for line in said[1:]] == [["agent", ONE], ["agent", TWO]]


def test_a_folder_without_logs_is_reported(tmp_path, capsys):
    assert main(["logs", "--log-dir", str(tmp_path / "none")]) == 1
    assert "there are no logs" in capsys.readouterr().err


def test_the_command_follows_and_its_output_may_be_closed_at_any_time(folder):
    """`muster logs -f | head` ends quietly."""
    command = [sys.executable, "-m", "muster", "logs", "-f", "-n", "1", "--log-dir", str(folder)]
    root = Path(muster.__file__).parent.parent
    pipes = subprocess.PIPE
    process = subprocess.Popen(command, cwd=root, stdout=pipes, stderr=pipes)
    assert process.stdout is not None
    assert process.stderr is not None
    guard = threading.Timer(20.0, process.kill)
    guard.start()
    try:
        assert process.stdout.readline().endswith(b"seventh\n")
        path = folder / "tester_pool" / "w3.jsonl"
        with path.open("a") as file:
            file.write(line(8, "eighth"))
        assert process.stdout.readline().endswith(b"eighth\n")
        process.stdout.close()
        with path.open("a") as file:
            file.write(line(9, "ninth"))
        code = until_sync(process.poll, what="it ends by itself")
        assert (code, process.stderr.read()) == (141, b"")
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stderr.close()
