"""Bars as SVG, of ratios and of costs by process."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from tests.bench.figures import Breakdown, Figure, number

WIDTH, LEFT, ROW, BAR = 960, 400, 30, 18
FONT = 'role="img" font-family="system-ui, DejaVu Sans, sans-serif" font-size="13" fill="#1d2733"'
COLOURS = ("#1f6feb", "#b98a1c", "#2f9e63", "#c2543d", "#7a5cc0", "#4a97a8", "#8996a8")


def stacked(breakdown: Breakdown) -> str:
    """One bar for each system, in the colours of its processes."""
    kinds = sorted({kind for row in breakdown.rows.values() for kind in row})
    colours = dict(zip(kinds, COLOURS * (1 + len(kinds) // len(COLOURS)), strict=False))
    longest = max(sum(row.values()) for row in breakdown.rows.values())
    body = list(_legend(colours))
    for index, (name, row) in enumerate(breakdown.rows.items()):
        y, x = ROW * (index + 2), float(LEFT)
        body.append(_text(LEFT - 10, y + 14, name, anchor="end"))
        for kind, value in row.items():
            width = value / longest * (WIDTH - LEFT - 90)
            body.append(_bar(x, y, width, colours[kind]))
            x += width
        body.append(_text(x + 8, y + 14, f"{number(sum(row.values()))} {breakdown.unit}"))
    return _page(f"{breakdown.title}, {breakdown.unit}", body, len(breakdown.rows) + 2)


def ratios(title: str, figures: Iterable[tuple[str, Figure]]) -> str:
    """How far each figure is from its target: 1 is the target, longer is better."""
    bars = [(name, _reach(figure, figure.target or 0.0)) for name, figure in figures]
    scale = (WIDTH - LEFT - 90) / max(2.0, *(min(reach, 4.0) for _, reach in bars))
    body = []
    for index, (name, reach) in enumerate(bars):
        y = ROW * (index + 1)
        colour = COLOURS[2] if reach >= 1 else COLOURS[3]
        body.append(_text(LEFT - 10, y + 14, name, anchor="end"))
        body.append(_bar(LEFT, y, min(reach, 4.0) * scale, colour))
        body.append(_text(LEFT + min(reach, 4.0) * scale + 8, y + 14, number(reach)))
    x, bottom = LEFT + scale, ROW * (len(bars) + 1)
    body.append(f'<path d="M{x:.0f} {ROW - 6}V{bottom}" stroke="#1d2733" stroke-dasharray="4 3"/>')
    return _page(title, body, len(bars) + 1)


def _reach(figure: Figure, target: float) -> float:
    if figure.better == "more":
        return figure.compared / target
    return target / figure.compared if figure.compared else 1.0


def _legend(colours: Mapping[str, str]) -> Iterator[str]:
    for index, (kind, colour) in enumerate(colours.items()):
        x = 20 + index * 125
        yield _bar(x, ROW, 14, colour)
        yield _text(x + 20, ROW + 14, kind)


def _bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _page(title: str, body: Iterable[str], rows: int) -> str:
    height = ROW * rows + 20
    lines = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(20, 18, title),
        *body,
        "</svg>",
    )
    return "\n".join(lines) + "\n"
