"""Why Redis cannot be used, in words; and whether waiting may cure it.

What it may cure is `LogUnreachable`: a server that starts, loads, fails over, or whose network or
name is not there yet. What it cannot is `ServerUnsuitable`: a refused login, certificates that do
not fit, a file or socket that is none, another program at that port.
"""

import errno
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from eventstore import redis_errors
from eventstore.connection import protocols
from eventstore.connection.calls import UNREACHABLE, AsyncClient
from eventstore.connection.protocols import spoken
from eventstore.errors import LogUnreachable, MusterError, ServerUnsuitable

_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_CLOSED: Final = ("losed", "reset", "Broken pipe")
_CLIENT_CERTIFICATE: Final = (
    "the server wants a certificate of the client: ssl_certfile and ssl_keyfile name one"
)
_LOGIN: Final = (
    redis_errors.AuthenticationError,
    redis_errors.NoPermissionError,
)


async def explain(error: Exception, client: AsyncClient) -> MusterError:
    """The log's error for one that was raised on the first use of this client."""
    if isinstance(error, _LOGIN):
        return ServerUnsuitable(f"Redis refuses this login: {error}")
    if isinstance(error, redis_errors.InvalidResponse):
        return await _foreign(client) or ServerUnsuitable(f"the server is no Redis: {error}")
    if isinstance(error, UNREACHABLE):
        return await _unreachable(error, client)
    if isinstance(error, redis_errors.ResponseError):
        if isinstance(error, redis_errors.TransientError):
            return LogUnreachable(f"Redis is not ready: {error}")
        return ServerUnsuitable(f"Redis refuses: {error}")
    return ServerUnsuitable(f"the server is no Redis: {error}")


def answered(error: Exception) -> bool:
    """Whether a server sent this error, such as one that loads its data or has too many clients."""
    sent = isinstance(error, redis_errors.BusyLoadingError | redis_errors.ResponseError)
    return sent or "max number of clients" in str(error)


async def _unreachable(error: Exception, client: AsyncClient) -> MusterError:
    address, cause = client.address, error.__cause__ or error.__context__
    if address.path:
        return _socket_failure(error, cause, address.path)
    if unusable := _unusable_file(address.options):
        return ServerUnsuitable(unusable)
    if isinstance(cause, ssl.SSLError):
        return ServerUnsuitable(f"TLS with Redis fails: {_tls_failure(cause)}")
    if isinstance(cause, socket.gaierror):  # the network, or the server's container, may come
        return LogUnreachable(f"Redis' name {address.host!r} does not resolve: {cause.strerror}")
    # A server without TLS waits for more of the handshake; one with it closes what is none.
    undecided = address.by_tls and not isinstance(cause, ConnectionRefusedError)
    if undecided or any(sign in str(error) for sign in _CLOSED):
        return await _foreign(client) or LogUnreachable(_silence(error, cause))
    return LogUnreachable(_silence(error, cause))


async def _foreign(client: AsyncClient) -> MusterError | None:
    address, by_tls = client.address, client.address.by_tls
    match await spoken(address.host, address.port):
        case protocols.TLS | protocols.MUTUAL_TLS if not by_tls:
            return ServerUnsuitable("the server expects TLS: use rediss://")
        case protocols.MUTUAL_TLS:
            return ServerUnsuitable(f"TLS with Redis fails: {_CLIENT_CERTIFICATE}")
        case protocols.REDIS if by_tls:
            return ServerUnsuitable("the server speaks no TLS at this port: use redis://")
        case protocols.HTTP | protocols.POSTGRESQL as other:
            return ServerUnsuitable(f"the server is no Redis, it speaks {other}: correct the port")
        case _:
            return None


def _socket_failure(error: Exception, cause: BaseException | None, text: str) -> MusterError:
    path = Path(text)
    if isinstance(cause, PermissionError):
        return ServerUnsuitable(f"this user may not use the socket {path}: permission denied")
    try:
        if path.exists() and not path.is_socket():
            return ServerUnsuitable(f"{path} is no socket")
    except OSError as failure:
        return ServerUnsuitable(f"{path}: {failure.strerror}")
    return LogUnreachable(_silence(error, cause))


def _unusable_file(options: Mapping[str, str]) -> str:
    """The first of its TLS files that cannot be read, if there is one."""
    for name in _FILES:
        if not (text := options.get(name)):
            continue
        path = Path(text)
        if not path.exists():
            return f"{name}: {path} does not exist"
        if path.is_dir() is not (name == "ssl_ca_path"):
            return f"{name}: {path} is {'a folder' if path.is_dir() else 'no folder'}"
        if not os.access(path, os.R_OK):
            return f"{name}: {path} cannot be read by this user"
    return ""


def _tls_failure(cause: ssl.SSLError) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message
        name_differs = "mismatch" in why
        return f"its certificate is not accepted: {why}" + (
            "" if name_differs else "; ssl_ca_certs=FILE names the authority to trust"
        )
    text = str(cause.args[-1])
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
        return "the server speaks no TLS at this port (redis:// is without)"
    if "CERTIFICATE_REQUIRED" in text:
        return _CLIENT_CERTIFICATE
    if "NO_CERTIFICATE_OR_CRL" in text or "NO_START_LINE" in text:
        return f"{_plain(text)} in the file that ssl_ca_certs or ssl_certfile names"
    return _plain(text)


def _plain(text: str) -> str:
    """OpenSSL's words, without its names and line numbers."""
    return text.rpartition("] ")[2].partition(" (_ssl")[0].rstrip(".")


def _silence(error: Exception, cause: BaseException | None) -> str:
    if isinstance(cause, OSError) and cause.errno in errno.errorcode:
        why = os.strerror(cause.errno or 0).lower()
    else:
        why = str(error)
    return f"Redis does not answer: {why.rstrip('.')}"
