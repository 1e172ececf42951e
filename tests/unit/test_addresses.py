"""An address is shown to people without what lets one in, wherever its writer has put that."""

import argparse

import pytest

from eventstore.errors import ConfigurationError, MusterError
from muster.addresses import redacted
from muster.commands.connecting import redis_url
from muster.commands.database_checks import check_postgres
from projector.database import address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@h:1/0", "redis://me:***@h:1/0"),
        ("redis://:secret@h", "redis://:***@h"),
        ("redis://h/0?password=secret", "redis://h/0?password=***"),
        ("redis://h/0?db=2&password=secret&x=1", "redis://h/0?db=2&password=***&x=1"),
        ("rediss://h/0?ssl_password=secret", "rediss://h/0?ssl_password=***"),
        ("redis://h/0?pass%77ord=secret", "redis://h/0?pass%77ord=***"),
        ("unix:///s?password=secret&password=secret", "unix:///s?password=***&password=***"),
        ("unix://me:secret@/s", "unix://me:***@/s"),
        ("postgresql:///d?PASSWORD=secret", "postgresql:///d?PASSWORD=***"),
        ("postgresql:///d?sslpassword=secret", "postgresql:///d?sslpassword=***"),
        ("postgresql://h/d?oauth_client_secret=secret", "postgresql://h/d?oauth_client_secret=***"),
        ("postgresql://h/d?scram_client_key=secret", "postgresql://h/d?scram_client_key=***"),
        ("postgresql://me:12#secret@h/d", "postgresql://me:***@h/d"),
        ("postgresql://me:12/secret@h/d", "postgresql://me:***@h/d"),
        ("postgresql://me:12?secret@h/d?x=1", "postgresql://me:***@h/d?x=1"),
        ("postgresql://me:se@cret@h/d", "postgresql://me:***@h/d"),
        ("redis://me:secret@h/0?client_name=me@x", "redis://me:***@h/0?client_name=me@x"),
        ("redis://[::1?password=secret", "redis://[::1?password=***"),
    ],
)
def test_what_lets_one_in_is_not_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "unix:///a/b",
        "redis://h:1/0?db=2&client_name=me@host",
        "postgresql://me@h:1/d?passfile=/etc/pgpass&sslkey=/k&options=-c%20x",
        "sqlite:////a/b.db",
        "",
    ],
)
def test_all_else_is(url: str) -> None:
    assert redacted(url) == url


def test_a_database_of_another_kind_is_refused_without_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        address("mysql://me:secret@h/d?password=secret")
    assert "secret" not in str(refused.value)
    assert "mysql" in str(refused.value)


@pytest.mark.parametrize("url", ["redis://me:secret#x@h", "redis://[secret"])
def test_an_address_that_is_none_is_refused_without_it(url: str) -> None:
    with pytest.raises(MusterError) as refused:
        redis_url(argparse.Namespace(redis_url=url))
    assert "secret" not in str(refused.value)


def test_the_driver_that_cannot_read_an_address_does_not_show_it_either() -> None:
    [found] = check_postgres("postgresql://me:50%secret@127.0.0.1:1/d")
    assert "secret" not in found.found
