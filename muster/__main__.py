"""The command `muster`. Imported first, and all else within reach of a Ctrl-C."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        from muster.cli import (
            main as command_line,
        )  # takes long enough for a person to think better of it

        return command_line.run(argv)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
