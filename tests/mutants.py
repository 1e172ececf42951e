"""Change one operator of a module at a time, and see whether its tests fail.

    python -m tests.mutants eventstore/language/scaling.py tests/unit/eventstore/test_scaling_*.py

Comparisons, signs, `and`, `or` and `not` are changed. Prints the changes that no test notices, and
how many of all were noticed; exit code 1 if that is less than `--least` (0.95).
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

OTHERS: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.USub: ast.UAdd,
}  # fmt: skip
NOTICED, TIMED_OUT_SECONDS = 1, 60


class Source(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self._name, self._tree = name, tree

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._tree, f"<{self._name}>", "exec"), module.__dict__)


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """Each with its line and what was changed there; annotations stay as they are."""
    for number, node in enumerate(ast.walk(tree)):
        names = ("op",) if isinstance(node, ast.BinOp | ast.UnaryOp | ast.BoolOp) else ()
        places: list[tuple[str, int]] = [(name, -1) for name in names]
        if isinstance(node, ast.Compare):
            places = [("ops", index) for index in range(len(node.ops))]
        for name, index in places:
            changed = copy.deepcopy(tree)
            twin = list(ast.walk(changed))[number]
            old = getattr(twin, name) if index < 0 else twin.ops[index]  # type: ignore[attr-defined]
            if isinstance(old, ast.Not):
                setattr(twin, name, ast.Not())
                twin.operand = ast.UnaryOp(ast.Not(), twin.operand)  # type: ignore[attr-defined]
            elif type(old) not in OTHERS:
                continue
            elif index < 0:
                setattr(twin, name, OTHERS[type(old)]())
            else:
                twin.ops[index] = OTHERS[type(old)]()  # type: ignore[attr-defined]
            text = f"line {node.lineno}: {ast.unparse(node)} -> {ast.unparse(twin)}"  # type: ignore[attr-defined]
            yield text, ast.fix_missing_locations(changed)


def is_noticed(name: str, tree: ast.Module, tests: Sequence[str]) -> bool:
    """Whether a test fails, in a process of its own."""
    if (child := os.fork()) == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path.insert(0, Source(name, tree))
        words = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=")
        code = pytest.main([*words, f"--timeout={TIMED_OUT_SECONDS}", *tests])
        os._exit(0 if code == 0 else NOTICED)
    _, status = os.waitpid(child, 0)
    return status != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--least", type=float, default=0.95)
    args = parser.parse_args()
    name = ".".join(args.module.with_suffix("").parts)
    tree = ast.parse(args.module.read_text())
    if is_noticed(name, tree, args.tests):
        print("the tests fail without a change")
        return 1
    found = noticed = 0
    for text, changed in mutants(tree):
        found += 1
        if is_noticed(name, changed, args.tests):
            noticed += 1
        else:
            print(f"not noticed: {text}", flush=True)
    print(f"{noticed} of {found} changes were noticed ({noticed / found:.1%})")
    return 0 if noticed >= args.least * found else 1


if __name__ == "__main__":
    sys.exit(main())
