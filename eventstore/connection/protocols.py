"""What speaks at an address that does not answer as expected: found out by asking.

A connection that is closed or times out does not say why. The likeliest mistakes are a port of
another program and TLS on one side only; each answers one of these questions in its own way, and
none of them does harm.
"""

import asyncio
import contextlib
import ssl
from typing import Final

ASK_SECONDS: Final = 1.0
"""How long each question may take."""
_SSL_REQUEST: Final = bytes((0, 0, 0, 8, 4, 210, 22, 47))
"""PostgreSQL's: one byte is its answer."""
_GET: Final = b"GET / HTTP/1.0\r\n\r\n"
HTTP, REDIS, TLS, POSTGRESQL = "HTTP", "Redis", "TLS", "PostgreSQL"
MUTUAL_TLS: Final = "TLS with a certificate of the client"
_TO_GET: Final = {(b"HTTP/",): HTTP, (b"-", b"+"): REDIS}


async def spoken(host: str, port: int) -> str:
    """One of the protocols above, found within a second; empty where none is recognized."""
    to_get, to_ssl_request, tls = await asyncio.gather(
        _reply(host, port, _GET), _reply(host, port, _SSL_REQUEST), _tls(host, port)
    )
    for beginnings, name in _TO_GET.items():
        if to_get.startswith(beginnings):
            return name
    return POSTGRESQL if to_ssl_request in (b"S", b"N") else tls


async def _reply(host: str, port: int, question: bytes) -> bytes:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(question)
                return await reader.read(16)
            finally:
                writer.close()
    return b""


async def _tls(host: str, port: int) -> str:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    found = ""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            found = TLS
            try:
                await reader.read(1)  # the server's alert comes after our side of the handshake
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        if "CERTIFICATE_REQUIRED" in str(error):
            return MUTUAL_TLS
        if "ALERT" in str(error):
            return TLS
    return found
