"""Which addresses are of the internet, and that no socket is made for others."""

import socket

import pytest

from gateway.webhooks.destinations import _public_socket, is_private_literal, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "fec0::1",
    ],
)  # fmt: skip
def test_what_is_not_of_the_internet_gets_no_socket(address: str) -> None:
    assert not is_public(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(OSError, match="not public"):
        _public_socket((family, socket.SOCK_STREAM, 0, "", (address, 443)))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_what_is_of_the_internet_gets_one(address: str) -> None:
    assert is_public(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _public_socket((family, socket.SOCK_STREAM, 0, "", (address, 443))).close()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://127.0.0.1/x", True),
        ("https://[::1]:8443/", True),
        ("https://user:word@10.0.0.1/", True),
        ("https://1.1.1.1/", False),
        ("https://example.com/", False),
    ],
)
def test_a_private_address_is_known_by_its_number(url: str, found: bool) -> None:
    assert is_private_literal(url) == found
