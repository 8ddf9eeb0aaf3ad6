"""Two workers that trim one organisation at a time, on the servers that they share."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

import mysql
from contract.mongo import open_database
from fakes import a_delivery, an_envelope, an_organisation_id
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import UNLIMITED
from mailtape.mime.pack import pack
from mailtape.mime.understand import understand
from mailtape.rows import tiers
from mailtape.rows.database import Database, Session
from mailtape.rows.events import Event
from mailtape.rows.messages import Message
from mailtape.rows.organisations import Organisation
from mailtape.rows.usage import Usage
from mailtape.services.processing import Understood, store
from mailtape.services.retention import Bounds, trim
from mailtape.stores.mongo_bodies import MongoBodies

pytestmark = pytest.mark.services

NOW = datetime.now(UTC)
KEPT, TOO_MANY, RUNS = 60, 30, 3


async def fill(database: Database, bodies: MongoBodies, run: int) -> OrganisationId:
    """Make an organisation that keeps more than it may."""
    organisation_id = an_organisation_id()
    organisation = Organisation(
        id=organisation_id, slug=f"acme{run}", name="Acme", tier="unlimited", created_at=NOW
    )
    await database.write(tiers.ensure, UNLIMITED)
    await database.write(Session.add, organisation)
    for number in range(KEPT + TOO_MANY):
        raw = f"Subject: {number}\r\n\r\nx\r\n".encode()
        delivery = a_delivery("qa@mail.example.com", organisation_id)
        envelope = an_envelope(raw, deliveries=(delivery,))
        await store(database, bodies, [Understood(envelope, pack(raw, understand(raw)))], now=NOW)
    return organisation_id


def count(session: Session, organisation_id: OrganisationId) -> tuple[int, int, int, int]:
    """Count messages and events; add what a month says was forgotten; what storage is off by."""
    found = [
        session.scalar(select(func.count()).where(table.organisation_id == organisation_id)) or 0
        for table in (Message, Event)
    ]
    sizes = select(func.sum(Message.size)).where(Message.organisation_id == organisation_id)
    forgotten = select(func.sum(Usage.emails_forgotten)).where(
        Usage.organisation_id == organisation_id
    )
    storage = session.get_one(Organisation, organisation_id).storage_bytes
    return (
        found[0],
        found[1],
        int(session.scalar(forgotten) or 0),
        storage - int(session.scalar(sizes) or 0),
    )


async def test_two_workers_trim_to_the_bound_and_no_further() -> None:
    with mysql.migrated_database() as url:
        async with open_database() as documents, mysql.opened(url) as one, mysql.opened(url) as two:
            bodies = MongoBodies(documents)
            await bodies.prepare()
            for run in range(RUNS):
                organisation_id = await fill(one, bodies, run)
                bounds = Bounds(KEPT, 2**40)

                deleted = await asyncio.gather(
                    *(trim(each, bodies, organisation_id, bounds, now=NOW) for each in (one, two))
                )

                assert sum(deleted) == TOO_MANY
                left = await one.read(count, organisation_id)
                assert left == (KEPT, KEPT, TOO_MANY, 0)
