"""What can be completed: every command with its options, and of what kind their values are.

Reading all this from the commands takes longer than a key press may, so it is stored.
"""

import json
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

PATH: Final = Path(__file__).with_name("commands.json")

Command: TypeAlias = dict[str, Any]
"""`options`: kind of value and help, by name; `words`: kinds of its positional arguments, the last
one also for all that follow if `more`; `actions`: nested commands, by name; `help`."""

FLAG: Final = ""
"""Instead of a kind: an option without a value."""
TEXT: Final = "text"
"""A value that cannot be completed."""


def stored_table() -> dict[str, Command]:
    """The table, by command."""
    return cast("dict[str, Command]", json.loads(PATH.read_text(encoding="utf-8")))
