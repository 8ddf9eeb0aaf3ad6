"""How the questions are answered: by walking one index, on SQLite and on MySQL."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, text

from installation import Installation
from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.domain.query import MessageQuery
from mailtape.rows import messages, retention
from mailtape.rows.database import Session
from postroom import QA, deposit_many

FIRST_US = 1_700_000_000_000_000
SEARCH_NEWEST_FIRST = "SCAN message_search VIRTUAL TABLE INDEX 192:M2"
"""FTS5's own name for a walk by rowid, descending (`fts5_main.c`, `fts5BestIndexMethod`)."""
EXPLAIN = "EXPLAIN FORMAT=TRADITIONAL"
"""A row a table; what a server answers without that word differs from release to release."""
on_sqlite = pytest.mark.parametrize("installation", ["sqlite"], indirect=True)
on_mysql = pytest.mark.parametrize(
    "installation", [pytest.param("mysql", marks=pytest.mark.services)], indirect=True
)


def explained(session: Session, ask: Callable[[Session], Any], explain: str) -> list[Any]:
    """Have the last statement that a question sends explained."""
    sent: list[tuple[str, Any]] = []
    engine = session.get_bind()

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    ask(session)
    event.remove(engine, "before_cursor_execute", note)
    statement, parameters = sent[-1]
    rows = session.connection().exec_driver_sql(f"{explain} {statement}", parameters)
    return list(rows)


def plan_of(session: Session, ask: Callable[[Session], Any]) -> str:
    return "\n".join(row[3] for row in explained(session, ask, "EXPLAIN QUERY PLAN"))


@on_sqlite
async def test_what_a_relay_handed_over_lately_is_read_by_time(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 1)  # of nobody who has no mail more is read

    used = await installation.parts.database.read(
        plan_of, lambda session: messages.relayed(session, acme, timedelta(hours=1), 100)
    )

    assert "ix_messages_id (organisation_id=? AND id>?)" in used
    assert "TEMP B-TREE" not in used


@on_sqlite
@pytest.mark.parametrize(
    ("query", "after", "used"),
    [
        (MessageQuery(), None, "ix_messages_id (organisation_id=?)"),
        (MessageQuery(), MessageId(b"\xff" * 16), "ix_messages_id (organisation_id=? AND id<?)"),
        (
            MessageQuery(address=QA),
            MessageId(b"\xff" * 16),
            "ix_messages_mailbox (organisation_id=? AND mailbox=? AND id<?)",
        ),
        (
            MessageQuery(since_us=FIRST_US, before_us=FIRST_US + 10**9),
            None,
            "ix_messages_id (organisation_id=? AND id>? AND id<?)",
        ),
        (
            MessageQuery(since_sequence=5),
            None,
            "ix_messages_sequence (organisation_id=? AND sequence>?)",
        ),
        (
            MessageQuery(since_sequence=5),
            80,
            "ix_messages_sequence (organisation_id=? AND sequence>? AND sequence<?)",
        ),
        (MessageQuery(unread=True), None, "ix_messages_id (organisation_id=?)"),
        (MessageQuery(words="order"), None, SEARCH_NEWEST_FIRST),
        (MessageQuery(words="order", address=QA), None, SEARCH_NEWEST_FIRST),
        (MessageQuery(words="order"), 80, SEARCH_NEWEST_FIRST + "<"),
    ],
)
async def test_lists_walk_an_index_and_sort_nothing(
    installation: Installation,
    acme: OrganisationId,
    query: MessageQuery,
    after: messages.Position | None,
    used: str,
) -> None:
    await deposit_many(installation, acme, 100)

    plan = await installation.parts.database.read(
        plan_of, lambda s: messages.find(s, acme, query, limit=50, after=after)
    )

    assert used in plan
    assert "TEMP B-TREE" not in plan


@on_sqlite
async def test_counts_hits_by_walking_the_search_index(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 100)

    for query in (MessageQuery(words="order"), MessageQuery(words="order", address=QA)):
        plan = await installation.parts.database.read(
            plan_of, lambda s, query=query: messages.count(s, acme, query)
        )

        walk, *lookups = plan.splitlines()
        assert walk.startswith("SCAN message_search")
        assert lookups == ["SEARCH messages USING INTEGER PRIMARY KEY (rowid=?)"]


@on_sqlite
async def test_bodies_are_looked_for_by_the_ids_of_their_messages(
    installation: Installation, acme: OrganisationId
) -> None:
    bodies = [(IngestId(key), acme) for key in await deposit_many(installation, acme, 64)]

    plan = await installation.parts.database.read(
        plan_of, lambda s: retention.without_rows(s, bodies)
    )

    assert plan.count("ix_messages_id (organisation_id=? AND id>? AND id<?)") == 64


@on_mysql
async def test_bodies_are_looked_for_by_a_range_of_one_key(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    ids = [await deposit_many(installation, tenant, 600) for tenant in (acme, rival)]
    bodies = [(IngestId(key), acme) for key in ids[0][:64]]
    database = installation.parts.database
    await database.write(lambda s: s.execute(text("ANALYZE TABLE messages")).all())

    (plan,) = await database.read(explained, lambda s: retention.without_rows(s, bodies), EXPLAIN)

    assert (plan.key, plan.type) == ("ix_messages_id", "range")
    assert int(plan.rows) < 100


WALKS = (
    (MessageQuery(), None, "messages", "ix_messages_id"),
    (MessageQuery(), MessageId(b"\xff" * 16), "messages", "ix_messages_id"),
    (MessageQuery(address=QA), MessageId(b"\xff" * 16), "messages", "ix_messages_mailbox"),
    (MessageQuery(since_sequence=580), None, "messages", "ix_messages_sequence"),
    (MessageQuery(since_sequence=250), 300, "messages", "ix_messages_sequence"),
    (MessageQuery(unread=True), None, "messages", "ix_messages_id"),
    (MessageQuery(words="order"), None, "word_0", "PRIMARY"),
    (MessageQuery(words="order thank"), None, "word_", "PRIMARY"),
    (MessageQuery(words='"thank you"', address=QA), None, "word_", "PRIMARY"),
    (MessageQuery(words="order"), 300, "word_0", "PRIMARY"),
)
"""Question, position, and the table and key that MySQL begins with."""


@on_mysql
async def test_lists_walk_a_key_and_sort_nothing(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    for tenant in (acme, rival):
        await deposit_many(installation, tenant, 30)  # of a half MySQL reads all by their ids
        await deposit_many(installation, tenant, 570, recipient="other@mail.example.com")
    database = installation.parts.database
    await database.write(
        lambda s: s.execute(text("ANALYZE TABLE messages, message_words, message_search")).all()
    )

    for query, after, table, key in WALKS:
        find = partial(messages.find, limit=50, after=after)
        plan = await database.read(explained, _asking(find, acme, query), EXPLAIN)

        assert (query, plan[0].table.startswith(table)) == (query, True)
        assert (query, plan[0].key) == (query, key)
        assert not any("filesort" in step.Extra or "temporary" in step.Extra for step in plan)


def _asking(
    find: Callable[..., Any], organisation_id: OrganisationId, query: MessageQuery
) -> Callable[[Session], Any]:
    return lambda session: find(session, organisation_id, query)
