"""How many workers a host takes."""

from pathlib import Path

import pytest

from workers.host import capacity
from workers.host.capacity import HostLimits, available_memory_mb, processor_load

MEMINFO = "MemTotal: 2000000 kB\nMemFree: 10 kB\nMemAvailable: 1000000 kB\n"


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 1024.0),
        ({"memory.max": "max\n", "memory.current": "5"}, 1024.0),
        ({"memory.max": "500000000", "memory.current": "400000000"}, 100.0),
        (
            {
                "memory.max": "500000000",
                "memory.current": "400000000",
                "memory.stat": "anon 1\ninactive_file 50000000\n",
            },
            150.0,
        ),
        ({"memory.max": "5", "memory.current": "9"}, 0.0),
        ({"memory.max": "odd", "memory.current": ""}, 1024.0),
    ],
)
def test_available_memory_is_that_of_the_host_or_its_container(
    tmp_path: Path, files: dict[str, str], available: float
):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert available_memory_mb(meminfo, tmp_path) == pytest.approx(available)


def test_where_nothing_can_be_read_memory_is_no_limit(tmp_path: Path):
    assert available_memory_mb(tmp_path / "none", tmp_path) is None


def test_a_host_is_full_by_number_or_memory():
    assert HostLimits(workers_max=2).full(1) == ""
    assert "2 of at most 2 workers (host_workers_max)" in HostLimits(workers_max=2).full(2)
    assert "(host_memory_min_mb)" in HostLimits(memory_min_mb=1e9).full(0)
    assert HostLimits().workers >= 64


@pytest.mark.parametrize(
    ("files", "load"),
    [
        ({"loadavg": "8.00 1.00 1.00 3/99 1"}, 2.0),
        ({"loadavg": "8.00 1.00 1.00 3/99 1", "cpu.max": "max 100000"}, 2.0),
        ({"loadavg": "8.00 1.00 1.00 3/99 1", "cpu.max": "200000 100000"}, None),
        (
            {
                "loadavg": "8.00 1.00 1.00 3/99 1",
                "cpu.max": "200000 100000",
                "cpu.pressure": "some avg10=99.00 avg60=98.00 avg300=9.00 total=1\n"
                "full avg10=10.00 avg60=75.00 avg300=9.00 total=1\n",
            },
            4.0,
        ),
        ({}, None),
    ],
)
def test_the_load_is_that_of_the_host_or_of_a_container_with_a_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], load: float | None
):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert processor_load(tmp_path / "loadavg", tmp_path) == load


def test_a_busy_host_takes_workers_again_once_it_is_well_within_its_limit(
    monkeypatch: pytest.MonkeyPatch,
):
    measured = [9.0]
    monkeypatch.setattr(capacity, "processor_load", lambda: measured[0])
    limits = HostLimits(load_max=10.0)
    assert limits.busy() == ""
    measured[0] = 11.0
    assert limits.busy().endswith("(host_load_max)")
    measured[0] = 9.0
    assert limits.busy(was_full=True) != ""
    measured[0] = 7.0
    assert limits.busy(was_full=True) == ""
    measured[0] = 1e9
    assert HostLimits().busy() == ""
