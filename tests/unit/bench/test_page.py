"""The page is made of the results that are there, and its pictures are well formed."""

from pathlib import Path
from xml.etree import ElementTree

import msgspec

from tests.bench import page
from tests.bench.figures import Breakdown, Figure, Report

REPORT = Report(
    name="accept",
    figures=(
        Figure(
            name="accepted",
            unit="/s",
            ours=(400.0, 500.0, 600.0),
            compared_with="bare <handler>",
            baseline=(1000.0, 1000.0, 1000.0),
            target=0.4,
            aim=0.7,
        ),
        Figure(name="size", unit="MB", ours=(9.5,), better="less", target=9.0),
        Figure(name="leases lost", unit="", ours=(0.0,), better="less", target=0.0),
    ),
    breakdowns=(
        Breakdown(title="CPU", unit="µs", rows={"a": {"x": 1.0}, "b": {"x": 2.0, "y": 3.0}}),
    ),
    command="python -m tests.bench --only accept",
    commit="abc1234",
    date="2026-01-02",
    machine="a machine",
    load=7.5,
)


def written(tmp_path: Path) -> tuple[str, list[Path]]:
    (tmp_path / "accept.json").write_bytes(msgspec.json.encode(REPORT))
    (tmp_path / "docs").mkdir()
    page.write(tmp_path, tmp_path / "docs", ("lag", "accept"))
    pictures = sorted((tmp_path / "docs/performance").iterdir())
    return (tmp_path / "docs/performance.md").read_text(), pictures


def test_a_row_has_the_figure_its_baseline_their_ratio_and_whether_the_target_is_reached(
    tmp_path: Path,
) -> None:
    text, _ = written(tmp_path)
    assert (
        "| accepted | 500 (400 - 600) /s | bare <handler> | 1,000 (1,000 - 1,000) /s"
        " | 0.500 (0.400 - 0.600) | ≥ 0.400 | 0.700 | reached |"
    ) in text
    assert "| size | 9.50 MB |  |  |  | ≤ 9.00 |  | **missed** |" in text
    assert "| leases lost | 0 |  |  |  | ≤ 0 |  | reached |" in text


def test_command_commit_date_machine_and_its_load_are_named(tmp_path: Path) -> None:
    text, _ = written(tmp_path)
    for part in (REPORT.command, REPORT.commit, REPORT.date, REPORT.machine, "7.5"):
        assert part in text


def test_a_breakdown_has_a_column_for_each_process_and_the_sum(tmp_path: Path) -> None:
    text, _ = written(tmp_path)
    assert "|  | x | y | sum, µs |" in text
    assert "| b | 2.00 | 3.00 | 5.00 |" in text


def test_pictures_are_well_formed_and_all_are_shown(tmp_path: Path) -> None:
    text, pictures = written(tmp_path)
    assert [picture.name for picture in pictures] == ["accept-0.svg", "targets.svg"]
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert f"(performance/{picture.name})" in text
