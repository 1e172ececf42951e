"""Files, code, commands and tests that the pages name exist, and are as shown."""

import re
import runpy
from pathlib import Path

import pytest

from tests.unit.source.pages import PACKAGES, PAGES, ROOT, WRITING


def test_the_files_in_the_picture_exist() -> None:
    drawn = re.findall(r'class="file"[^>]*>([^<]+)<', (ROOT / "docs/spawn.svg").read_text())
    files = [name for text in drawn for name in text.split(", ") if "/" in name]
    assert len(files) >= 12
    for name in files:
        assert any(ROOT.glob(f"*/{name}" if name.endswith("/") else f"*/{name}.py")), name


def test_code_shown_from_a_file_is_that_file() -> None:
    marked = r"^<!-- (docs/\S+) -->\n```\w+\n(.*?)^```"
    shown = re.findall(marked, WRITING, re.MULTILINE | re.DOTALL)
    assert len(shown) >= 3
    for path, text in shown:
        assert text == (ROOT / path).read_text(), path


def test_the_diff_that_adds_a_field_still_applies() -> None:
    page = (ROOT / "docs/how-to-add.md").read_text()
    [diff] = re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    parts = re.findall(
        r"^\+\+\+ b/(\S+)\n@@ (.+) @@\n((?:[ +-].*\n)+?)(?=---|\Z)", diff, re.MULTILINE
    )
    assert len(parts) == 4
    for path, start, lines in parts:
        old = "".join(line[1:] for line in lines.splitlines(True) if line[0] in " -")
        _, found, after = (ROOT / path).read_text().partition(f"\n{start}")
        assert found, f"{path}: {start}"
        now, then = (re.sub(r"\b\d+\b", "N", text) for text in (f"{start}{after}", old))
        assert then in now, path


def test_the_tests_that_guard_each_kind_of_change_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/how-to-add.md").read_text()))
    source = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 10
    assert named <= set(re.findall(r"def (test_\w+)", source))


def test_the_first_two_commands_of_the_readme_are_the_two_that_ci_runs() -> None:
    commands = runpy.run_path(str(ROOT / ".ci/readme.py"))["commands"]
    assert list(commands((ROOT / "README.md").read_text()))[:2] == [
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/muster up",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if "://" in target:
            continue
        to = page.parent / target if target else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to.read_text()), f"{target}#{anchor}"
    for name in re.findall(rf"`((?:{'|'.join((*PACKAGES, 'tests', 'deploy'))})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def anchors(text: str) -> set[str]:
    """The anchors that headings get: lower case, punctuation gone, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
