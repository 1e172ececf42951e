"""Files are read and written as UTF-8, whatever the locale: every place that opens one says so."""

import ast
from collections.abc import Iterator

import pytest

from tests.unit.source.pages import ROOT

ROOMS = ("eventstore", "workers", "projector", "gateway", "muster")
TEXT = {"read_text", "write_text", "TextIOWrapper", "FileHandler", "RotatingFileHandler"}
PROCESSES = {"run", "Popen", "check_output", "call", "check_call"}
OPENERS = {"open", "fdopen", "TemporaryFile", "NamedTemporaryFile"}
NO_FILES = {"os", "database", "_database", "restore", "archive", "folder", "webbrowser"}
"""What else has an `open`."""


def locale_dependent(source: str) -> Iterator[int]:
    """Lines with a call that uses the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _is_locale_dependent(node):
            yield node.lineno


def _is_locale_dependent(call: ast.Call) -> bool:
    on = call.func.value if isinstance(call.func, ast.Attribute) else None
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in TEXT or (name in PROCESSES and {"text", "universal_newlines"} & keywords.keys()):
        return True
    if name not in OPENERS or (name == "open" and _last_name(on) in NO_FILES):
        return False
    given = [*call.args, *([keywords["mode"]] if "mode" in keywords else [])]
    modes = [one.value for one in given if isinstance(one, ast.Constant)]
    return not any("b" in mode for mode in modes if isinstance(mode, str))


def _last_name(node: ast.expr | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def test_every_file_is_opened_as_utf_8_or_as_bytes() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in locale_dependent(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "call",
    [
        "path.read_text()", "(a / b).write_text(x)", "open(name)", "open(name, 'w')",
        "path.open()", "path.open(mode='a')", "os.fdopen(1, 'w')", "FileHandler(x)",
        "subprocess.run(x, text=True)", "TemporaryFile('w')",
    ],
)  # fmt: skip
def test_what_would_depend_on_the_locale_is_found(call: str) -> None:
    assert list(locale_dependent(call)) == [1]


@pytest.mark.parametrize(
    "call",
    ["path.read_text(encoding='utf-8')", "open(name, 'rb')", "path.open('ab')", "os.open(name)",
     "self._database.open()", "path.open(mode='wb')", "open(x, 'w', encoding='utf-8')"],
)  # fmt: skip
def test_what_does_not_is_not(call: str) -> None:
    assert list(locale_dependent(call)) == []
