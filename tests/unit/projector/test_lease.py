"""What is written to the views is written under a lease."""

import ast
from pathlib import Path

import projector


def test_nothing_outside_the_store_writes_without_a_lease() -> None:
    """`Lease.write` proves the lease; `Database.write` does not."""
    root = Path(projector.__file__).parent
    unfenced = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        if path.parent.name != "store"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "write"
        and ast.unparse(node.value).endswith("database")
    ]
    assert unfenced == []
