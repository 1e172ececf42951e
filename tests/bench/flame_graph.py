"""A flame graph as SVG: stacks from the top down, as wide as their share of all samples.

What all samples have in common, such as how the process started, is left out.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

WIDTH, LEVEL, TOP, CHARACTER = 1200, 17, 40, 6.6
NARROWEST = 1.0
"""Pixels; what is narrower is not drawn."""
COLOURS = {
    "gateway": "#9cc3f5",
    "eventstore": "#f0b8a8",
    "workers": "#a5dbb9",
    "projector": "#e4cf94",
    "muster": "#c9bce8",
}
OTHER = "#d5dbe2"
FONT = 'role="img" font-family="DejaVu Sans Mono, monospace" font-size="11" fill="#1d2733"'


@dataclass
class _Frame:
    name: str
    samples: int = 0
    callees: "dict[str, _Frame]" = field(default_factory=dict)


def draw(title: str, stacks: Iterable[str]) -> str:
    """The graph of stacks, each of which is frames between semicolons, a space, and its samples."""
    root = _trimmed(_tree(stacks))
    scale = (WIDTH - 20) / max(1, root.samples)
    body = list(_drawn(root, 10.0, 0, scale, root.samples))
    height = TOP + LEVEL * (_depth(root, scale) + 1)
    legend = "".join(
        f'<tspan fill="{colour}">■</tspan> {name}  '
        for name, colour in (*COLOURS.items(), ("libraries", OTHER))
    )
    lines = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="16">{escape(title)}, {root.samples} samples</text>',
        f'<text x="10" y="32" xml:space="preserve">{legend}</text>',
        *body,
        "</svg>",
    )
    return "\n".join(lines) + "\n"


def _tree(stacks: Iterable[str]) -> _Frame:
    root = _Frame("all")
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frame, samples = root, int(count)
        root.samples += samples
        for name in stack.split(";"):
            short = re.sub(r":\d+\)$", ")", name)  # lines of one function count together
            frame = frame.callees.setdefault(short, _Frame(short))
            frame.samples += samples
    return root


def _trimmed(frame: _Frame) -> _Frame:
    """Without the callers that all but a fiftieth of the samples have in common."""
    widest = max(frame.callees.values(), key=lambda one: one.samples, default=None)
    if widest is None or widest.samples < 0.98 * frame.samples:
        return frame
    return _trimmed(widest)


def _depth(frame: _Frame, scale: float) -> int:
    drawn = [one for one in frame.callees.values() if one.samples * scale >= NARROWEST]
    return 1 + max((_depth(one, scale) for one in drawn), default=0)


def _drawn(frame: _Frame, x: float, level: int, scale: float, total: int) -> Iterator[str]:
    width = frame.samples * scale
    if width < NARROWEST:
        return
    y = TOP + level * LEVEL
    where = frame.name.partition(" (")[2].partition("/")[0]
    fitting = int((width - 4) / CHARACTER)
    shown = frame.name if len(frame.name) <= fitting else frame.name[: max(0, fitting - 1)] + "…"
    yield f"<g><title>{escape(frame.name)}: {frame.samples / total:.1%}</title>"
    yield (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LEVEL - 1}"'
        f' fill="{COLOURS.get(where, OTHER)}" stroke="#ffffff"/>'
    )
    if fitting >= 3:
        yield f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(shown)}</text>'
    yield "</g>"
    for callee in sorted(frame.callees.values(), key=lambda one: one.name):
        yield from _drawn(callee, x, level + 1, scale, total)
        x += callee.samples * scale
