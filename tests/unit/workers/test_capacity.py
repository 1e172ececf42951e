"""How many workers a host takes."""

from pathlib import Path

import pytest

from workers.host.capacity import HostLimits, available_memory_mb

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
