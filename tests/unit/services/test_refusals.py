"""Refusals become news of whoever owns the address, and of nobody else."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from installation import Installation
from mailtape.domain.errors import Unavailable
from mailtape.domain.event import RefusedMail
from mailtape.domain.ids import OrganisationId
from mailtape.rows import events
from mailtape.rows.database import Session
from mailtape.services.refusals import Refusals
from postroom import deliver

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QA = "qa@mail.example.com"


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


async def _told(
    installation: Installation, organisation_id: OrganisationId
) -> list[RefusedMail | None]:
    page = await installation.parts.database.read(events.page, organisation_id, after=0, limit=100)
    return [event.refused for event in page]


async def _flush(installation: Installation, refusals: Refusals, now: datetime) -> int:
    parts = installation.parts
    return await refusals.flush(parts.database, parts.wakeups, now)


async def test_what_is_refused_within_a_minute_is_one_event_with_a_count(
    installation: Installation, acme: OrganisationId
) -> None:
    refusals = Refusals()
    for second in (0, 20, 59):
        refusals.note(acme, QA, "rate_limited", NOON + timedelta(seconds=second))

    assert await _flush(installation, refusals, NOON + MINUTE) == 1

    assert await _told(installation, acme) == [RefusedMail(QA, "rate_limited", NOON, 3)]


async def test_nothing_is_told_before_its_minute_is_over_nor_twice(
    installation: Installation, acme: OrganisationId
) -> None:
    refusals = Refusals()
    refusals.note(acme, QA, "rate_limited", NOON)

    counts = [
        await _flush(installation, refusals, NOON + timedelta(seconds=s)) for s in (59, 60, 61)
    ]

    assert counts == [0, 1, 0]


async def test_addresses_reasons_and_minutes_are_told_apart(
    installation: Installation, acme: OrganisationId
) -> None:
    refusals = Refusals()
    refusals.note(acme, QA, "rate_limited", NOON)
    refusals.note(acme, QA, "storage", NOON)
    refusals.note(acme, "other@mail.example.com", "storage", NOON)
    refusals.note(acme, QA, "rate_limited", NOON + MINUTE)

    assert await _flush(installation, refusals, NOON + 2 * MINUTE) == 4


async def test_others_hear_nothing(installation: Installation, acme: OrganisationId) -> None:
    stranger = await installation.an_organisation("stranger")
    refusals = Refusals()
    refusals.note(acme, QA, "storage", NOON)

    await _flush(installation, refusals, NOON + MINUTE)

    assert await _told(installation, stranger) == []


async def test_refusals_take_their_numbers_between_messages_without_holes(
    installation: Installation, acme: OrganisationId
) -> None:
    refusals = Refusals()
    await deliver(installation, acme)
    refusals.note(acme, QA, "storage", NOON)
    await _flush(installation, refusals, NOON + MINUTE)
    await deliver(installation, acme)

    page = await installation.parts.database.read(events.page, acme, after=0, limit=100)

    assert [(event.sequence, event.kind) for event in page] == [
        (1, "message.stored"),
        (2, "message.refused"),
        (3, "message.stored"),
    ]


async def test_the_end_of_the_process_tells_of_the_minute_that_is_not_over(
    installation: Installation, acme: OrganisationId
) -> None:
    before, after = Refusals(), Refusals()
    parts = installation.parts
    before.note(acme, QA, "storage", NOON)
    before.note(acme, QA, "storage", NOON)

    told = await before.flush(
        parts.database, parts.wakeups, NOON + timedelta(seconds=30), ending=True
    )
    after.note(acme, QA, "storage", NOON + timedelta(seconds=40))
    await _flush(installation, after, NOON + MINUTE)

    assert told == 1
    assert await _told(installation, acme) == [
        RefusedMail(QA, "storage", NOON, 2),
        RefusedMail(QA, "storage", NOON, 1),
    ]


async def test_many_refusals_are_written_by_and_by(
    installation: Installation, acme: OrganisationId
) -> None:
    """A dictionary tried out on somebody's subdomain must not hold up whoever waits for a 250."""
    refusals = Refusals()
    for number in range(250):
        refusals.note(acme, f"word-{number}@mail.example.com", "storage", NOON)
    begun = []

    def begins(connection: object) -> None:
        begun.append(connection)

    event.listen(installation.parts.database._writer, "begin", begins)

    assert await _flush(installation, refusals, NOON + MINUTE) == 250
    event.remove(installation.parts.database._writer, "begin", begins)

    assert len(begun) == 3
    page = await installation.parts.database.read(events.page, acme, after=0, limit=1000)
    assert [each.sequence for each in page] == list(range(1, 251))


async def test_what_could_not_be_written_waits_and_is_told_once(
    installation: Installation, acme: OrganisationId
) -> None:
    refusals = Refusals()
    database = installation.parts.database
    refusals.note(acme, QA, "storage", NOON)
    await database.write(Session.execute, text("ALTER TABLE events RENAME TO away"))

    with pytest.raises(Unavailable):
        await _flush(installation, refusals, NOON + MINUTE)
    await database.write(Session.execute, text("ALTER TABLE away RENAME TO events"))

    assert await _flush(installation, refusals, NOON + MINUTE) == 1
    assert await _told(installation, acme) == [RefusedMail(QA, "storage", NOON, 1)]


async def test_who_is_interrupted_while_writing_tells_nothing_twice(
    installation: Installation, acme: OrganisationId
) -> None:
    refusals = Refusals()
    parts = installation.parts
    refusals.note(acme, QA, "storage", NOON)
    flushing = asyncio.create_task(_flush(installation, refusals, NOON + MINUTE))
    await asyncio.sleep(0)  # handed over to the thread that writes
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)

    await refusals.flush(parts.database, parts.wakeups, NOON + MINUTE, ending=True)
    await parts.database.write_bulk(lambda _: None)  # after all that was handed over

    assert await _told(installation, acme) == [RefusedMail(QA, "storage", NOON, 1)]
