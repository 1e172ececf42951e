"""The documents: their text, and how to find sections and tables in it.

Tests derive what a page must say from the code: where the two differ, the page is corrected.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("eventstore", "workers", "projector", "gateway", "muster")
EVENTS, OPERATIONS, WRITING, ARCHITECTURE = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("events", "operations", "writing-agents", "architecture")
)
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one of its rank or above."""
    rank = heading.split(" ", 1)[0]
    text = page.partition(f"\n{heading}\n")[2]
    assert text, f"there is no {heading!r}"
    return re.split(rf"^#{{1,{len(rank)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """The rows of the first table in a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def first_names(text: str) -> list[str]:
    """The code in the first column of all tables of a text."""
    rows = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    return [name for name in rows if name not in ("name", "field")]
