"""What all mapped classes share: column types that mean the same on SQLite and on MySQL."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

import msgspec
from sqlalchemy import JSON, BigInteger, Dialect, Integer, String, TypeDecorator, Update
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.types import LargeBinary, TypeEngine


class _Octets(TypeDecorator[bytes]):
    """Raw bytes, handed to the driver as they are.

    `LargeBinary` wraps every value for drivers that cannot tell bytes from text; ours can, and the
    wrapping was a twelfth of the cost of storing a message.
    """

    impl = LargeBinary
    cache_ok = True
    mysql_type: ClassVar[TypeEngine[bytes]]

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type that MySQL can make a key of."""
        wanted = self.mysql_type if dialect.name == "mysql" else LargeBinary()
        return dialect.type_descriptor(wanted)

    def bind_processor(self, dialect: Dialect) -> None:
        """Leave bytes alone."""
        del dialect


class Id(_Octets):
    """Sixteen raw bytes: BINARY(16) on MySQL, BLOB on SQLite."""

    cache_ok = True
    mysql_type = mysql.BINARY(16)


class Digest(_Octets):
    """The 32 raw bytes of a sha256."""

    cache_ok = True
    mysql_type = mysql.BINARY(32)


class Key(_Octets):
    """Up to 32 raw bytes."""

    cache_ok = True
    mysql_type = mysql.VARBINARY(32)


class Json(TypeDecorator[Any]):
    """JSON that lists of messages hold: read by msgspec, in a tenth of the standard time."""

    impl = JSON
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Read what the driver gives: text."""
        del dialect, coltype
        return _from_json


def _from_json(value: str | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


class Instant(TypeDecorator[datetime]):
    """A time in UTC, kept as microseconds since 1970.

    An integer compares, indexes and rounds alike everywhere; SQLite has no time type and MySQL's
    have no zone.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Write a time; it must know its zone."""
        del dialect
        return None if value is None else to_us(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Read a time."""
        del dialect
        return None if value is None else from_us(value)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(value: datetime) -> int:
    """Count the microseconds from 1970 to a time that knows its zone."""
    seconds = int(value.replace(microsecond=0).timestamp())
    return seconds * 1_000_000 + value.microsecond


def from_us(value: int) -> datetime:
    """Make a time in UTC from microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


Number = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit number; on SQLite the name INTEGER is what makes a primary key the rowid itself."""

NumberKey = Annotated[int, mapped_column(Number, primary_key=True, autoincrement=True)]
IdKey = Annotated[bytes, mapped_column(Id, primary_key=True)]
Name = Annotated[str, mapped_column(String(200))]
MailAddress = Annotated[str, mapped_column(String(320))]
"""64 octets of local part, the at-sign, 255 of domain (RFC 5321, section 4.5.3.1)."""


class Row(DeclarativeBase):
    """The base of every mapped class."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: Instant,
        int: Number,
    }


def changed(session: Session, change: Update) -> bool:
    """Make a change and tell whether any row was there for it."""
    return bool(session.execute(change).rowcount)  # type: ignore[attr-defined]  # an UPDATE has one
