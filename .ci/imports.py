"""Who may import whom; exits 1 and names every import that goes the wrong way.

Rooms import each other in one direction, and so do the packages inside a room: the graph of
packages has no circle, nor has the graph of files. That keeps the language and its log free of
everything built on them, lets each process load only what it needs, and the judge of histories
share nothing with what it judges. Only what is in the source counts, imports in functions included.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

LOG = "eventstore.log"
CALLS = "eventstore.connection"
STEPS = "eventstore.steps"
QUERIES = "projector.queries"

OPEN = {
    "": ("eventstore.errors", "eventstore.atomic_file", "eventstore.plain_logging",
         "eventstore.redis_errors", "eventstore.metrics", "eventstore.version",
         "eventstore.keys", "eventstore.ids", "eventstore.names",
         "eventstore.retention", "eventstore.ticks", "eventstore.language",
         "eventstore.telemetry"),
    "projector": ("projector.store",),
    "gateway": (QUERIES,),
}  # fmt: skip
"""What all may import; what all of one room may import."""

ALLOWED: Mapping[str, tuple[str, ...]] = {
    # the log
    "eventstore.errors": (),
    "eventstore.atomic_file": (),
    "eventstore.plain_logging": (),
    "eventstore.redis_errors": (),
    "eventstore.version": (),
    "eventstore.keys": (),
    "eventstore.ids": (),
    "eventstore.names": (),
    "eventstore.retention": (),
    "eventstore.ticks": (),
    "eventstore.metrics": (),
    "eventstore.language": (),
    "eventstore.telemetry": (),
    "eventstore.connection": (),
    "eventstore.embedded": (),
    "eventstore.steps": (),
    "eventstore.log": (STEPS, CALLS),
    "eventstore.durability": (CALLS, LOG),
    "eventstore.recovery": (STEPS, CALLS, LOG),
    # where agents run
    "workers.api": (),
    "workers.builtin": ("workers.api",),
    "workers.host": (),
    "workers.output": ("workers.host",),
    "workers.runtime": ("workers.api", "workers.host", "workers.output", STEPS, CALLS, LOG),
    "workers.process": ("workers.api", "workers.host", "workers.output", "workers.runtime",
                        STEPS, CALLS, LOG, "eventstore.recovery", "eventstore.durability"),
    "workers.standalone": ("workers.api", "workers.process", "workers.runtime", STEPS, LOG),
    "workers.launch": ("workers.api", "workers.host", "workers.output", "workers.process",
                       "workers.runtime", CALLS, LOG),
    "workers.supervisor": ("workers.host", "workers.launch", "workers.output", "workers.process",
                           STEPS, CALLS, LOG),
    # views
    "projector.store": (),
    "projector.intake": (CALLS, LOG),
    "projector.usage": (),
    "projector.fold": ("projector.intake", "projector.usage", STEPS, LOG),
    "projector.history": ("projector.intake", "projector.fold"),
    "projector.explain": ("projector.intake", "projector.history"),
    "projector.queries": ("projector.explain", "projector.intake", "projector.fold",
                          "projector.history", "projector.usage"),
    "projector.verify": ("projector.intake", "projector.fold", "projector.usage", STEPS, CALLS),
    "projector.exports": ("projector.intake", LOG),
    "projector.rebuild": ("projector.intake", "projector.fold", "projector.verify", LOG),
    "projector.recovery": ("projector.intake", "projector.fold", "projector.rebuild",
                           LOG, "eventstore.recovery"),
    "projector.archive": ("projector.exports", "projector.intake", "projector.fold",
                          "projector.history", "projector.verify", "projector.rebuild",
                          "projector.recovery"),
    "projector.service": ("projector.archive", "projector.exports",
                          "projector.intake", "projector.fold", "projector.rebuild",
                          "projector.recovery", QUERIES, STEPS, CALLS, LOG,
                          "eventstore.recovery"),
    # HTTP
    "gateway.fallback": (),
    "gateway.options": ("gateway.fallback",),
    "gateway.access": (),
    "gateway.wire": ("gateway.options",),
    "gateway.following": ("gateway.wire", CALLS, LOG),
    "gateway.alerts": ("gateway.fallback", "gateway.following", LOG),
    "gateway.backend": ("gateway.access", "gateway.fallback", "gateway.options", "gateway.wire",
                        "gateway.following", "gateway.alerts",
                        STEPS, CALLS, LOG, "eventstore.durability", "eventstore.recovery"),
    "gateway.resources": ("gateway.access", "gateway.wire", "gateway.following",
                          "gateway.backend",
                          CALLS, LOG, "eventstore.recovery"),
    "gateway.webhooks": ("gateway.options", "gateway.wire", "gateway.backend", LOG),
    "gateway.health": ("gateway.access", "gateway.fallback", "gateway.wire", "gateway.following",
                       "gateway.alerts", "gateway.backend", "gateway.webhooks",
                       CALLS, LOG),
    "gateway.server": ("gateway.access", "gateway.options", "gateway.wire",
                       "gateway.following", "gateway.backend", "gateway.resources",
                       "gateway.health", "gateway.webhooks", STEPS, CALLS, LOG),
    # the public face, the processes, the command line
    "muster": ("workers.api",),
    "muster.__main__": ("muster.cli", "muster.cli.completion"),
    "muster.testing": ("workers.api", "workers.standalone"),
    "muster.settings": (),
    "muster.terminal": (),
    "muster.process": ("muster", "muster.settings", STEPS, CALLS, LOG, "eventstore.embedded",
                       "workers.host", "workers.output", "workers.supervisor", QUERIES,
                       "projector.store", "projector.recovery", "projector.service",
                       "gateway.fallback", "gateway.options", "gateway.server"),
    "muster.fallback": ("muster.settings", "muster.process", STEPS, CALLS, LOG,
                        "eventstore.embedded", "workers.host", QUERIES, "projector.recovery",
                        "projector.service", "gateway.fallback"),
    "muster.up": ("muster", "muster.settings", "muster.terminal", "muster.process",
                  "muster.fallback", CALLS, "eventstore.embedded", "workers.host"),
    "muster.simulation": (),
    "muster.cli.arguments": ("muster.settings", "muster.terminal", "muster.process",
                             "projector.store"),
    "muster.cli.foreground": ("muster.settings", "muster.cli.arguments",
                              "workers.api", "workers.standalone"),
    "muster.cli.client": ("muster.settings", "muster.terminal", "muster.cli.arguments",
                          "projector.store"),
    "muster.cli.events": ("muster.settings", "muster.terminal", "muster.cli.arguments",
                          "muster.cli.client", CALLS, LOG, "projector.intake", QUERIES),
    "muster.cli.resources": ("muster.settings", "muster.terminal", "muster.cli.arguments",
                             "muster.cli.client", "muster.cli.events", "projector.store"),
    "muster.cli.top": ("muster.settings", "muster.terminal", "muster.cli.arguments",
                       "muster.cli.client", "muster.cli.events", "muster.cli.resources"),
    "muster.cli.completion": ("muster.cli.arguments", "muster.cli.client"),
    "muster.cli.simulation": ("muster.settings", "muster.terminal", "muster.cli.arguments",
                              "muster.simulation", "projector.history", "projector.store"),
    "muster.cli.maintenance": ("muster.terminal", "muster.process", "muster.cli.arguments",
                               "muster.cli.events", "eventstore.recovery", "projector.archive",
                               "projector.exports", "projector.rebuild",
                               "projector.recovery", "projector.service", "projector.store",
                               "projector.verify"),
    "muster.cli.doctor": ("muster.settings", "muster.terminal",
                          "muster.cli.arguments", "muster.cli.events", CALLS,
                          "eventstore.durability", "eventstore.embedded", "workers.host",
                          "projector.store", "projector.intake", "projector.fold",
                          "projector.recovery"),
    # the commands it imports by name, each only when it is run
    "muster.cli": ("muster", "muster.settings", "muster.process", "muster.up",
                   "muster.cli.arguments"),
    # the judge
    "tests.chaos.judging": (),
    "tests.chaos.judge": ("tests.chaos.judging",),
}  # fmt: skip
"""For each unit (a package, or a module next to the packages) what it may import, OPEN apart."""

ROOMS = ("eventstore", "workers", "projector", "gateway", "muster")
OURS = frozenset((*ROOMS, "tests"))


def unit_of(name: str) -> str:
    """The unit that a module or a name in it belongs to: the longest that fits, else ""."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ALLOWED), "")


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module that has to keep to the rules."""
    judge = (path.replace(".", "/") for path in ALLOWED if path.startswith("tests"))
    for place in (*ROOMS, *judge):
        for file in ((root / place).with_suffix(".py"), *(root / place).rglob("*.py")):
            if file.exists():
                name = ".".join(file.relative_to(root).with_suffix("").parts)
                yield name.removesuffix(".__init__"), file


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and full name of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_allowed(unit: str, name: str) -> bool:
    """Whether a module of `unit` may import `name`."""
    if name.split(".", maxsplit=1)[0] not in OURS:
        return True
    room = unit.split(".", maxsplit=1)[0]
    shared = (*OPEN[""], *OPEN.get(room, ())) if room in ROOMS else ()
    return unit_of(name) in {unit, *ALLOWED.get(unit, ()), *shared}


@cache
def imports_of(file: Path) -> list[tuple[int, str]]:
    """What a file imports, with the lines."""
    return list(imported(ast.parse(file.read_text(), str(file))))


def violations(root: Path) -> list[str]:
    """Every import under `root` that goes the wrong way, as `file:line: what`."""
    found = []
    for module, file in sorted(modules(root)):
        unit, where = unit_of(module), file.relative_to(root)
        if unit in {"", "muster"} and module not in ROOMS:
            found.append(f"{where}:1: {module} is in no package of the table")
            continue
        for line, name in imports_of(file):
            if not is_allowed(unit or module, name):
                found.append(f"{where}:{line}: {unit} must not import {name}")
    return found


def circles(root: Path) -> list[str]:
    """A circle of units in the table, or of files in the source, if there is one."""
    files = dict(modules(root))
    uses: dict[str, set[str]] = {}
    for module, file in files.items():
        names = (name for _, name in imports_of(file))
        imports = (name if name in files else name.rpartition(".")[0] for name in names)
        uses[module] = {name for name in imports if name in files and name != module}
    return [found for graph in (ALLOWED, uses) if (found := _circle(graph))]


def _circle(graph: Mapping[str, object]) -> str:
    try:
        TopologicalSorter(graph).prepare()  # type: ignore[arg-type]
    except CycleError as error:
        return "a circle of imports: " + " -> ".join(error.args[1])
    return ""


def unused(root: Path) -> list[str]:
    """Rows and entries of the table that nothing in the source uses."""
    used: dict[str, set[str]] = {}
    for module, file in modules(root):
        names = (name for _, name in imports_of(file))
        used.setdefault(unit_of(module), set()).update(unit_of(name) for name in names)
    rows = [f"{unit}: there is no such package" for unit in ALLOWED if unit not in used]
    entries = ((unit, name) for unit, names in ALLOWED.items() for name in names)
    return rows + [
        f"{unit}: nothing imports {name}"
        for unit, name in entries
        if name not in used.get(unit, ())
    ]


def main() -> int:
    """Print what was found."""
    root = Path(__file__).resolve().parents[1]
    found = [*violations(root), *circles(root), *unused(root)]
    print("\n".join(found) or f"imports: {len(ALLOWED)} packages, all in the right direction")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
