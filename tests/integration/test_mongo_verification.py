"""What `verifydata` and the sweep say of bodies in MongoDB, with faults planted in documents."""

import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.mongo import open_database
from embedded import Stores, open_stores
from fakes import a_delivery, an_envelope, an_organisation_id
from mailtape.data_folder import DataFolder
from mailtape.domain.ids import OrganisationId, new_id
from mailtape.domain.tier import UNLIMITED
from mailtape.mime.pack import pack
from mailtape.mime.understand import understand
from mailtape.rows import tiers
from mailtape.rows.database import Session
from mailtape.rows.organisations import Organisation
from mailtape.services.processing import Understood, store
from mailtape.services.retention import sweep
from mailtape.services.verification import Kind, Tally, verify
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_connection import Database
from mailtape.stores.sqlite_queue_contents import contents
from unit.services.test_verification import WITH_ATTACHMENT

pytestmark = pytest.mark.services

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Kept:
    """Two mails, one of them of an incompressible half mebibyte, with an attachment each."""

    folder: DataFolder
    stores: Stores
    mongo: Database
    organisation_id: OrganisationId

    @property
    def bodies(self) -> MongoBodies:
        return MongoBodies(self.mongo)

    async def store(self, raw: bytes) -> None:
        delivery = a_delivery("one@mail.example.com", self.organisation_id)
        mail = Understood(an_envelope(raw, deliveries=(delivery,)), pack(raw, understand(raw)))
        await store(self.stores.database, self.bodies, [mail], now=NOW)

    async def kinds(self) -> list[Kind]:
        queued = contents(self.folder.queue)
        found = verify(self.stores.database, self.bodies, queued, Tally())
        return [finding.kind async for finding in found]


@pytest.fixture
async def kept(tmp_path: Path, migrated_rows: Path) -> AsyncIterator[Kept]:
    folder = DataFolder(tmp_path)
    shutil.copy(migrated_rows, folder.rows)
    stores = open_stores(folder, queue_max_bytes=2**20)
    organisation = Organisation(
        id=an_organisation_id(), slug="acme", name="Acme", tier="unlimited", created_at=NOW
    )
    await stores.database.write(tiers.ensure, UNLIMITED)
    await stores.database.write(Session.add, organisation)
    try:
        async with open_database() as mongo:
            kept = Kept(folder, stores, mongo, organisation.id)
            await kept.bodies.prepare()
            await kept.store(WITH_ATTACHMENT)
            await kept.store(WITH_ATTACHMENT + _noise(700_000))
            yield kept
    finally:
        stores.close()


def _noise(size: int) -> bytes:
    return secrets.token_hex(size // 2).encode()


async def _lose_the_body(kept: Kept) -> None:
    first = await kept.mongo["bodies"].find_one({}, {"_id": 1})
    assert first is not None
    await kept.mongo["bodies"].delete_one(first)


async def _lose_a_raw(kept: Kept) -> None:
    large = [each async for each in kept.mongo["bodies"].find({}) if "raw" not in each]
    [body] = large
    blob = f"{body['_id']}/{body['raw_facts']['blob']}"
    assert (await kept.mongo["blobs"].delete_one({"_id": blob})).deleted_count == 1


async def _lose_an_attachment(kept: Kept) -> None:
    body = await kept.mongo["bodies"].find_one({})
    assert body is not None
    blob = f"{body['_id']}/{body['attachments'][0]['blob']}"
    assert (await kept.mongo["blobs"].delete_one({"_id": blob})).deleted_count == 1


async def _flip_a_byte(kept: Kept) -> None:
    blob = await kept.mongo["blobs"].find_one({})
    assert blob is not None
    data = bytearray(blob["data"])
    data[len(data) // 2] ^= 1
    await kept.mongo["blobs"].replace_one({"_id": blob["_id"]}, blob | {"data": bytes(data)})


async def _cut_a_keep_off(kept: Kept) -> None:
    long_ago = int((NOW - timedelta(days=2)).timestamp() * 1000)
    key = new_id(long_ago) + kept.organisation_id
    await kept.mongo["kept"].insert_one({"_id": key.hex(), "blobs": ["a"], "files": ["b"]})
    await kept.mongo["blobs"].insert_one({"_id": f"{key.hex()}/a", "data": b"a"})


Plant = Callable[[Kept], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (_lose_the_body, Kind.BODY_MISSING),
        (_lose_a_raw, Kind.BODY_MISSING),
        (_lose_an_attachment, Kind.ATTACHMENT_MISSING),
        (_flip_a_byte, Kind.BODY_DAMAGED),
        (_cut_a_keep_off, Kind.BODY_NEVER_STORED),
    ],
)
async def test_names_the_fault(kept: Kept, plant: Plant, kind: Kind) -> None:
    assert await kept.kinds() == []

    await plant(kept)

    assert await kept.kinds() == [kind]


async def test_the_sweep_takes_what_a_cut_off_keep_left_and_nothing_else(kept: Kept) -> None:
    await _cut_a_keep_off(kept)

    swept = await sweep(kept.stores.database, kept.bodies, kept.stores.queue, now=NOW)

    assert swept == 1
    assert await kept.kinds() == []
    assert await kept.mongo["kept"].count_documents({}) == 2
    assert await kept.mongo["blobs"].count_documents({"data": b"a"}) == 0
