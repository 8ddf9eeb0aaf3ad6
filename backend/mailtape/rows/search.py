"""Full text search: the one place that knows the dialect.

On SQLite an FTS5 table beside `messages`, keyed by `messages.number`, written in the transaction
that writes the row. The organisation is a word of the indexed text, so that the index itself
keeps tenants apart and a rare word in a large neighbour costs nothing. On MySQL a table of words of
our own, `rows.word_index`; docs/decisions/0009-search-on-mysql.md says why.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    String,
    UnaryExpression,
    column,
    literal,
    select,
    table,
    text,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.operators import custom_op

from mailtape.domain.ids import OrganisationId
from mailtape.rows import bulk, word_index
from mailtape.rows.base import Number
from mailtape.rows.word_index import Look

_ENTRIES = table(
    "message_search",
    column("rowid", Number),
    column("message_search", String),
    column("organisation", String),
    column("words", String),
)
_ADD = (
    "WITH entry (id, words) AS (VALUES {entries})"
    " INSERT INTO message_search (rowid, organisation, words)"
    " SELECT number, ?, words FROM entry CROSS JOIN messages USING (id) WHERE organisation_id = ?"
)
_REMOVE = text("DELETE FROM message_search WHERE rowid = :number")
_CHECK = text("INSERT INTO message_search (message_search) VALUES ('integrity-check')")


@dataclass(frozen=True, slots=True)
class Hits:
    """The entries that hold every term, as parts of a statement that joins `messages`."""

    entries: FromClause
    conditions: tuple[ColumnElement[bool], ...]
    number: ColumnElement[int]
    """`messages.number`, by which the index is ordered."""
    looked_up: ColumnElement[int]
    """The same, as `messages` is asked for it: never the other way round."""
    beside_index: Callable[[InstrumentedAttribute[Any]], ColumnElement[Any]]
    """Name a column of `messages` so that its index is not walked."""


def hits(session: Session, organisation_id: OrganisationId, terms: Sequence[str]) -> Hits:
    """Look for an organisation's entries that hold every one of at least one term.

    A term is a word or a phrase, nothing else: no operator of a stranger reaches an engine.
    """
    if _is_sqlite(session):
        matches = _matches(organisation_id, terms)
        number: ColumnElement[int] = _ENTRIES.c.rowid
        return Hits(_ENTRIES, (matches,), number, number, _beside_index)
    entries, conditions, number = word_index.matching(organisation_id, terms)
    # A sum has no index, so MySQL cannot walk a tenant's messages and look for each one's words.
    return Hits(entries, conditions, number, number + 0, _plainly)


def add(
    session: Session, organisation_id: OrganisationId, entries: Iterable[tuple[bytes, str]]
) -> None:
    """Enter messages that were just inserted: message id and the text to be found by."""
    if not _is_sqlite(session):
        word_index.add(session, organisation_id, dict(entries))
        return
    connection = session.connection()
    for chunk in bulk.chunks(list(entries)):
        connection.exec_driver_sql(
            _ADD.format(entries=", ".join(["(?, ?)"] * len(chunk))),
            (*chain.from_iterable(chunk), organisation_id.hex(), organisation_id),
        )


def remove(session: Session, numbers: Sequence[int]) -> None:
    """Take messages out, in the transaction that deletes their rows."""
    if not _is_sqlite(session):
        word_index.remove(session, numbers)
        return
    session.connection().execute(_REMOVE, [{"number": number} for number in numbers])


def lacking(session: Session, told: Select[int, bytes, str]) -> list[int]:
    """Tell which messages of a page have no entry, or one of another message.

    The page gives number, organisation and what the text of its entry must begin with.
    """
    page = session.execute(told).all()
    numbers = [row[0] for row in page]
    if not _is_sqlite(session):
        return word_index.lacking(session, [(row[0], row[1], row[2]) for row in page])
    known = {
        row[0]: (row[1], row[2])
        for row in session.execute(
            select(_ENTRIES.c.rowid, _ENTRIES.c.organisation, _ENTRIES.c.words).where(
                _ENTRIES.c.rowid.in_(numbers)
            )
        )
    }
    return [
        number
        for number, organisation_id, begins_with in page
        if number not in known
        or known[number][0] != organisation_id.hex()
        or not known[number][1].startswith(begins_with)
    ]


def entries(session: Session, after: int, most: int) -> Sequence[int]:
    """List the numbers that there are entries of, after one."""
    number = _ENTRIES.c.rowid if _is_sqlite(session) else word_index.ENTRIES.c.number
    return session.scalars(select(number).where(number > after).order_by(number).limit(most)).all()


def look(session: Session, so_far: Look) -> Look:
    """Look whether words lead to the entries that have them, as far as one transaction should.

    Begin with `Look()` and hand over what is returned until it is done. Needs a transaction that
    may write: on SQLite the question is spelt as an insertion, and is asked all at once.
    """
    if not _is_sqlite(session):
        return word_index.look(session, so_far)
    try:
        session.execute(_CHECK)
    except DatabaseError as error:
        if _is_corruption(error.orig):
            return Look(faults=("its words are not those of its entries",), is_done=True)
        raise
    return Look(is_done=True)


def _is_sqlite(session: Session) -> bool:
    return session.connection().dialect.name == "sqlite"


def _matches(organisation_id: OrganisationId, terms: Sequence[str]) -> ColumnElement[bool]:
    """Ask FTS5. Each term becomes a string, in which nothing but the doubled quote has a meaning.

    A string of several words is a phrase.
    """
    strings = " AND ".join('"{}"'.format(term.replace('"', '""')) for term in terms)
    question = f'organisation : "{organisation_id.hex()}" AND words : ({strings})'
    return _ENTRIES.c.message_search.op("MATCH", is_comparison=True)(literal(question))


def _beside_index(attribute: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """Keep SQLite off a column's index (https://sqlite.org/optoverview.html, 2.1).

    Else SQLite may walk a tenant's rows and ask the search index about each: 3 s instead of 4 ms
    for counting the hits of a rare word among 100,000 messages.
    """
    plain = attribute.expression
    return UnaryExpression(plain, operator=custom_op("+"), type_=plain.type)


def _plainly(attribute: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    return attribute.expression


def _is_corruption(error: BaseException | None) -> bool:
    """Whether SQLite found damage, not a lock or a full disk; its low byte is the primary code."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_CORRUPT
