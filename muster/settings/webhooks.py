"""The tables `[webhooks.NAME]` of the file: where alerts are sent, and the secrets that sign them.

A secret is `whsec_` and 24 to 64 bytes in Base64, as Standard Webhooks says. Several, with spaces
or lines between them, sign each message: that is how a receiver changes from one to another.
"""

import base64
import binascii
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from eventstore.errors import ConfigurationError
from eventstore.names import suggestion
from muster.settings.settings import WebhookDeclaration, abbreviate

SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)
SEVERITIES: Final = ("warning", "critical")
KEYS: Final = ("url", "secret", "secret_file", "severity", "pools")


def read_webhooks(
    tables: Iterable[tuple[str, Mapping[str, Any]]], path: Path
) -> dict[str, WebhookDeclaration]:
    """Raises `ConfigurationError`, which never shows a secret. `path`: of the file."""
    return {name: _webhook(body, f"{path}: [webhooks.{name}]", path) for name, body in tables}


def _webhook(body: Mapping[str, Any], place: str, path: Path) -> WebhookDeclaration:
    for key in body:
        if key not in KEYS:
            raise ConfigurationError(
                f"{place}: unknown key {abbreviate(key)}{suggestion(key, KEYS)}"
            )
    severity, pools = body.get("severity", "warning"), body.get("pools", [])
    if severity not in SEVERITIES:
        known = " or ".join(SEVERITIES)
        raise ConfigurationError(f"{place} severity: expected {known}, got {abbreviate(severity)}")
    if not isinstance(pools, list) or not all(isinstance(one, str) for one in pools):
        raise ConfigurationError(f"{place} pools: expected a list of names of pools")
    return WebhookDeclaration(
        url=_url(body.get("url"), place),
        secrets=_secrets(body, place, path.absolute().parent),
        severity=severity,
        pools=tuple(pools),
    )


def _url(url: object, place: str) -> str:
    wrong = f"{place} url: expected an address such as https://example.com/alerts"
    if not isinstance(url, str):
        raise ConfigurationError(wrong)
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ConfigurationError(wrong)
    return url


def _secrets(body: Mapping[str, Any], place: str, folder: Path) -> tuple[bytes, ...]:
    if ("secret" in body) == ("secret_file" in body):
        raise ConfigurationError(f"{place}: expected either secret or secret_file")
    key = "secret" if "secret" in body else "secret_file"
    text = body[key]
    if not isinstance(text, str):
        raise ConfigurationError(f"{place} {key}: expected text")
    if key == "secret_file":
        text = _read(folder / text, f"{place} {key}")
    try:
        return decode_secrets(text)
    except ValueError as error:
        raise ConfigurationError(f"{place} {key}: {error}") from None


def _read(file: Path, place: str) -> str:
    try:
        if file.stat().st_mode & stat.S_IROTH:
            raise ConfigurationError(f"{place}: {file} can be read by all users: chmod 600 {file}")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{place}: {file}: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"{place}: {file} is not UTF-8") from None


def decode_secrets(text: str) -> tuple[bytes, ...]:
    """The secrets in a text. Raises `ValueError`, without showing any of it."""
    found = tuple(_decode_secret(word) for word in text.split())
    if not found:
        raise ValueError("it has no secret; `openssl rand -base64 32`, after whsec_, makes one")
    return found


def _decode_secret(word: str) -> bytes:
    if not word.startswith(SECRET_PREFIX):
        raise ValueError(f"a secret begins with {SECRET_PREFIX}")
    try:
        secret = base64.b64decode(word.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"a secret is Base64 after {SECRET_PREFIX}") from None
    if len(secret) not in SECRET_BYTES:
        least, most = SECRET_BYTES[0], SECRET_BYTES[-1]
        raise ValueError(f"a secret has {least} to {most} bytes, this one has {len(secret)}")
    return secret
