"""Why the database cannot be used, in words; and whether waiting may cure it.

libpq and SQLite say it in the first line of their message, which says nothing of our statements.
libpq gives no code for a connection that failed, so its text has to do; of a text that is not
recognized, such as a translated one, it is assumed that waiting may help.
"""

import re
import sqlite3
from enum import Enum
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from eventstore.errors import MusterError


class Kind(Enum):
    TRANSIENT = "transient"
    """The server or its name is not there, starts, or is full: that may be over soon."""
    REFUSED = "refused"
    """Login, certificate, database, permission, setting: only other settings or grants cure it."""
    DAMAGED = "damaged"
    """The SQLite file is none, or its content is broken."""


_LIBPQ: Final = re.compile(r"^(connection (failed|is bad): )?(connection to server .*? failed: )?")
_TRANSIENT_REFUSALS: Final = re.compile(
    "starting up|shutting down|recovery mode|not yet accepting|too many|connection slots"
    "|terminating connection|the database system is|try again|timeout|out of memory|could not"
    "|cannot connect|server_login_retry|pgbouncer is"
)
_REFUSALS: Final = re.compile(
    r"^(invalid |server does not support |server certificate|certificate |channel binding "
    r"|root certificate |could not (read|load|open) (root |private |certificate)"
    r"|private key |fe_sendauth: |received invalid response|expected authentication request"
    r"|authentication method|SSL error: (certificate|sslv3|tlsv1)|weak sslmode |GSSAPI )"
)
_REFUSED_STATES: Final = ("28", "3D", "42", "0A")
"""SQLSTATE classes: login, catalogue, permission or undefined, not supported."""
_DAMAGED_CODES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_UNUSABLE_CODES: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY)


def reason(error: BaseException) -> str:
    """The first useful line of what went wrong, without statements and addresses."""
    cause = _cause(error)
    if isinstance(cause, TimeoutError) and not str(cause):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        where = f"{cause.filename}: " if cause.filename else ""
        return f"{where}{cause.strerror}"
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    text = re.sub(r"^FATAL:\s+", "", _LIBPQ.sub("", text))
    return text.rstrip(".") or type(cause).__name__


def kind(error: BaseException) -> Kind:
    """What can be done about it."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        return _sqlite_kind(cause)
    if state := getattr(cause, "sqlstate", None):
        return Kind.REFUSED if state.startswith(_REFUSED_STATES) else Kind.TRANSIENT
    if isinstance(cause, IsADirectoryError | NotADirectoryError | PermissionError):
        return Kind.REFUSED
    if isinstance(cause, OSError | MusterError):
        return Kind.TRANSIENT
    return _libpq_kind(str(cause))


def _libpq_kind(text: str) -> Kind:
    message = _LIBPQ.sub("", text)
    if message.startswith("FATAL:"):
        return Kind.TRANSIENT if _TRANSIENT_REFUSALS.search(message) else Kind.REFUSED
    if "Permission denied" in message and "socket" in text:
        return Kind.REFUSED
    return Kind.REFUSED if _REFUSALS.match(message) else Kind.TRANSIENT


def _sqlite_kind(error: sqlite3.Error) -> Kind:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED_CODES:
        return Kind.DAMAGED
    return Kind.REFUSED if code in _UNUSABLE_CODES else Kind.TRANSIENT


def _cause(error: BaseException) -> BaseException:
    """The driver's error below SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    if isinstance(error, SQLAlchemyError) and error.__cause__ is not None:
        return error.__cause__
    return error
