"""A flame graph shows each function as wide as its share."""

import re

from tests.bench.flame_graph import draw

STACKS = [
    "main (run.py:1);serve (gateway/a.py:3);write (eventstore/b.py:9) 30",
    "main (run.py:1);serve (gateway/a.py:4);write (eventstore/b.py:7) 30",
    "main (run.py:1);serve (gateway/a.py:4);<genexpr> (gateway/a.py:8) 40",
]


def shares(svg: str) -> dict[str, str]:
    return dict(re.findall(r"<g><title>(.*): ([\d.]+%)</title>", svg))


def test_lines_of_one_function_count_together_and_common_callers_are_left_out() -> None:
    svg = draw("a & b", STACKS)
    assert shares(svg) == {
        "serve (gateway/a.py)": "100.0%",
        "write (eventstore/b.py)": "60.0%",
        "&lt;genexpr&gt; (gateway/a.py)": "40.0%",
    }
    assert "a &amp; b, 100 samples" in svg


def test_what_is_too_narrow_is_not_drawn() -> None:
    svg = draw("t", [*STACKS, "main (run.py:1);serve (gateway/a.py:3);rare (x.py:1) 0"])
    assert "rare" not in svg


def test_widths_are_in_proportion() -> None:
    widths = re.findall(r'<rect x="[\d.]+" y="\d+" width="([\d.]+)"', draw("t", STACKS))
    assert widths == ["1180.0", "472.0", "708.0"]
