"""Lines as JSON, whatever agents put into them."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

LOGGED_MAX: Final = 262_144
"""Bytes of a logged line; above that its long values are cut."""
VALUE_MAX: Final = 8_192
"""Characters of a value in such a line."""
FIELDS_MAX: Final = 64
"""Fields of such a line."""

_ENCODER: Final = msgspec.json.Encoder(enc_hook=repr)


def encode(line: Mapping[str, Any]) -> bytes:
    """JSON of whatever an agent gave: what has no JSON form is written as its `repr`."""
    try:
        return _ENCODER.encode(line)
    except Exception:  # noqa: BLE001  a user's object may fail in any way
        return _ENCODER.encode({_plain(key): _plain(value) for key, value in line.items()})


def shortened(fields: Mapping[str, Any]) -> dict[str, object]:
    """A line that is too long, with the beginnings of its values."""
    short: dict[str, object] = {}
    for key, value in [*tuple(fields.items())[:FIELDS_MAX], ("stream", fields["stream"])]:
        text = value if isinstance(value, str) else _ENCODER.encode(_plain(value)).decode()
        cut = f"{text[:VALUE_MAX]}… ({len(text) - VALUE_MAX:,} more characters)"
        short[key[:VALUE_MAX]] = value if len(text) <= VALUE_MAX else cut
    return short


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value if not isinstance(value, int) or value.bit_length() < 64 else str(value)
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001  as above
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()
