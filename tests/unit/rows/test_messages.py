from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import String, cast, func, literal, select, update

from installation import Installation
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.query import MessageQuery
from mailtape.rows import messages, organisations
from mailtape.rows.database import Session
from mailtape.rows.messages import Message, MessageKey
from postroom import QA, deposit_many

FIRST_US = 1_700_000_000_000_000
NOW = datetime(2026, 11, 21, tzinfo=UTC)


async def test_lists_newest_first_and_goes_on_where_it_stopped(
    installation: Installation, acme: OrganisationId
) -> None:
    stored = await deposit_many(installation, acme, 10)
    database = installation.parts.database

    first = await database.read(messages.find, acme, MessageQuery(), limit=4)
    second = await database.read(messages.find, acme, MessageQuery(), limit=20, after=first[-1].id)

    assert [message.id for message in first + second] == stored[::-1]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("qa@mail.example.com", {"qa@mail.example.com", "qa+run7@mail.example.com"}),
        ("QA@Mail.Example.COM", {"qa@mail.example.com", "qa+run7@mail.example.com"}),
        ("qa+run7@mail.example.com", {"qa+run7@mail.example.com"}),
        ("QA+Run7@mail.example.com", {"qa+run7@mail.example.com"}),
        ("qa+run8@mail.example.com", set()),
        ("q%@mail.example.com", set()),
        ("qa", set()),
    ],
)
async def test_filters_by_address_in_any_case_with_or_without_its_tag(
    installation: Installation, acme: OrganisationId, asked: str, expected: set[str]
) -> None:
    for recipient in (QA, "qa+run7@mail.example.com", "other@mail.example.com"):
        await deposit_many(installation, acme, 1, recipient=recipient)

    found = await installation.parts.database.read(
        messages.find, acme, MessageQuery(address=asked), limit=50
    )

    assert {message.address for message in found} == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (MessageQuery(since_sequence=7), [10, 9, 8]),
        (MessageQuery(before_sequence=3), [2, 1]),
        (MessageQuery(since_sequence=4, before_sequence=7), [6, 5]),
        (MessageQuery(since_us=FIRST_US + 7000), [10, 9]),
        (MessageQuery(since_us=FIRST_US + 6999), [10, 9, 8]),
        (MessageQuery(before_us=FIRST_US + 2000), [2, 1]),
        (MessageQuery(before_us=FIRST_US + 2001), [3, 2, 1]),
        (MessageQuery(since_us=0, before_us=253_402_300_799_000_000), list(range(10, 0, -1))),
        (MessageQuery(words="order", since_sequence=7), [10, 9, 8]),
        (MessageQuery(words="order", before_sequence=3), [2, 1]),
        (MessageQuery(words="order", since_sequence=99), []),
        (MessageQuery(words="order", before_sequence=1), []),
    ],
)
async def test_bounds_exclude_what_they_name(
    installation: Installation, acme: OrganisationId, query: MessageQuery, expected: list[int]
) -> None:
    await deposit_many(installation, acme, 10, first_us=FIRST_US)
    database = installation.parts.database

    found = await database.read(messages.find, acme, query, limit=50)

    assert [message.sequence for message in found] == expected
    assert await database.read(messages.count, acme, query) == len(expected)


@pytest.mark.parametrize(
    ("words", "hits"),
    [
        ("zürich", 1),
        ("ZURICH", 1),
        ("invoice zürich", 1),
        ("invoice missing", 0),
        ('"of the invoice"', 1),
        ('"invoice of"', 0),
        ("invo*", 0),
        ("invo", 0),
        ("paid OR missing", 0),
        ("NOT missing", 0),
        ("words:invoice", 0),
        ('invoice" OR organisation : "x', 0),
        ("run-7_b", 1),
        ("!!!", 0),
        ("invoice !!!", 1),
    ],
)
async def test_searches_for_all_words_and_knows_no_operator_but_the_quote(
    installation: Installation, acme: OrganisationId, words: str, hits: int
) -> None:
    await deposit_many(
        installation, acme, 1, words="Copy of the invoice from Zürich, run-7_b, is paid"
    )
    query = MessageQuery(words=words)
    database = installation.parts.database

    listed = await database.read(messages.find, acme, query, limit=50)

    assert len(listed) == hits
    assert await database.read(messages.count, acme, query) == hits


async def test_search_pages_without_holes_or_repeats_while_messages_come_and_go(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    for _ in range(5):
        await deposit_many(installation, acme, 3)
        await deposit_many(installation, rival, 3)
    database = installation.parts.database
    query = MessageQuery(words="order")

    first = await database.read(messages.find, acme, query, limit=6)
    last = first[-1]
    await database.write(messages.delete, acme, last.id, now=NOW)
    await deposit_many(installation, acme, 2)
    second = await database.read(messages.find, acme, query, limit=50, after=last.sequence)

    assert [message.sequence for message in first + second] == list(range(15, 0, -1))


async def test_shows_nothing_of_another_organisation(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    (theirs,) = await deposit_many(installation, rival, 1)
    database = installation.parts.database
    everything = [
        MessageQuery(),
        MessageQuery(address=QA),
        MessageQuery(words="order"),
        MessageQuery(words=rival.hex()),
        MessageQuery(since_sequence=0),
    ]

    for query in everything:
        assert await database.read(messages.find, acme, query, limit=50) == []
        assert await database.read(messages.count, acme, query) == 0
        deleted = await database.write(
            messages.delete_matching, acme, query, limit=50, after=None, now=NOW
        )
        assert deleted.messages == 0
    theirs = MessageId(theirs)
    assert await database.read(messages.get, acme, theirs) is None
    assert await database.read(messages.transaction_of, acme, theirs) is None
    assert await database.write(messages.update, acme, theirs, read=True) is None
    assert (await database.write(messages.delete, acme, theirs, now=NOW)).messages == 0
    assert await database.read(messages.count, rival, MessageQuery(unread=True)) == 1


async def test_marks_read_and_tags_only_what_is_named(
    installation: Installation, acme: OrganisationId
) -> None:
    one, other = await deposit_many(installation, acme, 2)
    database = installation.parts.database

    changed = await database.write(messages.update, acme, MessageId(one), read=True, tags=["a"])
    kept = await database.write(messages.update, acme, MessageId(one))
    unread = await database.read(messages.find, acme, MessageQuery(unread=True), limit=50)

    assert changed is not None
    assert (changed.read, changed.tags) == (True, ("a",))
    assert kept == changed
    assert [message.id for message in unread] == [other]


async def test_a_deleted_message_takes_its_bytes_and_search_entry_and_leaves_its_key(
    installation: Installation, acme: OrganisationId
) -> None:
    one, other = await deposit_many(installation, acme, 2)
    database = installation.parts.database
    before = await database.read(organisations.find, acme)
    size = await database.read(lambda s: s.scalar(select(Message.size).where(Message.id == one)))

    deleted = await database.write(messages.delete, acme, MessageId(one), now=NOW)

    after = await database.read(organisations.find, acme)
    found = await database.read(messages.find, acme, MessageQuery(words="order"), limit=50)
    keys = await database.read(lambda s: list(s.scalars(select(MessageKey.dedupe_key))))
    assert before is not None
    assert after is not None
    assert size is not None
    assert deleted.messages == 1
    assert len(deleted.bodiless) == 1
    assert before.storage_bytes - after.storage_bytes == size > 0
    assert [message.id for message in found] == [other]
    assert keys == [one]


async def test_bulk_deletion_goes_on_in_chunks_and_spares_the_rest(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 7)
    spared = await deposit_many(installation, acme, 2, recipient="other@mail.example.com")
    database = installation.parts.database

    chunks: list[int] = []
    for query in (MessageQuery(address=QA), MessageQuery(words="order", before_sequence=8)):
        after: messages.Position | None = None
        for _ in range(2):
            deleted = await database.write(
                messages.delete_matching, acme, query, limit=2, after=after, now=NOW
            )
            chunks.append(deleted.messages)
            after = deleted.last

    left = await database.read(messages.find, acme, MessageQuery(), limit=50)
    assert chunks == [2, 2, 2, 1]
    assert [message.id for message in left] == spared[::-1]
    assert await database.read(_entries) == 2


async def test_names_what_relays_handed_over_last(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    hour = timedelta(hours=1)
    database = installation.parts.database
    await deposit_many(installation, rival, 1, first_us=FIRST_US)
    await deposit_many(installation, acme, 1, first_us=FIRST_US)
    for later in (1, 3600):  # seconds: the second one is an hour after the first
        await deposit_many(installation, acme, 2, first_us=FIRST_US + later * 1_000_000)
    named = literal("Q").concat(cast(Message.sequence, String))
    await database.write(Session.execute, update(Message).values(queue_id=named))
    direct = update(Message).where(Message.sequence == 4).values(queue_id="")
    await database.write(Session.execute, direct)

    assert await database.read(messages.relayed, acme, hour, 100) == [
        ("Q5", QA),
        ("Q3", QA),
        ("Q2", QA),
    ]
    assert await database.read(messages.relayed, acme, hour, 3) == [("Q5", QA), ("Q3", QA)]
    assert await database.read(messages.relayed, acme, timedelta(seconds=1), 100) == [("Q5", QA)]
    assert await database.read(messages.relayed, OrganisationId(bytes(16)), hour, 100) == []


def _entries(session: Session) -> int:
    from sqlalchemy import text

    return session.execute(text("SELECT count(*) FROM message_search")).scalar_one()


async def test_a_later_look_reads_only_what_was_stored_since(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 3, recipient="other@mail.example.com")
    database = installation.parts.database
    query = MessageQuery(address=QA)

    nothing, seen = await database.read(messages.first_match_after, acme, query, None)
    first, *_ = await deposit_many(installation, acme, 2)
    found, last = await database.read(messages.first_match_after, acme, query, seen)

    assert (nothing, seen) == (None, 3)
    assert found is not None
    assert (found.id, last) == (first, 5)
    bounded = replace(query, since_sequence=5)
    assert await database.read(messages.first_match_after, acme, bounded, seen) == (None, 5)
    assert await database.read(lambda s: s.scalar(select(func.count()).select_from(Message))) == 5
