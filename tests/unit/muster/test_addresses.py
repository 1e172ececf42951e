"""An address is shown to people without what lets one in, wherever its writer has put that."""

import argparse
import re
from pathlib import Path

import pytest
from redis.asyncio.connection import SSLConnection, parse_url

from eventstore.connection.address import Address
from eventstore.errors import ConfigurationError, MusterError
from muster.cli.arguments.targets import database_url, redis_url
from muster.cli.doctor.database_checks import check_postgres
from muster.fallback.directory import serving
from muster.settings.addresses import redacted, redis_address, sqlite_address
from muster.settings.settings import Settings
from projector.store.engines import address


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
def test_credentials_are_not_shown(url: str, shown: str) -> None:
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
def test_everything_else_is_shown(url: str) -> None:
    assert redacted(url) == url


@pytest.mark.parametrize("name", ["what?", "100%41", "it's #1", "mün chen"])
def test_an_sqlite_file_stays_in_its_folder_whatever_its_name(name: str) -> None:
    """The views would be written elsewhere, outside of the locked folder."""
    path = Path("/tmp") / name / "views.db"
    assert address(sqlite_address(path)).database == str(path)
    assert serving(path).views_url == sqlite_address(path / "fallback" / "views.db")
    assert Settings(data_dir=path.parent).views_url == sqlite_address(path)


def test_a_database_of_another_kind_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        address("mysql://me:secret@h/d?password=secret")
    assert "secret" not in str(refused.value)
    assert "mysql" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret#x@h",
        "redis://[secret",
        "redis://me:12?secret@h",
        "redis://me:12?secret&x=1@h",
        "redis://h/secret",
        "redis://h/0?db=secret",
        "secret://h",
    ],
)
def test_an_invalid_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(MusterError) as refused:
        redis_url(argparse.Namespace(redis_url=url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql://h:secret/d", "postgresql://me:secret@[::1/d"])
def test_an_invalid_database_address_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="--database-url: this is not an address") as one:
        database_url(argparse.Namespace(database_url=url))
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match="DATABASE_URL: this is not an address") as other:
        database_url(argparse.Namespace(database_url=None, data_dir=None))
    assert "secret" not in f"{one.value}{other.value}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", "redis://h"),
        ("redis://h/", "redis://h/"),
        ("valkey://me:x@h:1/2?client_name=me@x", "redis://me:x@h:1/2?client_name=me@x"),
        ("valkeys://h/0?ssl_ca_certs=/c", "rediss://h/0?ssl_ca_certs=/c"),
        ("unix://me:x@/s?db=2", "unix://me:x@/s?db=2"),
        ("redis://h?socket_keepalive=yes", "redis://h?socket_keepalive=yes"),
        ("redis://a%40b:c%2Fd@[::1]:2/3", "redis://a%40b:c%2Fd@[::1]:2/3"),
        (
            "unix:///a%20b/s?username=me&password=x%26y",
            "unix:///a%20b/s?username=me&password=x%26y",
        ),
    ],
)
def test_a_redis_address_has_the_forms_of_redis_py(url: str, expected: str) -> None:
    assert redis_address(url, "here") == expected
    found, theirs = Address(expected), dict(parse_url(expected))
    assert (found.host, found.port) == (theirs.get("host", "localhost"), theirs.get("port", 6379))
    assert (found.path, found.database) == (theirs.get("path", ""), theirs.get("db", 0))
    assert found.by_tls == (theirs.get("connection_class") is SSLConnection)
    assert found.keeps_alive == theirs.get("socket_keepalive", False)
    for name in ("username", "password", "client_name", "ssl_ca_certs"):
        assert found.options.get(name) == theirs.get(name)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h/0?retry_on_timeout=1", "retry_on_timeout cannot be set"),
        ("redis://h/0?decode_responses=1", "these can: db, username, password, client_name"),
        ("redis://h/0?ssl_ca_certs=/c", "ssl_ca_certs cannot be set in the query of a redis://"),
        ("unix:///s?socket_keepalive=1", "socket_keepalive cannot be set"),
        ("redis://h/x", "the number of a database"),
        ("redis://h/0/1", "the number of a database"),
        ("redis://h?db=-1", "db is to be a number"),
        ("redis://h?db=", "db is to be a number"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs is to be none, optional or required"),
        ("unix://?db=1", "unix:///path/to/it"),
        ("http://h", "expected redis://"),
    ],
)
def test_options_that_redis_py_rejects_or_ignores_are_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^here: .*{re.escape(why)}"):
        redis_address(url, "here")


def test_an_error_of_the_driver_does_not_show_the_address() -> None:
    [found] = check_postgres("postgresql://me:50%secret@127.0.0.1:1/d")
    assert "secret" not in found.found
