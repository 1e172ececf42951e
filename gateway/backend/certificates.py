"""Until when the certificates of this gateway are valid: its own, and those of its connections."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs, urlsplit

from eventstore.connection.certificates import expiry_ms
from gateway.alerts.facts import CertificateFacts
from gateway.options import GatewayOptions

CHECK_SECONDS: Final = 60.0


class Certificates:
    """Those that the options name. Their files are read again once a minute."""

    def __init__(self, options: GatewayOptions) -> None:
        self._files = tuple(_files(options))
        self._found: tuple[float, Sequence[CertificateFacts]] | None = None

    def facts(self) -> Sequence[CertificateFacts]:
        """Those that can be read; of the others, the user of them says why not."""
        now = time.monotonic()
        if self._found is None or now - self._found[0] >= CHECK_SECONDS:
            self._found = now, tuple(self._read())
        return self._found[1]

    def _read(self) -> Iterator[CertificateFacts]:
        for use, path in self._files:
            with suppress(OSError, ValueError):
                yield CertificateFacts(use=use, path=path, expires_ms=expiry_ms(path))


def _files(options: GatewayOptions) -> Iterator[tuple[str, str]]:
    """What each is used for, and its path."""
    if options.tls_cert:
        yield "of this gateway", options.tls_cert
    for use, url, name in (
        ("with which gateways connect to Redis", options.redis_url, "ssl_certfile"),
        ("with which gateways connect to the database", options.database_url, "sslcert"),
    ):
        for path in parse_qs(urlsplit(url).query).get(name, ()):
            yield use, path
