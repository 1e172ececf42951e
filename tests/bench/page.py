"""`docs/performance.md` and its pictures, from the results of benchmarks."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench import pictures
from tests.bench.figures import Figure, Report, read_report
from tests.bench.table import breakdown_table, figures_table

INTRODUCTION = """\
# Performance

Measured by `python -m tests.bench --docs`, which writes this page; do not edit it. Each figure is
the median of several rounds, with the lowest and the highest in brackets. A ratio is formed within
each round, with a baseline that was measured in the same round: the bare operations, or another
project in an environment of its own, configured as its documentation recommends. All processes of
a system and its client share the machine. CPU time varies less from run to run than rates do.
What is measured how, and what must not get slower:
[decision 0045](decisions/0045-what-is-measured.md). Where the time goes:
[flame graphs](performance/flame-graphs.md).
What is missed, and why: [reasons](performance/missed.md).
"""


def write(results: Path, docs: Path, order: Sequence[str]) -> None:
    """Write the page from all results that are there, in that order."""
    files = [results / f"{name}.json" for name in order]
    reports = [read_report(file.read_bytes()) for file in files if file.exists()]
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    with_targets = [
        (f"{r.name}: {_short(f)}", f) for r in reports for f in r.figures if f.target is not None
    ]
    (folder / "targets.svg").write_text(pictures.ratios("Share of each target", with_targets))
    parts = [
        INTRODUCTION,
        f"Machine: {'; '.join(sorted({report.machine for report in reports}))}.\n",
        "![Each figure as a share of its target](performance/targets.svg)\n",
    ]
    parts += [_section(report, folder) for report in reports]
    (docs / "performance.md").write_text("\n".join(parts))


def _short(figure: Figure) -> str:
    return figure.name.replace("`", "")


def _section(report: Report, folder: Path) -> str:
    ran = f"`{report.command}` at {report.commit}, {report.date}, {report.seconds:.0f} s"
    if report.load:
        ran += f", load average before it {report.load:.1f}"
    lines = [
        f"## {report.name}\n",
        f"{ran}. {'; '.join(report.notes)}.\n",
        figures_table(report.figures) + "\n",
    ]
    for number, breakdown in enumerate(report.breakdowns):
        name = f"{report.name}-{number}.svg"
        (folder / name).write_text(pictures.stacked(breakdown))
        lines += [f"{breakdown.title}:\n", breakdown_table(breakdown) + "\n"]
        lines += [f"![{breakdown.title}](performance/{name})\n"]
    return "\n".join(lines)
