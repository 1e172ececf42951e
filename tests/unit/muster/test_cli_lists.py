"""The forms of lists: JSON, names, all columns, sorted, without headers, watched."""

import json
import os
import pty
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BufferedReader

import pytest

from muster.__main__ import main
from muster.cli.arguments.command import INTERRUPTED
from tests.unit.muster.gateway_stub import AGENT, OTHER, POOL, agent, problem

LONG = "a-project-whose-name-is-as-long-as-names-may-be" * 2
WORKERS = [
    {"worker_id": f"01936b3e-7c1f-7e60-9f52-{n:012}", "pool_name": f"pool{11 - n}",
     "host": f"h{n}", "pid": n, "status": "active", "agent_count": n, "max_agents": 10}
    for n in (1, 10, 2)
]  # fmt: skip


@pytest.fixture
def listed(gateway):
    """Two agents, three workers, one pool."""
    agents = [agent(created_at=2, labels={"team": "red"}), agent(OTHER, project_id=LONG)]
    gateway.answers["GET "] = {"agents": agents, "next": None}
    gateway.answers["GET /workers"] = {"workers": WORKERS, "next": None}
    gateway.answers["GET /pools"] = {"pools": [POOL]}
    return gateway


def first_words(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()]


def test_every_list_is_printed_as_names_lines_or_one_document(listed, muster):
    for command, names in (
        ("ps", [AGENT, OTHER]),
        ("workers", [worker["worker_id"] for worker in WORKERS]),
        ("pools", ["night"]),
    ):
        assert muster(command, "-o", "name") == (0, "".join(f"{name}\n" for name in names), "")
        lines = muster(command, "-o", "jsonl")[1].splitlines()
        assert [json.loads(line) for line in lines] == json.loads(muster(command, "--json")[1])
        assert len(lines) == len(names)
        table = muster(command)[1].splitlines()
        assert muster(command, "--no-headers")[1].splitlines() == table[1:]


def test_wide_has_more_columns(listed, muster):
    assert "LABELS" not in muster("ps")[1]
    assert "team=red" in muster("ps", "-o", "wide")[1]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("pid", [1, 2, 10]),
        ("POOL", [10, 2, 1]),
        ("-agents", [10, 2, 1]),
        ("host", [1, 2, 10]),
        ("-agent_count", [10, 2, 1]),
        ("worker_id", [1, 2, 10]),
    ],
)
def test_lists_are_sorted_by_columns_and_fields_numbers_by_their_size(listed, muster, sort, order):
    found = json.loads(muster("workers", f"--sort={sort}", "--json")[1])
    assert [worker["pid"] for worker in found] == order


def test_the_youngest_come_first_by_age(listed, muster):
    assert first_words(muster("ps", "--sort", "age", "--no-headers")[1]) == [AGENT, OTHER]
    assert first_words(muster("ps", "--sort=-age", "--no-headers")[1]) == [OTHER, AGENT]


def test_a_limit_counts_after_the_sorting(listed, muster):
    out = muster("ps", "--sort=-age", "--limit", "1", "-o", "name")[1]
    assert out == f"{OTHER}\n"


class Enough(Exception):
    """Ends a watch."""


@pytest.mark.parametrize("form", ["jsonl", "name", None])
def test_in_a_pipe_a_watch_prints_what_has_changed(listed, muster, monkeypatch, capsys, form):
    changed = [{**WORKERS[0], "agent_count": 7, "last_heartbeat": 9}, *WORKERS[1:]]
    heard = [{**worker, "last_heartbeat": 9} for worker in changed]
    pages = iter([changed, heard])

    def wait(_: object) -> bool:
        try:
            listed.answers["GET /workers"] = {"workers": next(pages)}
        except StopIteration:
            raise Enough from None
        return True

    monkeypatch.setattr("muster.cli.resources.pace.Pace.wait", wait)
    with pytest.raises(Enough):
        muster("workers", "--watch", *(["-o", form] if form else []))
    lines = capsys.readouterr().out.splitlines()
    heading = 0 if form else 1
    ids = [worker["worker_id"] for worker in [*WORKERS, changed[0]]]
    assert len(lines) == heading + 4
    assert all(name in line for name, line in zip(ids, lines[heading:], strict=True))


@pytest.fixture
def printed(listed, monkeypatch) -> Callable[..., list[str]]:
    """Runs a command at a terminal of 80 columns, or in a pipe; the lines that it prints."""

    def run(*words: str, terminal: bool, code: int = 0, **environment: str) -> list[str]:
        pipe, end = pty.openpty() if terminal else os.pipe()
        with (
            ThreadPoolExecutor(1) as reading,
            monkeypatch.context() as patch,
            os.fdopen(pipe, "rb") as output,
        ):
            found = reading.submit(read_all, output)
            for name, value in {"TERM": "xterm", "COLUMNS": "80", **environment}.items():
                patch.setenv(name, value)
            with os.fdopen(end, "w") as stdout:
                patch.setattr("sys.stdout", stdout)
                assert main(words) == code
            return found.result(20).decode().splitlines()

    return run


def read_all(output: BufferedReader) -> bytes:
    said = b""
    with suppress(OSError):  # how the end of a terminal is read
        while piece := output.read1():
            said += piece
    return said


def test_nothing_is_cut_in_a_pipe(printed):
    """However narrow the terminal is that it was started from."""
    for words in (["ps"], ["ps", "-o", "wide"], ["ps", "--label", "team=red"]):
        lines = printed(*words, terminal=False)
        assert AGENT in lines[1]
        assert LONG in lines[2]
        assert "…" not in "".join(lines)
        assert "\x1b" not in "".join(lines)


def test_at_a_terminal_of_80_columns_ids_are_shortened_before_columns_are_dropped(printed):
    for command in ("ps", "workers", "pools"):
        lines = printed(command, terminal=True, NO_COLOR="1", FORCE_COLOR="")
        assert max(map(len, lines)) <= 80 + len("\x1b[1m\x1b[0m") * 12
    lines = printed("workers", terminal=True, TERM="dumb")
    columns = "WORKER POOL PID STATUS AGENTS AGE HEARTBEAT LAG REASON"
    assert lines[0].split() == columns.split()
    assert lines[1].startswith("…")


def test_wide_is_complete_at_a_terminal(printed):
    lines = printed("ps", "-o", "wide", terminal=True, TERM="dumb")
    assert AGENT in lines[1]
    assert LONG in lines[2]


def test_a_watch_at_a_terminal_outlasts_what_fails_meanwhile(listed, printed, monkeypatch):
    """The last table stays, with why there is no other."""
    pages = iter([(503, problem(503, "the views are away")), {"workers": WORKERS[:1]}])

    def wait(_: object) -> bool:
        try:
            listed.answers["GET /workers"] = next(pages)
        except StopIteration:
            raise KeyboardInterrupt from None
        return True

    monkeypatch.setattr("muster.cli.resources.pace.Pace.wait", wait)
    said = "".join(printed("workers", "--watch", terminal=True, code=INTERRUPTED))
    assert said.count("the views are away") == 1
    assert said.count("pool9") == 2


def test_no_color_means_no_colour(printed):
    assert "\x1b[32m" in "".join(printed("ps", terminal=True))
    assert "\x1b[32m" not in "".join(printed("ps", terminal=True, NO_COLOR="1"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pss"], "no command `pss`; did you mean `ps`?"),
        (["ps", "-o", "jsn"], "no choice `jsn`; did you mean `json`?"),
        (["ps", "--projekt", "demo"], "no flag `--projekt`; did you mean `--project`?"),
        (["up", "--prot=80"], "no flag `--prot`; did you mean `--port`?"),
        (["workers", "developer_pool"], "what is `developer_pool`? It is one word too many"),
    ],
)
def test_a_misspelt_command_flag_or_choice_is_named(muster, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        muster(*words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
