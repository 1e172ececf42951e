"""Every `muster …` in the pages is a command that exists, with flags that it has."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.cli.main import command_line
from tests.unit.source.pages import PAGES, ROOT

SHOWN = [page for page in PAGES if "decisions" not in page.parts and page.name != "CHANGELOG.md"]
BLOCK = re.compile(r"^```(?:sh|bash|console|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(muster [^`]+)`")
COMMAND = re.compile(r"(?:^|[ ;&|(])(muster (?:[^\n'\"|;&>)]|'[^'\n]*'|\"[^\"\n]*\")*)")


def commands(page: Path) -> Iterator[str]:
    """Every command of a page, without what it is piped into or its comment."""
    text = page.read_text()
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from COMMAND.findall(line)
    yield from (one.replace("\n", " ") for one in INLINE.findall(BLOCK.sub("", text)))


def words_of(command: str) -> list[str]:
    """Placeholders stay as they are; of alternatives (`retry|drop`) the first is taken."""
    alternative = re.sub(r"(\w)\|[\w|]+", r"\1", command)
    return [word for word in shlex.split(alternative, comments=True)[1:] if word != "…"]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser, wrong = command_line(), []
    for command in commands(page):
        words = words_of(command)
        required = {
            "run": ["ROLE"],
            "spawn": ["POOL", "--project", "p"],
            "logs": [],
            "terminate": ["ID"],
            "simulate": ["--policy", "FILE", "--arrivals", "FILE"],
        }
        for attempt in (
            words,
            [*words, *required.get(words[0] if words else "", [])],
            [*words, "NAME", "k=v"],
        ):
            try:
                parser.parse_args(attempt)
                break
            except SystemExit as ended:
                if ended.code == 0:
                    break
        else:
            wrong.append(command)
    capsys.readouterr()
    assert wrong == []


def test_the_commands_of_the_readme_are_found() -> None:
    found = list(commands(ROOT / "README.md"))
    assert "muster up" in [command.strip() for command in found]
    assert any("--input" in command for command in found)
