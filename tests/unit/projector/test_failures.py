"""Which failures of a database waiting may cure, and their first useful line."""

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from projector.store.failures import Kind, kind, reason

AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


def wrapped(message: str, error: type[psycopg.Error] = psycopg.OperationalError) -> DBAPIError:
    return DBAPIError("SELECT secret", None, error(message))


@pytest.mark.parametrize(
    "message",
    [
        'FATAL:  password authentication failed for user "u"',
        'FATAL:  database "none" does not exist',
        'FATAL:  role "none" does not exist',
        'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "u", database "d"',
        'FATAL:  permission denied for database "d"\nDETAIL:  User does not have CONNECT.',
        "server does not support SSL, but SSL was required",
        'server certificate for "db" does not match host name "127.0.0.1"',
        "SSL error: certificate verify failed",
        'root certificate file "/none" does not exist',
        "fe_sendauth: no password supplied",
        "received invalid response to SSL negotiation: H",
        'invalid sslmode value: "bogus"',
    ],
)
def test_what_only_other_settings_cure_is_refused(message: str) -> None:
    error = wrapped(AT + message)
    assert kind(error) is Kind.REFUSED
    assert reason(error) == message.removeprefix("FATAL:  ").splitlines()[0]


@pytest.mark.parametrize(
    "message",
    [
        "FATAL:  the database system is starting up",
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved",
        "Connection refused\n\tIs the server running on that host?",
        "FATAL:  pgbouncer cannot connect to server",
        "server closed the connection unexpectedly",
        "Anmeldung ging nicht",
    ],
)
def test_what_may_pass_is_waited_for(message: str) -> None:
    assert kind(wrapped(AT + message)) is Kind.TRANSIENT


def test_a_grant_that_is_missing_is_refused() -> None:
    error = wrapped(
        "permission denied for schema muster\nLINE 1: …", psycopg.errors.lookup("42501")
    )
    assert (kind(error), reason(error)) == (Kind.REFUSED, "permission denied for schema muster")
    full = wrapped("could not extend file", psycopg.errors.lookup("53100"))
    assert kind(full) is Kind.TRANSIENT


@pytest.mark.parametrize(
    ("content", "expected", "why"),
    [
        (b"garbage" * 1000, Kind.DAMAGED, "file is not a database"),
        (None, Kind.REFUSED, "unable to"),
    ],
)
def test_a_file_of_another_kind_is_known(
    tmp_path: Path, content: bytes | None, expected: Kind, why: str
) -> None:
    path = tmp_path / "views.db"
    path.mkdir() if content is None else path.write_bytes(content)
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(SQLAlchemyError) as raised, engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM sqlite_master")
    engine.dispose()
    assert kind(raised.value) is expected
    assert reason(raised.value).startswith(why)


def test_an_error_without_words_has_at_least_its_name() -> None:
    assert reason(sqlite3.OperationalError("")) == "OperationalError"
    assert reason(TimeoutError()) == "no answer in time"
    assert reason(PermissionError(13, "Permission denied", "/d")) == "/d: Permission denied"
