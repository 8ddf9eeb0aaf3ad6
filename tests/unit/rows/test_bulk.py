"""Many rows by few statements: each arrives as its columns' types say, and all of them or none."""

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Table, create_engine, delete, event, func, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from installation import Installation
from mailtape.domain.ids import OrganisationId
from mailtape.rows.bulk import insert_rows
from mailtape.rows.events import Event
from processes import resident_bytes

NOW = datetime(2026, 11, 21, 12, 30, 0, 123456, tzinfo=UTC)
EVENTS = cast("Table", Event.__table__)
ROWS = 250
STATEMENTS = 3 + 3 + 2 + 2
"""Of 64, 16, 4 and 1."""


def _events(organisation_id: OrganisationId, *, first: int = 1) -> list[dict[str, object]]:
    return [
        {
            "organisation_id": organisation_id,
            "sequence": sequence,
            "kind": "message.refused",
            "message_id": sequence.to_bytes(16),
            "period": "2026-11",
            "created_at": NOW,
            "facts": {"reason": f"100 % ? '{sequence}' \\ \N{SNOWMAN}", "count": sequence},
            "held": None if sequence % 2 else bytes([0, 37, 39, 63]) * 8,
        }
        for sequence in range(first, first + ROWS)
    ]


def _insert(session: Session, rows: list[dict[str, object]]) -> None:
    insert_rows(session.connection(), EVENTS, rows)


def _read(session: Session, organisation_id: OrganisationId) -> list[dict[str, object]]:
    of_it = select(*EVENTS.c).where(EVENTS.c.organisation_id == organisation_id)
    return [dict(row) for row in session.execute(of_it.order_by(EVENTS.c.sequence)).mappings()]


async def test_each_row_comes_back_as_it_was_given(
    installation: Installation, acme: OrganisationId
) -> None:
    database = installation.parts.database
    given = _events(acme)

    await database.write(_insert, given)

    assert await database.read(_read, acme) == given


async def test_they_are_what_sqlalchemy_itself_inserts(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    def plainly(session: Session, rows: list[dict[str, object]]) -> None:
        session.connection().execute(insert(EVENTS), rows)

    def raw(session: Session, organisation_id: OrganisationId) -> list[tuple[object, ...]]:
        columns = [
            column
            for name in ("sequence", "period", "created_at", "facts", "held", "message_id")
            for column in (func.length(EVENTS.c[name]), func.hex(EVENTS.c[name]))
        ]
        of_it = select(*columns).where(EVENTS.c.organisation_id == organisation_id)
        return [tuple(row) for row in session.execute(of_it.order_by(EVENTS.c.sequence))]

    database = installation.parts.database
    await database.write(_insert, _events(acme))
    await database.write(plainly, _events(rival))

    assert await database.read(raw, acme) == await database.read(raw, rival)


async def test_few_statements_of_four_lengths_carry_them(
    installation: Installation, acme: OrganisationId
) -> None:
    statements: list[str] = []

    def count(*of_cursor: object) -> None:
        statements.append(str(of_cursor[2]))

    event.listen(Engine, "before_cursor_execute", count)
    try:
        await installation.parts.database.write(_insert, _events(acme))
    finally:
        event.remove(Engine, "before_cursor_execute", count)

    assert len([each for each in statements if each.startswith("INSERT")]) == STATEMENTS


async def test_rows_that_are_large_together_go_in_packets_that_a_server_takes(
    installation: Installation, acme: OrganisationId
) -> None:
    """A header with a thousand Cyrillic names, of a mail to many: 18 MB, and it takes 16."""
    database = installation.parts.database
    given = _events(acme)[:64]
    for row in given:
        row["facts"] = {"names": "\N{CYRILLIC SMALL LETTER ZHE}" * 40_000}

    await database.write_bulk(_insert, given)

    there = await database.read(lambda session: session.scalars(select(EVENTS.c.facts)).all())
    assert there == [row["facts"] for row in given]


def test_what_was_inserted_is_not_kept_in_memory(tmp_path: Path) -> None:
    """The driver remembers the values of each text that it ran: there must be few."""
    organisation = OrganisationId(bytes(16))
    engine = create_engine(f"sqlite:///{tmp_path}/rows")
    EVENTS.create(engine)
    given = [row | {"facts": {"reason": "x" * 64 * 1024}} for row in _events(organisation)]
    with closing(engine.connect()) as connection:
        before = resident_bytes(os.getpid())
        for rows in range(1, 61):
            insert_rows(connection, EVENTS, given[:rows])
            connection.execute(delete(EVENTS))
            connection.commit()

        assert resident_bytes(os.getpid()) - before < 30 * 2**20, "all of them are 114 MiB"
    engine.dispose()


async def test_a_key_that_is_taken_undoes_all(
    installation: Installation, acme: OrganisationId
) -> None:
    database = installation.parts.database
    given = _events(acme)
    await database.write(_insert, given)

    with pytest.raises(IntegrityError):
        await database.write(_insert, _events(acme, first=ROWS)[::-1])

    assert await database.read(_read, acme) == given
