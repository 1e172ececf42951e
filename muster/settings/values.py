"""The text of one setting, read as what it is to be, and shown where it is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from eventstore.errors import ConfigurationError
from eventstore.language.durability import Level
from muster.settings.settings import Settings

SHOWN_MAX: Final = 100
_TYPES: Final[dict[str, Any]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings)
}
_CHOICES: Final = {
    "appendfsync": ("everysec", "always"),
    "fallback": ("none", "single-process"),
    "durability": tuple(level.value for level in Level),
    "log_level": ("debug", "info", "warning", "error"),
}


def parse(name: str, value: object, source: str) -> Any:
    """The value of a setting. Raises `ConfigurationError`; `source` is where it was named."""
    kind = _TYPES[name]
    if kind is bool:
        return _switch(value, source)
    if hasattr(kind, "__metadata__"):
        return _number(kind.__origin__, kind.__metadata__[0], value, source)
    if not isinstance(value, str | Path):
        raise ConfigurationError(f"{source}: expected text, got {abbreviate(value)}")
    if "\0" in str(value) or not _encodable(str(value)):
        raise ConfigurationError(
            f"{source}: expected UTF-8 without U+0000, got {abbreviate(value)}"
        )
    if Path in (kind, *get_args(kind)):
        return Path(value)
    if name == "fallback" and value == "":
        return "none"
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ConfigurationError(
            f"{source}: expected one of {', '.join(_CHOICES[name])}, got {abbreviate(value)}"
        )
    return str(value)


def _switch(value: object, source: str) -> bool:
    if isinstance(value, bool):
        return value
    text = abbreviate(value, str).lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off", ""}:
        return False
    raise ConfigurationError(f"{source}: expected true or false, got {abbreviate(value)}")


def _number(
    kind: Callable[[str], float], bounds: msgspec.Meta, value: object, source: str
) -> float:
    try:
        number = kind(str(value))
    except ValueError:
        raise ConfigurationError(f"{source}: expected a number, got {abbreviate(value)}") from None
    assert bounds.ge is not None
    assert bounds.le is not None
    if not bounds.ge <= number <= bounds.le:
        raise ConfigurationError(
            f"{source}: expected {bounds.ge} to {bounds.le}, got {abbreviate(value, str)}"
        )
    return number


def abbreviate(value: object, form: Callable[[object], str] = repr) -> str:
    """A value in a message: short, whatever it is."""
    try:
        text = form(value)
    except ValueError:  # an integer of too many digits
        return "a number past all bounds"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
