"""The certificate of a gateway that speaks TLS itself, read again when its files change.

New connections get the new one; those that are open go on. Files that cannot be used, because only
one of them is written yet, say, are tried again at each look at them: until then the certificate
that is in use stays in use.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from eventstore.errors import ConfigurationError
from eventstore.ticks import tick

log = structlog.get_logger("muster.gateway")

CHECK_SECONDS: Final = 5.0
"""How often the files are checked for a change."""
_Stamp = Sequence[tuple[int, int, int]]


class Certificate:
    """Raises `ConfigurationError` if the files cannot be used; empty `key`: it is with the other.

    `context` is for a server. It stays the same, and lets each connection use the latest files.
    """

    def __init__(self, cert: str, key: str = "") -> None:
        self._cert, self._key = cert, key
        self._stamp = self._stamps()
        self._latest = self.context = _load(cert, key)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """For every connection, whether or not it names a server."""
        connection.context = self._latest

    async def watch(self) -> None:
        """Read the files again whenever they have changed, until cancelled."""
        while True:
            await tick(CHECK_SECONDS)
            self.reload()

    def reload(self) -> None:
        """Read the files again if they have changed."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        try:
            self._latest = _load(self._cert, self._key)
        except ConfigurationError as error:
            log.error("gateway.certificate_unusable", reason=str(error))
        else:
            log.info("gateway.certificate_loaded", path=self._cert)
        self._stamp = stamp

    def _stamps(self) -> _Stamp:
        """Of both files, also where a link leads to another file now."""
        found = []
        for name in filter(None, (self._cert, self._key)):
            try:
                status = Path(name).stat()
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
            except OSError:
                found.append((0, 0, 0))
        return found


def _load(cert: str, key: str) -> ssl.SSLContext:
    """Raises `ConfigurationError`, which says which file is wrong and how."""
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            if path:
                Path(path).open("rb").close()
        except OSError as error:
            raise ConfigurationError(f"{name}: {path} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key or None, password=_no_password)
    except (ssl.SSLError, OSError, _Encrypted) as error:
        raise ConfigurationError(_reason(cert, key, error)) from None
    return context


class _Encrypted(Exception):
    """The key has a password."""


def _no_password() -> str:
    raise _Encrypted


def _reason(cert: str, key: str, error: Exception) -> str:
    if isinstance(error, _Encrypted):
        return f"tls_key: {key or cert} is encrypted with a password; store it without one"
    code = getattr(error, "reason", "") or ""
    if code == "KEY_VALUES_MISMATCH":
        return f"tls_key: {key or cert} is not the key of the certificate in {cert}"
    what = f"{key or cert} has no private key in PEM form, or {cert} no certificate"
    if not key:
        what = f"{cert} has not both a certificate and its key in PEM form (tls_key names the key)"
    return f"tls_cert, tls_key: {what}{f' ({code})' if code else ''}"
