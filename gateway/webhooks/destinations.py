"""To which addresses messages are sent: those of webhooks made over HTTP to public ones only.

Else a token that may make webhooks could have a gateway send requests into the network that it is
in, and to the machine that it runs on. What counts is the address that a connection is made to, of
whatever name: it is checked as the connection's socket is made, so a name that resolves to another
address the next time gains nothing.
"""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

import aiohttp

ANSWER_SECONDS: Final = 15.0
REFUSAL: Final = (
    "its address is not public; webhook_private_addresses, or the configuration file, allows that"
)
NAT64: Final = IPv6Network("64:ff9b::/96")
"""Addresses of IPv4 for those who have IPv6 only."""


def session(*, trusted: bool) -> aiohttp.ClientSession:
    """For some attempts. Cookies of receivers are not stored, and no proxy is used.

    `trusted`: to any address. Else the error of an attempt is `REFUSAL`.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=None if trusted else _public_socket),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _public_socket(found: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for a connection to this address. Raises `OSError` if it is not public."""
    family, kind, protocol, _, address = found
    if not is_public(str(address[0])):
        raise OSError(errno.EACCES, REFUSAL)
    return socket.socket(family, kind, protocol)


def is_public(text: str) -> bool:
    """Whether an address is of the internet: none of this machine, its network, or a group."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.is_site_local:
            return False
        address = _inner(address) or address
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The address of IPv4 to which what is sent to this one comes, if any."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo and teredo[1])


def is_private_literal(url: str) -> bool:
    """Whether an address of the web names one that is not public by its number."""
    try:
        return not is_public(urlsplit(url).hostname or "")
    except ValueError:  # it is a name
        return False
