"""Inserting many rows by few statements, and deleting many by bounded ones.

A statement a row is most of what storing a batch of a hundred messages costs: in parameters that
are looked up by name, and in waiting, because a driver lets the interpreter go at each step, and
whoever takes it meanwhile keeps it for up to 5 ms. Here one statement carries up to 64 rows.

It promises as well that neither a statement nor what a driver remembers of it is large: Python's
`sqlite3` keeps the values of each text it has run, so there are four texts a table, and what comes
together is bounded in octets; a server refuses a statement that is larger than its packets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from sqlalchemy import ColumnElement, Connection, Dialect, Table, delete, literal_column, select
from sqlalchemy.orm import Session

from mailtape.rows.base import Row

_ROWS_AT_ONCE = (64, 16, 4, 1)
_MOST_OCTETS = 256 * 1024
"""Of texts and blobs in one statement; a larger row goes alone."""


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all name the same columns, in one order.

    The columns' types convert the values; what is not named gets the database's own default.

    Raises:
        IntegrityError: a key is taken.
    """
    if not rows:
        return
    insert, row, converters = _shape(table, tuple(rows[0]), connection.dialect)
    converted = [
        tuple(
            value if convert is None else convert(value)
            for convert, value in zip(converters, each.values(), strict=True)
        )
        for each in rows
    ]
    for chunk in chunks(converted):
        statement = f"{insert} VALUES {', '.join(repeat(row, len(chunk)))}"
        connection.exec_driver_sql(statement, tuple(chain.from_iterable(chunk)))


def delete_some(session: Session, row: type[Row], where: ColumnElement[bool], most: int) -> int:
    """Delete up to so many rows; tell how many. What is left is for the next transaction.

    A server ends a statement that takes too long, and then all that it did was for nothing.
    """
    if session.connection().dialect.name == "sqlite":  # which has no DELETE … LIMIT
        number: ColumnElement[int] = literal_column("rowid")
        some = select(number).select_from(row).where(where).limit(most).correlate(None)
        change = delete(row).where(number.in_(some))
    else:
        change = delete(row).where(where).with_dialect_options(mysql_limit=most)
    done = session.execute(change, execution_options={"synchronize_session": False})
    return int(done.rowcount)  # type: ignore[attr-defined]  # a DELETE has one


def chunks(rows: Sequence[tuple[object, ...]]) -> Iterator[Sequence[tuple[object, ...]]]:
    """Cut rows into what one statement may carry, in one of four lengths."""
    octets = [sum(len(value) for value in row if isinstance(value, bytes | str)) for row in rows]
    start = 0
    while start < len(rows):
        left = len(rows) - start
        length = next(
            most
            for most in _ROWS_AT_ONCE
            if most == 1 or (most <= left and sum(octets[start : start + most]) <= _MOST_OCTETS)
        )
        yield rows[start : start + length]
        start += length


@lru_cache
def _shape(
    table: Table, columns: tuple[str, ...], dialect: Dialect
) -> tuple[str, str, list[Callable[[Any], Any] | None]]:
    """Give a statement's beginning, a row of its parameters, and what converts each value."""
    names = ", ".join(map(dialect.identifier_preparer.quote, columns))
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    types = [table.c[column].type.dialect_impl(dialect) for column in columns]
    return (
        f"INSERT INTO {dialect.identifier_preparer.format_table(table)} ({names})",
        f"({', '.join(repeat(mark, len(columns)))})",
        [type_.bind_processor(dialect) for type_ in types],
    )
