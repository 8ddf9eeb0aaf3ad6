"""Many processes that store at the same moment: each mail once, every sequence without holes."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import URL, select

import mysql
from fakes import a_delivery, an_envelope
from installation import Installation
from mailtape.domain import ids
from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.domain.message import Mailbox, Summary
from mailtape.domain.query import MessageQuery
from mailtape.rows import messages, organisations, retention, search, usage, verification
from mailtape.rows.database import Database, Session
from mailtape.rows.deposit import Deposit, deposit
from mailtape.rows.events import Event
from mailtape.services.verification import check_account, faults_of_search

pytestmark = [
    pytest.mark.services,
    pytest.mark.parametrize("installation", ["mysql"], indirect=True),
]

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FIRST_US = 1_763_700_000_000_000
MAILS = 240
DEPOSITORS = 8
BATCH = 10


def a_deposit(organisation_id: OrganisationId, number: int) -> Deposit:
    """Make the mail of a number: the same number is the same mail, delivered again."""
    accepted_us = FIRST_US + number * 1000
    envelope = an_envelope(
        ingest_id=IngestId(ids.new_id(accepted_us // 1000)),
        accepted_us=accepted_us,
        deliveries=(a_delivery("qa@mail.example.com", organisation_id),),
    )
    summary = Summary(
        sender=Mailbox("Shop", "shop@example.org"),
        to=(),
        subject=f"Order {number}",
        snippet="",
        attachments=0,
        search_text=f"Order {number} is on its way",
    )
    key = number.to_bytes(16, "big")
    identity = ids.message_id(accepted_us // 1000, envelope.ingest_id, "qa@mail.example.com")
    return Deposit(identity, key, envelope.deliveries[0], envelope, summary, unparsed=False)


async def test_each_mail_is_stored_once_and_no_number_is_left_out(
    installation: Installation, migrated_mysql: URL, chance: random.Random
) -> None:
    tenants = [await installation.an_organisation(slug) for slug in ("a", "b", "c")]
    batches = _batches(tenants, chance)

    async with mysql.opened(migrated_mysql) as other:
        databases = itertools.cycle([installation.parts.database, other])
        looking = asyncio.create_task(_watch(installation.parts.database, tenants[0]))
        stored = await asyncio.gather(
            *(
                _deposit_all(database, batches[place::DEPOSITORS])
                for place, database in zip(range(DEPOSITORS), databases, strict=False)
            )
        )
        seen = await looking
        await _all_is_right(other, tenants)

    once = Counter(item.delivery.organisation_id + item.dedupe_key for s in stored for item in s)
    assert set(once.values()) == {1}
    assert len(once) == MAILS
    for sequences in seen:
        assert sequences == list(range(1, len(sequences) + 1))


def _batches(tenants: Sequence[OrganisationId], chance: random.Random) -> list[list[Deposit]]:
    """Give every mail twice to somebody, and once more within some batch."""
    mails = [a_deposit(tenants[number % 3], number) for number in range(MAILS)]
    repeated = [*mails, *mails]
    chance.shuffle(repeated)
    return [
        [*chunk, chance.choice(chunk)]
        for start in range(0, len(repeated), BATCH)
        if (chunk := repeated[start : start + BATCH])
    ]


async def _deposit_all(database: Database, batches: list[list[Deposit]]) -> list[Deposit]:
    return [item for batch in batches for item in await database.write_bulk(deposit, batch, NOW)]


async def _watch(database: Database, organisation_id: OrganisationId) -> list[list[int]]:
    """Look at an organisation's events again and again while they come."""
    looks: list[list[int]] = []
    while not looks or len(looks[-1]) < MAILS // 3:
        looks.append(await database.read(_sequences, organisation_id))
        assert len(looks) < 5000
        await asyncio.sleep(0.005)
    return looks


def _sequences(session: Session, organisation_id: OrganisationId) -> list[int]:
    found = select(Event.sequence).where(Event.organisation_id == organisation_id)
    return list(session.scalars(found.order_by(Event.sequence)))


async def _all_is_right(database: Database, tenants: Sequence[OrganisationId]) -> None:
    for account in await database.read(verification.accounts):
        assert account.id in tenants
        assert account.sequence == MAILS // 3
        assert [finding async for finding in check_account(database, account)] == []
        counted = await database.read(messages.count, account.id, MessageQuery(words="order"))
        assert counted == MAILS // 3
        (month,) = (await database.read(verification.months, account.id)).values()
        assert month.emails == MAILS // 3
    assert await database.read(verification.without_event, 0, 2**62) == []
    assert await database.read(verification.without_search, 0, 2**62) == []
    assert [fault async for fault in faults_of_search(database)] == []


async def test_what_is_deleted_while_it_is_delivered_again_stays_deleted(
    installation: Installation, migrated_mysql: URL
) -> None:
    acme = await installation.an_organisation("acme")
    mails = [a_deposit(acme, number) for number in range(30)]
    database = installation.parts.database
    await database.write(deposit, mails, NOW)

    async with mysql.opened(migrated_mysql) as other:
        deleting = (database.write(messages.delete, acme, MessageId(m.id), now=NOW) for m in mails)
        again = (other.write_bulk(deposit, [mail], NOW) for mail in mails)
        await asyncio.gather(*deleting, *again)

        assert await other.read(messages.count, acme, MessageQuery()) == 0
        assert [fault async for fault in faults_of_search(other)] == []
        assert await other.read(search.entries, 0, 50) == []
    organisation = await database.read(organisations.find, acme)
    assert organisation is not None
    assert (organisation.sequence, organisation.storage_bytes) == (30, 0)
    bodies = [(mail.envelope.ingest_id, acme) for mail in mails]
    assert await database.read(retention.without_rows, bodies) == bodies


async def test_a_month_that_begins_in_two_places_is_counted_in_one(
    installation: Installation, migrated_mysql: URL
) -> None:
    acme = await installation.an_organisation("acme")
    database = installation.parts.database

    async with mysql.opened(migrated_mysql) as other:
        places = itertools.islice(itertools.cycle([database, other]), 12)
        await asyncio.gather(*(place.write(_add_calls, acme) for place in places))
        month = await other.read(usage.find, acme, "2026-11")

    assert month is not None
    assert month.api_calls == 12


def _add_calls(session: Session, organisation_id: OrganisationId) -> None:
    usage.add(session, organisation_id, "2026-11", api_calls=1)
