"""Log files of ended workers are removed in time; those of a live worker never are."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.output.log_files import LogFile, LogLimits, remove_old_files

DAY = 86_400.0
NOW = time.time()


def left_behind(folder: Path, name: str, *, days: float, files: int = 1, size: int = 10) -> None:
    """Files of an ended worker, last written so many days ago."""
    for number in range(files):
        path = folder / "pool" / (f"{name}.jsonl.{number}" if number else f"{name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (NOW - days * DAY - number, NOW - days * DAY - number))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/*"))


def test_old_files_are_removed_with_all_their_rotations(tmp_path: Path) -> None:
    left_behind(tmp_path, "old", days=15, files=4)
    left_behind(tmp_path, "new", days=13, files=2)
    removed = remove_old_files(tmp_path, LogLimits(age_seconds=14 * DAY), NOW)
    assert sorted(path.name for path in removed) == [
        "old.jsonl",
        "old.jsonl.1",
        "old.jsonl.2",
        "old.jsonl.3",
    ]
    assert names(tmp_path) == ["new.jsonl", "new.jsonl.1"]


def test_above_the_size_limit_the_oldest_files_are_removed(tmp_path: Path) -> None:
    for days in range(1, 6):
        left_behind(tmp_path, f"w{days}", days=days, files=2, size=50)
    remove_old_files(tmp_path, LogLimits(size_max=250), NOW)
    assert names(tmp_path) == ["w1.jsonl", "w1.jsonl.1", "w2.jsonl", "w2.jsonl.1"]


def test_an_interrupted_rotation_is_removed_too(tmp_path: Path) -> None:
    """Its worker died between renaming the full file and starting the next."""
    left_behind(tmp_path, "w", days=20, files=2)
    (tmp_path / "pool" / "w.jsonl").unlink()
    remove_old_files(tmp_path, LogLimits(), NOW)
    assert names(tmp_path) == []


def test_a_file_in_use_stays_however_old_and_large(tmp_path: Path) -> None:
    """A worker may be silent for weeks; its file and its rotations stay."""
    file = LogFile(tmp_path / "pool" / "w.jsonl", size_max=20)
    for _ in range(3):
        file.write(b"a line of some length\n")
    for path in tmp_path.glob("*/*"):
        os.utime(path, (NOW - 100 * DAY, NOW - 100 * DAY))
    limits = LogLimits(age_seconds=1.0, size_max=0)
    assert remove_old_files(tmp_path, limits, NOW) == []
    file.close()
    assert len(remove_old_files(tmp_path, limits, NOW)) == 3


def test_the_file_of_a_process_stays_until_it_is_killed(tmp_path: Path) -> None:
    """The lock ends with the process, however that ends."""
    write = (
        "import sys, time; from pathlib import Path; from workers.output.log_files import LogFile;"
        f" LogFile(Path({str(tmp_path / 'pool' / 'w.jsonl')!r})).write(b'x\\n');"
        " print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", write], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        limits = LogLimits(age_seconds=1.0)
        assert remove_old_files(tmp_path, limits, NOW + DAY) == []
        process.kill()
    assert [path.name for path in remove_old_files(tmp_path, limits, NOW + DAY)] == ["w.jsonl"]


def test_recently_written_files_stay(tmp_path: Path) -> None:
    """Its worker may be between two files of its own, neither of them locked."""
    left_behind(tmp_path, "w", days=0.0001, size=1000)
    assert remove_old_files(tmp_path, LogLimits(age_seconds=1.0, size_max=0), NOW) == []


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_without_files_there_is_nothing_to_do(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    assert remove_old_files(tmp_path / folder, LogLimits(), NOW) == []
