"""Who may import whom; exits 1 and names every import that goes the wrong way.

The rule keeps the language and its log free of everything built on them, lets each process load
only what it needs, and the judge of histories share nothing with what it judges. Only what stands
in the source counts, imports in functions included.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ALLOWED = {
    "eventstore": (),
    "workers": ("eventstore",),
    "projector": ("eventstore",),
    "gateway": ("eventstore", "projector.queries"),
    "muster": ("eventstore", "workers", "projector", "gateway"),
    "tests.chaos.judging": (),
    "tests.chaos.judge": ("tests.chaos.judging",),
}
"""For each package, the modules (with all below them) that it may import besides its own."""

OURS = frozenset(package.partition(".")[0] for package in ALLOWED)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and full name of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_allowed(package: str, name: str) -> bool:
    """Whether a module of `package` may import `name`."""
    if name.split(".", maxsplit=1)[0] not in OURS:
        return True
    return any(f"{name}.".startswith(f"{part}.") for part in (package, *ALLOWED[package]))


def files(root: Path, package: str) -> list[Path]:
    """The source of a package, or of a module that is none."""
    place = root.joinpath(*package.split("."))
    module = place.with_suffix(".py")
    return [module] if module.exists() else sorted(place.rglob("*.py"))


def violations(root: Path) -> list[str]:
    """Every import under `root` that goes the wrong way, as `file:line: what`."""
    found = []
    for package in ALLOWED:
        for file in files(root, package):
            for line, name in imported(ast.parse(file.read_text(), str(file))):
                if not is_allowed(package, name):
                    where = f"{file.relative_to(root)}:{line}"
                    found.append(f"{where}: {package} must not import {name}")
    return found


def main() -> int:
    """Print what was found."""
    found = violations(Path(__file__).resolve().parents[1])
    print("\n".join(found) or "imports: all in the right direction")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
