"""Figures and breakdowns as Markdown."""

from collections.abc import Iterable, Iterator, Sequence

from tests.bench.figures import Breakdown, Figure, Report, number, spread

HEAD = ("what", "measured", "compared with", "baseline", "ratio", "to reach", "aim", "")
SAID = {True: "reached", False: "**missed**", None: ""}


def rows_of(cells: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table; the first row is its head."""
    for index, row in enumerate(cells):
        yield f"| {' | '.join(row)} |"
        if index == 0:
            yield f"|{' --- |' * len(row)}"


def figures_table(figures: Sequence[Figure]) -> str:
    """Every figure: median (lowest - highest) over the rounds of one run."""
    return "\n".join(rows_of([HEAD, *map(_figure_row, figures)]))


def _figure_row(figure: Figure) -> tuple[str, ...]:
    sign = "≥" if figure.better == "more" else "≤"
    unit = f" {figure.unit}" if figure.unit else ""
    return (
        figure.name,
        spread(figure.ours) + unit,
        figure.compared_with,
        spread(figure.baseline) + unit if figure.baseline else "",
        spread(figure.ratios) if figure.baseline else "",
        f"{sign} {number(figure.target)}" if figure.target is not None else "",
        number(figure.aim) if figure.aim is not None else "",
        SAID[figure.reached],
    )


def breakdown_table(breakdown: Breakdown) -> str:
    """One row per system, one column per process that any of them has, and the sum."""
    kinds = sorted({kind for row in breakdown.rows.values() for kind in row})
    head = ("", *kinds, f"sum, {breakdown.unit}")
    rows = [
        (name, *(number(row[k]) if k in row else "" for k in kinds), number(sum(row.values())))
        for name, row in breakdown.rows.items()
    ]
    return "\n".join(rows_of([head, *rows]))


def as_markdown(report: Report) -> str:
    """A benchmark's section: notes, figures, breakdowns."""
    parts = [f"## {report.name}", *report.notes, figures_table(report.figures)]
    for breakdown in report.breakdowns:
        parts += [f"{breakdown.title}:", breakdown_table(breakdown)]
    return "\n\n".join(parts) + "\n"
