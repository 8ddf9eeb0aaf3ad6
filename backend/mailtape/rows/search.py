"""Full text search: the one place that knows the dialect.

On SQLite an FTS5 table beside `messages`, keyed by `messages.number`, written in the transaction
that writes the row. The organisation is a word of the indexed text, so that the index itself
keeps tenants apart and a rare word in a large neighbour costs nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, UnaryExpression, column, literal, table, text
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.operators import custom_op

from mailtape.domain.ids import OrganisationId
from mailtape.rows.base import Number

ENTRIES = table("message_search", column("rowid", Number), column("message_search", String))
"""To be joined by `ENTRIES.c.rowid == Message.number`; its natural order is that number's."""

_ADD = text(
    "INSERT INTO message_search (rowid, organisation, words)"
    " SELECT number, :organisation, :words FROM messages"
    " WHERE organisation_id = :organisation_id AND id = :id"
)
_REMOVE = text("DELETE FROM message_search WHERE rowid = :number")


def matches(organisation_id: OrganisationId, terms: Sequence[str]) -> ColumnElement[bool]:
    """Say that an entry is this organisation's and holds every one of at least one term.

    Each term becomes an FTS5 string, in which nothing but the doubled quote has a meaning: no
    column, prefix or boolean operator of a stranger reaches the engine. A string of several words
    is a phrase.
    """
    strings = " AND ".join('"{}"'.format(term.replace('"', '""')) for term in terms)
    question = f'organisation : "{organisation_id.hex()}" AND words : ({strings})'
    return ENTRIES.c.message_search.op("MATCH", is_comparison=True)(literal(question))


def beside_index(attribute: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """Name a column so that its index is not walked (https://sqlite.org/optoverview.html, 2.1).

    Else SQLite may walk a tenant's rows and ask the search index about each: 3 s instead of 4 ms
    for counting the hits of a rare word among 100,000 messages.
    """
    plain = attribute.expression
    return UnaryExpression(plain, operator=custom_op("+"), type_=plain.type)


def add(
    session: Session, organisation_id: OrganisationId, entries: Iterable[tuple[bytes, str]]
) -> None:
    """Enter messages that were just inserted: message id and the text to be found by."""
    session.connection().execute(
        _ADD,
        [
            {
                "organisation": organisation_id.hex(),
                "organisation_id": organisation_id,
                "id": message_id,
                "words": words,
            }
            for message_id, words in entries
        ],
    )


def remove(session: Session, numbers: Sequence[int]) -> None:
    """Take messages out, in the transaction that deletes their rows."""
    session.connection().execute(_REMOVE, [{"number": number} for number in numbers])
