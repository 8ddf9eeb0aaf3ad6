"""The rows' server looked at from outside: what it is, and what its refusals mean.

The row that is written to see whether rows can be written is a failed try of nobody.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from mailtape.domain.diagnosis import causes
from mailtape.rows.failures import Failure
from mailtape.rows.mysql_database import number_of

_COUNTS = timedelta(seconds=60)

_SERVER = text(
    "SELECT @@version, @@global.innodb_flush_log_at_trx_commit, @@session.sql_mode,"
    " @@global.max_connections, UTC_TIMESTAMP(6)"
)

_NO_SERVER = "Nothing answers as MySQL at DB_HOST and DB_PORT; start it, or change these."
_REPLICA = "The server at DB_HOST only reads; DB_HOST must lead to the primary."
_TOO_MANY = (
    "The server at DB_HOST takes no more connections; lower DB_CONNECTIONS, or raise"
    " max_connections there."
)
_NOT_FROM_HERE = (
    "The server at DB_HOST takes no connections from this machine; let it, for DB_USER."
)
_NOT_ALLOWED = "DB_USER may not do at DB_NAME what is needed; grant it all of that database."
_LOCKED = "The server at DB_HOST has locked the account of DB_USER; unlock it."
_EXPIRED = "The password of DB_USER has expired at DB_HOST; set one there, and DB_PASSWORD."
_SCHEMA = "DB_NAME lacks what this release needs; run `mailtape migrate`."
_FULL = "There is no room left at DB_HOST; make some there."
_SENTENCES = {
    1021: _FULL,
    1040: _TOO_MANY,
    1044: _NOT_ALLOWED,
    1045: "The server at DB_HOST does not know DB_USER by DB_PASSWORD; change one of the two.",
    1049: "There is no database DB_NAME at DB_HOST; create it, or change DB_NAME.",
    1054: _SCHEMA,
    1114: _FULL,
    1129: _NOT_FROM_HERE,
    1130: _NOT_FROM_HERE,
    1142: _NOT_ALLOWED,
    1146: _SCHEMA,
    1203: _TOO_MANY,
    1226: _TOO_MANY,
    1290: _REPLICA,
    1698: "The server at DB_HOST lets DB_USER in without a password only; change DB_USER.",
    1792: _REPLICA,
    1820: _EXPIRED,
    1836: _REPLICA,
    1862: _EXPIRED,
    2002: _NO_SERVER,
    2003: _NO_SERVER,
    2005: "There is no machine of the name DB_HOST; change it.",
    3032: "The server at DB_HOST is in offline mode; end that.",
    3118: _LOCKED,
    3159: "The server at DB_HOST wants encryption, which is not spoken to it; let it do without.",
    4151: _LOCKED,
}


_DRIVERS = range(2000, 3000)
"""Numbers that no server sends: the driver's own, of connections."""


class Server(NamedTuple):
    """How a server of MySQL is set up."""

    version: str
    flush_log_at_commit: int
    sql_mode: str
    """Of this connection, which sets it itself."""
    max_connections: int
    clock: datetime


def server(session: Session) -> Server:
    """Look at the server; MySQL and MariaDB only."""
    version, flush, mode, connections, clock = session.execute(_SERVER).one()
    return Server(version, int(flush), mode, int(connections), clock.replace(tzinfo=UTC))


def add_row(session: Session, subject: bytes, now: datetime) -> None:
    """Write a row that nobody asks for, and that is forgotten within a minute or so."""
    session.add(Failure(subject=subject, failed_at=now, counts_until=now + _COUNTS))


def count_rows(session: Session, subject: bytes) -> int:
    """Count the rows of `add_row`."""
    found = select(func.count()).select_from(Failure).where(Failure.subject == subject)
    return session.scalar(found) or 0


def remove_rows(session: Session, subject: bytes) -> None:
    """Remove the rows of `add_row`."""
    session.execute(delete(Failure).where(Failure.subject == subject))


def explain(error: BaseException) -> str | None:
    """Name the setting that the server's own error is about, or at least the error."""
    numbers = [number for each in causes(error) if (number := number_of(each)) is not None]
    known = next((_SENTENCES[number] for number in numbers if number in _SENTENCES), None)
    servers = [number for number in numbers if number not in _DRIVERS]
    if known is None and servers:
        return f"The server at DB_HOST answers with error {servers[0]}; its manual and log say why."
    return known
