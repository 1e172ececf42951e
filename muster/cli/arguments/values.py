"""Parse and check values of the command line: ids, pairs, JSON, seconds. Raises `BadInput`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from muster.cli.arguments.command import BadInput
from muster.settings.values import abbreviate

_AGENT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def agent_id(text: str) -> str:
    """An agent's id, in lower case."""
    if not _AGENT_ID.fullmatch(text.lower()):
        raise BadInput(f"{abbreviate(text)} is not an agent's id (a UUID); `muster ps` lists them")
    return text.lower()


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Parse texts such as `k=v`."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadInput(f"{flag}: {abbreviate(text)} is not of the form name=value")
        if name in found:
            raise BadInput(f"{flag}: {abbreviate(name)} is given twice")
        found[name] = value
    return found


def json_object(text: str, flag: str) -> dict[str, object]:
    """A JSON object: given directly, from a file as `@file`, or from standard input as `@-`."""
    try:
        raw = _from_file(text[1:]) if text.startswith("@") else text.encode()
        return msgspec.json.decode(raw, type=dict[str, object])
    except UnicodeEncodeError as error:
        raise BadInput(f"{flag}: this is not UTF-8") from error
    except OSError as error:
        raise BadInput(f"{flag}: {abbreviate(text[1:])}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{flag}: expected a JSON object: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{flag}: this is not JSON: {error}") from error
    except ValueError as error:  # a path with U+0000
        raise BadInput(f"{flag}: {abbreviate(text[1:])} is not the name of a file") from error


def _from_file(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def seconds(text: str, flag: str) -> float:
    """A number of seconds that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 31_536_000:
        raise BadInput(f"{flag}: {abbreviate(text)} is not a number of seconds")
    return number


def setting(text: str) -> object:
    """A value of a pool's settings: a number where it is valid JSON, else text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text
