"""Standard output and error that are closed, full, or lack letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAID = '{"ts": "2026-11-24T14:03:00Z", "event": "grüße", "agent_id": "a"}\n'


def muster(folder: Path, redirection: str, *words: str) -> tuple[int, str]:
    """Run a command with redirections of a shell; returns its exit code and output."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "muster", *words],
        check=False,
        cwd=Path.cwd(),
        env={**os.environ, "PYTHONIOENCODING": "ascii", "MUSTER_DATA_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs" / "p").mkdir(parents=True)
    (tmp_path / "logs" / "p" / "w.jsonl").write_text(SAID)
    return tmp_path


def test_closed_standard_streams_are_no_error(logs: Path) -> None:
    assert muster(logs, "<&- >&- 2>&-", "logs") == (0, "")


def test_errors_are_dropped_where_standard_error_is_closed(tmp_path: Path) -> None:
    """A program that reads JSON from standard output would read it there."""
    assert muster(tmp_path, "2>&-", "logs") == (1, "")


def test_letters_outside_the_encoding_are_printed_as_escapes(logs: Path) -> None:
    code, said = muster(logs, "", "logs")
    assert (code, said.count("gr\\xfc\\xdfe")) == (0, 1)
    folder = logs / "grüße"
    folder.mkdir()
    (folder / "redis").touch()  # so that it ends at once
    code, said = muster(logs, "", "up", "--port", "0", "--data-dir", str(folder))
    assert (code, said.count("gr\\xfc\\xdfe\n")) == (1, 1)
    assert "muster up: the embedded server cannot be started" in said


def test_a_full_output_is_reported(logs: Path) -> None:
    said = muster(logs, ">/dev/full", "logs")
    assert said == (1, "muster logs: [Errno 28] No space left on device\n")


def test_a_log_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """Else every line of it would be a traceback at the terminal."""
    log = tmp_path / "logs" / "up.jsonl"
    log.mkdir(parents=True)
    (tmp_path / "redis").touch()  # so that it ends at once
    said = muster(tmp_path, "", "up", "--port", "0")
    assert said == (1, f"muster up: the log {log} cannot be written: Is a directory\n")
