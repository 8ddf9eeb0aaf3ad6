"""Every fault is planted in real files, behind the program's back, and must be named."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embedded import Stores, open_stores
from fakes import a_delivery, an_envelope
from mailtape.data_folder import DataFolder
from mailtape.domain.ids import IngestId, OrganisationId, new_id, to_text
from mailtape.domain.tier import UNLIMITED
from mailtape.mime.pack import pack
from mailtape.mime.understand import understand
from mailtape.rows import messages, tiers
from mailtape.rows.database import Session
from mailtape.rows.organisations import Organisation
from mailtape.services import verification
from mailtape.services.processing import Understood, store
from mailtape.services.retention import Bounds, trim
from mailtape.services.verification import Finding, Kind, Tally, verify
from mailtape.stores.sqlite_queue_contents import contents

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PLAIN = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: plain\r\n\r\nwords\r\n"
WITH_ATTACHMENT = (
    b"Subject: with attachment\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n'
    b"--x\r\nContent-Type: text/plain\r\n\r\ntext\r\n"
    b'--x\r\nContent-Type: application/pdf; name="a.pdf"\r\n'
    b"Content-Disposition: attachment; filename=a.pdf\r\n\r\nbytes of a file\r\n--x--\r\n"
)


@dataclass
class Kept:
    """A folder with four messages of three mails in it."""

    folder: DataFolder
    stores: Stores
    organisation_id: OrganisationId

    async def findings(self) -> list[Finding]:
        found = verify(
            self.stores.database, self.stores.bodies, contents(self.folder.queue), Tally()
        )
        return [finding async for finding in found]

    async def kinds(self) -> set[Kind]:
        return {finding.kind for finding in await self.findings()}

    def plant(self, path: Path, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            changed = connection.execute(statement, values).rowcount
            assert changed == 1, "the fault must hit exactly one row"

    def ask(self, path: Path, query: str) -> list[tuple[bytes]]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(query).fetchall()

    async def store(self, raw: bytes, *recipients: str) -> IngestId:
        envelope = an_envelope(
            raw, deliveries=tuple(a_delivery(r, self.organisation_id) for r in recipients)
        )
        mail = Understood(envelope, pack(raw, understand(raw)))
        await store(self.stores.database, self.stores.bodies, [mail], now=NOW)
        return envelope.ingest_id


@pytest.fixture(params=[5000, 1], autouse=True)
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at everything in large pages, and in ones as small as can be."""
    for name in ("_PAGE", "_ROWS", "_COUNTED"):
        monkeypatch.setattr(verification, name, request.param)


@pytest.fixture
async def kept(tmp_path: Path, migrated_rows: Path) -> AsyncIterator[Kept]:
    folder = DataFolder(tmp_path)
    shutil.copy(migrated_rows, folder.rows)
    stores = open_stores(folder, queue_max_bytes=2**20)
    organisation_id = OrganisationId(new_id(0))

    await stores.database.write(tiers.ensure, UNLIMITED)
    acme = Organisation(
        id=organisation_id, slug="acme", name="Acme", tier="unlimited", created_at=NOW
    )
    await stores.database.write(Session.add, acme)
    kept = Kept(folder, stores, organisation_id)
    await kept.store(PLAIN, "one@mail.example.com", "two@mail.example.com")
    await kept.store(WITH_ATTACHMENT, "one@mail.example.com")
    await kept.store(PLAIN, "three@mail.example.com")
    try:
        yield kept
    finally:
        stores.close()


async def test_finds_nothing_on_clean_data(kept: Kept) -> None:
    await kept.stores.queue.put(an_envelope(PLAIN), PLAIN)
    tally = Tally()

    found = verify(kept.stores.database, kept.stores.bodies, contents(kept.folder.queue), tally)

    assert [finding async for finding in found] == []
    assert tally == Tally(
        organisations=1, messages=4, messages_with_body=4, bodies=3, attachments=1, queued=1
    )


async def test_names_a_message_whose_body_was_deleted(kept: Kept) -> None:
    (ingest_id,) = kept.ask(kept.folder.rows, "SELECT ingest_id FROM messages WHERE number = 4")[0]
    kept.plant(kept.folder.bodies, "DELETE FROM bodies WHERE ingest_id = ?", ingest_id)

    (finding,) = await kept.findings()

    assert finding.kind is Kind.BODY_MISSING
    assert to_text(ingest_id) in finding.what


@pytest.mark.parametrize("part", ["raw", "content"])
@pytest.mark.parametrize("place", [0, 6, -1])
async def test_names_a_body_with_a_flipped_byte(kept: Kept, part: str, place: int) -> None:
    query = f"SELECT ingest_id, {part} FROM bodies ORDER BY ingest_id"
    ingest_id, blob = kept.ask(kept.folder.bodies, query)[0]
    flipped = bytearray(blob)
    flipped[place] ^= 0x40
    statement = f"UPDATE bodies SET {part} = ? WHERE ingest_id = ?"
    kept.plant(kept.folder.bodies, statement, bytes(flipped), ingest_id)

    found = await kept.findings()

    assert {finding.kind for finding in found} == {Kind.BODY_DAMAGED}
    assert all(to_text(ingest_id) in finding.what for finding in found)


async def test_names_a_flipped_byte_in_an_attachment(kept: Kept) -> None:
    ((data,),) = kept.ask(kept.folder.bodies, "SELECT data FROM attachments")
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    kept.plant(kept.folder.bodies, "UPDATE attachments SET data = ?", flipped)

    assert await kept.kinds() == {Kind.BODY_DAMAGED}


async def test_names_a_body_that_was_exchanged_for_another_sound_one(kept: Kept) -> None:
    kept.plant(
        kept.folder.bodies,
        "UPDATE bodies SET (raw, raw_size, raw_sha256) ="
        " (SELECT raw, raw_size, raw_sha256 FROM bodies WHERE raw_size = ?) WHERE raw_size = ?",
        len(WITH_ATTACHMENT),
        len(WITH_ATTACHMENT),
    )
    assert await kept.kinds() == set(), "the control: exchanged for itself"
    kept.plant(
        kept.folder.bodies,
        "UPDATE bodies SET (raw, raw_size, raw_sha256) ="
        " (SELECT raw, raw_size, raw_sha256 FROM bodies WHERE raw_size = ? LIMIT 1)"
        " WHERE raw_size = ?",
        len(PLAIN),
        len(WITH_ATTACHMENT),
    )

    assert await kept.kinds() == {Kind.MESSAGE_DIFFERS}


@pytest.mark.parametrize("row", [1, 2, 3, 4])
async def test_names_what_a_removed_row_leaves(kept: Kept, row: int) -> None:
    kept.plant(kept.folder.rows, "DELETE FROM messages WHERE number = ?", row)

    found = await kept.findings()

    assert {Kind.SEARCH_WITHOUT_MESSAGE, Kind.STORAGE_DIFFERS} <= {f.kind for f in found}
    assert any(f"entry {row}" in finding.what for finding in found)


@pytest.mark.parametrize("by", [-1, 1])
async def test_names_usage_that_is_off_by_one(kept: Kept, by: int) -> None:
    kept.plant(kept.folder.rows, "UPDATE usage SET emails = emails + ?", by)

    (finding,) = await kept.findings()

    assert finding.kind is Kind.USAGE_DIFFERS
    assert "acme" in finding.what


@pytest.mark.parametrize("sequence", [1, 2, 3, 4])
async def test_names_the_message_whose_event_is_missing(kept: Kept, sequence: int) -> None:
    kept.plant(kept.folder.rows, "DELETE FROM events WHERE sequence = ?", sequence)

    found = await kept.findings()

    assert {Kind.EVENT_MISSING, Kind.USAGE_DIFFERS} <= {finding.kind for finding in found}
    assert any(f"event {sequence}" in finding.what for finding in found)


async def test_names_a_message_that_is_entered_with_the_words_of_another(kept: Kept) -> None:
    kept.plant(kept.folder.rows, "UPDATE message_search SET words = 'foo' WHERE rowid = 2")

    (finding,) = await kept.findings()

    assert finding.kind is Kind.SEARCH_MISSING
    assert "number 2" in finding.what


async def test_names_a_message_without_a_search_entry(kept: Kept) -> None:
    kept.plant(kept.folder.rows, "DELETE FROM message_search WHERE rowid = 2")

    (finding,) = await kept.findings()

    assert finding.kind is Kind.SEARCH_MISSING
    assert "number 2" in finding.what


PLANTS: dict[Kind, Callable[[Kept], None]] = {
    Kind.STORAGE_DIFFERS: lambda k: k.plant(
        k.folder.rows, "UPDATE organisations SET storage_bytes = storage_bytes - 1"
    ),
    Kind.SEQUENCE_DIFFERS: lambda k: k.plant(
        k.folder.rows, "UPDATE organisations SET sequence = sequence + 1"
    ),
    Kind.ATTACHMENT_MISSING: lambda k: k.plant(k.folder.bodies, "DELETE FROM attachments"),
    Kind.ATTACHMENT_UNNAMED: lambda k: k.plant(
        k.folder.bodies,
        "INSERT INTO attachments SELECT ingest_id, organisation_id, '2', 2, size, sha256, data"
        " FROM attachments",
    ),
    Kind.MESSAGE_DIFFERS: lambda k: k.plant(
        k.folder.rows, "UPDATE messages SET attachments = 2 WHERE number = 3"
    ),
    Kind.ORGANISATION_MISSING: lambda k: k.plant(
        k.folder.rows, "UPDATE messages SET organisation_id = ? WHERE number = 4", bytes(16)
    ),
    Kind.SEARCH_DAMAGED: lambda k: k.plant(
        k.folder.rows, "UPDATE message_search_content SET c1 = 'other words' WHERE id = 1"
    ),
    Kind.SEARCH_MISSING: lambda k: k.plant(
        k.folder.rows, "UPDATE message_search SET organisation = 'b' WHERE rowid = 1"
    ),
    Kind.EVENT_MISSING: lambda k: k.plant(
        k.folder.rows, "UPDATE events SET message_id = ? WHERE sequence = 2", bytes(16)
    ),
}


@pytest.mark.parametrize("kind", PLANTS, ids=str)
async def test_names_other_faults_too(kept: Kept, kind: Kind) -> None:
    PLANTS[kind](kept)

    assert kind in await kept.kinds()


async def test_names_a_body_that_never_had_a_message(kept: Kept) -> None:
    kept.plant(
        kept.folder.bodies,
        "INSERT INTO bodies SELECT ?, organisation_id, content_size, content_sha256, raw_size,"
        " raw_sha256, content, raw FROM bodies LIMIT 1",
        new_id(1_000_000_000_000),
    )

    assert await kept.kinds() == {Kind.BODY_NEVER_STORED}


async def test_is_not_misled_by_another_mail_of_the_same_millisecond(kept: Kept) -> None:
    (ingest_id,) = kept.ask(kept.folder.bodies, "SELECT ingest_id FROM bodies LIMIT 1")[0]
    kept.plant(
        kept.folder.bodies,
        "INSERT INTO bodies SELECT ?, organisation_id, content_size, content_sha256, raw_size,"
        " raw_sha256, content, raw FROM bodies LIMIT 1",
        ingest_id[:6] + bytes(10),
    )

    assert await kept.kinds() == {Kind.BODY_NEVER_STORED}


async def test_spares_the_body_of_a_mail_that_is_still_queued(kept: Kept) -> None:
    envelope = an_envelope(
        PLAIN,
        ingest_id=IngestId(new_id(1_000_000_000_000)),
        deliveries=(a_delivery(organisation_id=kept.organisation_id),),
    )
    await kept.stores.queue.put(envelope, PLAIN)
    kept.plant(
        kept.folder.bodies,
        "INSERT INTO bodies SELECT ?, organisation_id, content_size, content_sha256, raw_size,"
        " raw_sha256, content, raw FROM bodies LIMIT 1",
        envelope.ingest_id,
    )

    assert await kept.kinds() == set()


async def test_tells_of_a_deleted_messages_body_without_calling_it_a_fault(kept: Kept) -> None:
    await kept.stores.database.write(messages.delete_oldest, kept.organisation_id, 2, now=NOW)

    (finding,) = await kept.findings()

    assert finding.kind is Kind.BODY_LEFT_OVER
    assert not finding.is_fault


async def test_finds_nothing_after_retention_has_forgotten_events(kept: Kept) -> None:
    stores = kept.stores
    bounds = Bounds(messages=1, storage_bytes=2**30)

    deleted = await trim(stores.database, stores.bodies, kept.organisation_id, bounds, now=NOW)

    assert deleted == 3
    assert await kept.findings() == []


async def test_names_a_queued_mail_that_is_cut_short_or_unreadable(kept: Kept) -> None:
    await kept.stores.queue.put(an_envelope(PLAIN), PLAIN)
    await kept.stores.queue.put(an_envelope(PLAIN), PLAIN)
    kept.plant(kept.folder.queue, "UPDATE mail SET raw = substr(raw, 2) WHERE number = 1")
    kept.plant(kept.folder.queue, "UPDATE mail SET envelope = x'00' WHERE number = 2")

    found = await kept.findings()

    assert [finding.kind for finding in found] == [Kind.QUEUED_DAMAGED] * 2


async def test_names_a_mail_that_is_queued_twice(kept: Kept) -> None:
    envelope = an_envelope(PLAIN)
    await kept.stores.queue.put(envelope, PLAIN)
    await kept.stores.queue.put(envelope, PLAIN)

    assert await kept.kinds() == {Kind.QUEUED_TWICE}
