"""Inserting many rows by few statements.

A statement a row is most of what storing a batch of a hundred messages costs: in parameters that
are looked up by name, and in waiting, because a driver lets the interpreter go at each step, and
whoever takes it meanwhile keeps it for up to 5 ms. Here one statement carries a hundred rows.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from sqlalchemy import Connection, Dialect, Table

_ROWS_AT_ONCE = 100
"""SQLite takes 32,766 parameters, a MySQL server what fits into its largest packet."""


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all name the same columns, in one order.

    The columns' types convert the values; what is not named gets the database's own default.

    Raises:
        IntegrityError: a key is taken.
    """
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        insert, row, converters = _shape(table, tuple(chunk[0]), connection.dialect)
        values = (
            value if convert is None else convert(value)
            for each in chunk
            for convert, value in zip(converters, each.values(), strict=True)
        )
        connection.exec_driver_sql(_statement(insert, row, len(chunk)), tuple(values))


def insert_tuples(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """The same where nothing is converted: `insert` is what stands before VALUES."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        row = f"({', '.join(repeat('?', len(chunk[0])))})"
        connection.execute(_statement(insert, row, len(chunk)), tuple(chain.from_iterable(chunk)))


def _statement(insert: str, row: str, rows: int) -> str:
    return f"{insert} VALUES {', '.join(repeat(row, rows))}"


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
