"""What an access control list of Redis has denied: which command, on which key.

Redis names neither for a key. Of a command in a script both are in the error, since the scripts add
them (see `lua/prelude.lua`).
"""

import re
from collections.abc import Sequence
from typing import Final

from eventstore.redis_errors import NoPermissionError

_DENIED: Final = re.compile("ACL failure in script|user executing the script can't")
_COMMAND: Final = re.compile(r" \((\w+ on .*?)\)(?= script: |$)")


def denied_command(command: Sequence[object]) -> str:
    """Of a command that was refused with NOPERM."""
    return _sentence(" ".join(_text(part) for part in command[:2]))


def denied_in_script(error: Exception, keys: Sequence[str]) -> str:
    """Of a script that was run with these keys; empty where it is another refusal."""
    if isinstance(error, NoPermissionError):
        return _sentence(f"EVALSHA and EVAL on {' and '.join(keys)}")
    if not _DENIED.search(str(error)):
        return ""
    command = _COMMAND.search(str(error))
    return _sentence(command[1] if command else "a command of the script")


def _text(part: object) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)


def _sentence(what: str) -> str:
    return f"the access control list of Redis does not let this login run {what}"
