"""What an access control list of Redis has denied: which command, on which key.

Redis names neither for a key. Of a script it gives the line, from which both can be read.
"""

import re
from collections.abc import Sequence
from typing import Final

from eventstore.redis_errors import NoPermissionError

_DENIED: Final = re.compile("ACL failure in script|user executing the script can't")
_LINE: Final = re.compile(r"@user_script:(\d+)")
_CALL: Final = re.compile(r"redis\.p?call\('(?P<command>\w+)',\s*(?P<key>[^,)]+)")
_PART: Final = re.compile(r"base \.\. '([^']*)'(?: \.\. .*)?")


def denied_command(command: Sequence[object]) -> str:
    """Of a command that was refused with NOPERM."""
    return _sentence(" ".join(_text(part) for part in command[:2]))


def denied_in_script(error: Exception, source: str, keys: Sequence[str]) -> str:
    """Of a script that was run with these keys, `meta` first; empty where it is another refusal."""
    if isinstance(error, NoPermissionError):
        return _sentence(f"EVALSHA and EVAL on {' and '.join(keys)}")
    if not _DENIED.search(str(error)):
        return ""
    found = _LINE.search(str(error))
    lines = source.splitlines()
    line = lines[int(found[1]) - 1] if found and 0 < int(found[1]) <= len(lines) else ""
    if (call := _CALL.search(line)) is None:
        return _sentence(f"a command of the script on a key next to {keys[0]}")
    return _sentence(f"{call['command']} on {_key(call['key'].strip(), keys)}")


def _key(expression: str, keys: Sequence[str]) -> str:
    """The name of a key, from its expression in the source of a script."""
    base = keys[0].removesuffix("meta")
    known = {"meta_key": keys[0], "events_key": keys[1], "commands_key": f"{base}commands"}
    if part := _PART.fullmatch(expression):
        return f"{base}{part[1]}"
    return known.get(expression, f"a key next to {keys[0]}")


def _text(part: object) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)


def _sentence(what: str) -> str:
    return f"the access control list of Redis does not let this login run {what}"
