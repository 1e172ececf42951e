"""What a webhook is declared with: an address, and secrets as Standard Webhooks says. Pure.

A secret is `whsec_` and 24 to 64 bytes in Base64. Several, with spaces or lines between them, sign
each message: that is how a receiver changes from one to another. No error shows any of them.
"""

import base64
import binascii
from typing import Final
from urllib.parse import urlsplit

SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)
SEVERITIES: Final = ("warning", "critical")


def decode_secrets(text: str) -> tuple[bytes, ...]:
    """The secrets in a text. Raises `ValueError`, without showing any of it."""
    found = tuple(_decode_secret(word) for word in text.split())
    if not found:
        raise ValueError("it has no secret; `openssl rand -base64 32`, after whsec_, makes one")
    return found


def encode_secret(secret: bytes) -> str:
    """The inverse of `decode_secrets`, of one."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def _decode_secret(word: str) -> bytes:
    if not word.startswith(SECRET_PREFIX):
        raise ValueError(f"a secret begins with {SECRET_PREFIX}")
    try:
        secret = base64.b64decode(word.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a secret is Base64 after {SECRET_PREFIX}") from None
    if len(secret) not in SECRET_BYTES:
        least, most = SECRET_BYTES[0], SECRET_BYTES[-1]
        raise ValueError(f"a secret has {least} to {most} bytes, this one has {len(secret)}")
    return secret


def is_address(url: str) -> bool:
    """Whether messages can be sent there by HTTP or HTTPS."""
    try:
        parts = urlsplit(url)
        return bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        return False
