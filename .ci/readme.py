"""Print the README's command number N, word for word, so that CI runs what people type.

Commands are the lines of its `sh`, `bash` and `console` blocks, counted from 1: comments and, in
`console` blocks, output left out; a line that ends in a backslash goes on in the next.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```(sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[str]:
    """Every command of a Markdown text, in order."""
    for language, body in BLOCK.findall(text):
        for line in body.replace("\\\n", " ").splitlines():
            if language == "console" and not line.startswith("$ "):
                continue
            command = line.removeprefix("$ ").strip()
            if command and not command.startswith("#"):
                yield command


def main() -> int:
    """Print one command, or say that there is none."""
    readme, number = Path(__file__).resolve().parents[1] / "README.md", int(sys.argv[1])
    found = list(commands(readme.read_text())) if readme.exists() else []
    if len(found) < number:
        print(f"README.md has no command number {number}", file=sys.stderr)
        return 1
    print(found[number - 1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
