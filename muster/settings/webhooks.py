"""The tables `[webhooks.NAME]` of the file: where alerts are sent, and what signs them."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from eventstore.errors import ConfigurationError
from eventstore.language.webhook_secrets import SEVERITIES, decode_secrets, is_address
from eventstore.names import suggestion
from muster.settings.settings import WebhookDeclaration, abbreviate

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
    if not isinstance(url, str) or not is_address(url):
        raise ConfigurationError(
            f"{place} url: expected an address such as https://example.com/alerts"
        )
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
