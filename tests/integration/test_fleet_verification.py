"""Faults planted in MySQL and MongoDB, behind the program's back, must be named there too."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text

import mysql
import services
from contract.mongo import open_database
from contract.rabbit import RabbitQueues, open_queues
from fakes import a_delivery, an_envelope, an_organisation_id
from forked import Forked
from mailtape.domain.ids import IngestId, OrganisationId, new_id
from mailtape.domain.tier import UNLIMITED
from mailtape.mime.pack import pack
from mailtape.mime.understand import understand
from mailtape.rows import messages, tiers
from mailtape.rows.database import Session
from mailtape.rows.mysql_database import MysqlDatabase
from mailtape.rows.organisations import Organisation
from mailtape.services.processing import Understood, store
from mailtape.services.verification import Kind, Tally, verify
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_connection import Database as Documents
from unit.services.test_verification import PLAIN, WITH_ATTACHMENT

pytestmark = pytest.mark.services

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Kept:
    """Four messages of three mails, on both servers; nothing waits in the queue."""

    url: URL
    rows: MysqlDatabase
    documents: Documents
    queues: RabbitQueues
    organisation_id: OrganisationId

    @property
    def bodies(self) -> MongoBodies:
        return MongoBodies(self.documents)

    async def store(self, raw: bytes, *recipients: str) -> None:
        deliveries = tuple(a_delivery(r, self.organisation_id) for r in recipients)
        envelope = an_envelope(raw, deliveries=deliveries)
        mail = Understood(envelope, pack(raw, understand(raw)))
        await store(self.rows, self.bodies, [mail], now=NOW)

    async def kinds(self) -> set[Kind]:
        queue = await self.queues.open()
        found = verify(self.rows, self.bodies, (), Tally(), queue.named)
        return {finding.kind async for finding in found}

    @property
    def variables(self) -> dict[str, str]:
        """Say where all of it is, as an operator does."""
        names = ("host", "port", "username", "password", "database")
        asked = ("DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME")
        rows = {name: str(getattr(self.url, part)) for name, part in zip(asked, names, strict=True)}
        return rows | {
            "MONGODB_URL": services.variables("mongodb")["MONGODB_URL"],
            "MONGODB_DATABASE": self.documents.name,
            "RABBITMQ_URL": self.queues.url,
            "RABBITMQ_QUEUE": self.queues.name,
            "QUEUE_MAX_BYTES": "1GiB",
            "JWT_SECRET": "j" * 40,
            "API_TOKEN_SALT": "s" * 40,
        }

    def plant(self, statement: str, **values: object) -> None:
        with mysql.connected(self.url) as connection:
            changed = connection.execute(text(statement), values).rowcount
            assert changed == 1, "the fault must hit exactly one row"

    async def plant_a_body(self) -> IngestId:
        """Leave a body as a worker does that ended before it wrote the rows."""
        ingest_id = IngestId(new_id(1_000_000_000_000))
        known = await self.documents["bodies"].find_one({})
        assert known is not None
        key = (ingest_id + self.organisation_id).hex()
        await self.documents["kept"].insert_one({"_id": key, "blobs": [], "files": []})
        await self.documents["bodies"].insert_one({**known, "_id": key, "attachments": []})
        return ingest_id


@pytest.fixture
async def kept(migrated_mysql: URL) -> AsyncIterator[Kept]:
    organisation = Organisation(
        id=an_organisation_id(), slug="acme", name="Acme", tier="unlimited", created_at=NOW
    )
    async with (
        mysql.rows_of(migrated_mysql) as rows,
        open_database() as documents,
        open_queues() as queues,
    ):
        await rows.write(tiers.ensure, UNLIMITED)
        await rows.write(Session.add, organisation)
        kept = Kept(migrated_mysql, rows, documents, queues, organisation.id)
        await kept.bodies.prepare()
        await kept.store(PLAIN, "one@mail.example.com", "two@mail.example.com")
        await kept.store(WITH_ATTACHMENT, "one@mail.example.com")
        await kept.store(PLAIN, "three@mail.example.com")
        yield kept


async def _delete_a_body(kept: Kept) -> None:
    body = await kept.documents["bodies"].find_one({}, {"_id": 1})
    assert body is not None
    assert (await kept.documents["bodies"].delete_one(body)).deleted_count == 1


async def _flip_a_byte(kept: Kept) -> None:
    body = await kept.documents["bodies"].find_one({})
    assert body is not None
    raw = bytearray(body["raw"])
    raw[-1] ^= 1
    await kept.documents["bodies"].replace_one({"_id": body["_id"]}, {**body, "raw": bytes(raw)})


async def _remove_a_row(kept: Kept) -> None:
    kept.plant("DELETE FROM messages ORDER BY number LIMIT 1")


async def _miscount(kept: Kept) -> None:
    kept.plant("UPDATE `usage` SET emails = emails + 1")


async def _remove_an_event(kept: Kept) -> None:
    kept.plant("DELETE FROM events WHERE sequence = 2")


async def _forget_the_words(kept: Kept) -> None:
    kept.plant("DELETE FROM message_search ORDER BY number LIMIT 1")


async def _exchange_the_words(kept: Kept) -> None:
    kept.plant("UPDATE message_search SET words = 'foo' ORDER BY number LIMIT 1")


async def _miscount_storage(kept: Kept) -> None:
    kept.plant("UPDATE organisations SET storage_bytes = storage_bytes - 1")


async def _skip_a_number(kept: Kept) -> None:
    kept.plant("UPDATE organisations SET sequence = sequence + 1")


async def _leave_a_body(kept: Kept) -> None:
    await kept.plant_a_body()


Plant = Callable[[Kept], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (_delete_a_body, Kind.BODY_MISSING),
        (_flip_a_byte, Kind.BODY_DAMAGED),
        (_remove_a_row, Kind.STORAGE_DIFFERS),
        (_miscount, Kind.USAGE_DIFFERS),
        (_remove_an_event, Kind.EVENT_MISSING),
        (_forget_the_words, Kind.SEARCH_MISSING),
        (_exchange_the_words, Kind.SEARCH_MISSING),
        (_miscount_storage, Kind.STORAGE_DIFFERS),
        (_skip_a_number, Kind.SEQUENCE_DIFFERS),
        (_leave_a_body, Kind.BODY_NEVER_STORED),
    ],
)
async def test_names_the_fault(
    kept: Kept, plant: Plant, kind: Kind, mailtape: Forked, tmp_path: Path
) -> None:
    """And so does the command, which ends with 1."""
    assert await kept.kinds() == set(), "the control"

    await plant(kept)

    assert kind in await kept.kinds()
    ended = await asyncio.to_thread(
        mailtape.run, "verifydata", cwd=tmp_path, settings=kept.variables
    )
    assert ended.returncode == 1, ended.stderr
    assert f"{kind}: " in ended.stdout


async def test_spares_bodies_while_anything_waits_in_the_queue(kept: Kept) -> None:
    ingest_id = await kept.plant_a_body()
    queue = await kept.queues.open()

    await queue.put(an_envelope(PLAIN, ingest_id=ingest_id), PLAIN)

    assert await kept.kinds() == set()


async def test_tells_of_a_deleted_messages_body_without_calling_it_a_fault(kept: Kept) -> None:
    await kept.rows.write(messages.delete_oldest, kept.organisation_id, 2, now=NOW)

    assert await kept.kinds() == {Kind.BODY_LEFT_OVER}
