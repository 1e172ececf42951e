"""The command `muster`. Everything else is imported inside `main`, so that Ctrl-C is handled."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        words = sys.argv[1:] if argv is None else argv
        if words and words[0] == "__complete":  # by the script of `muster completion`
            from muster.cli.completion import candidates

            return candidates.run(words[1:])
        from muster.cli import main as command_line  # slow: Ctrl-C may come meanwhile

        return command_line.run(argv)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
