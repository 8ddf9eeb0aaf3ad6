"""What goes and what stays when there is too much."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fakes import a_delivery, an_envelope
from installation import Installation
from mailtape.domain.ids import IngestId, OrganisationId, new_id
from mailtape.domain.query import MessageQuery
from mailtape.ports.bodies import Blob, Body, BodyKey
from mailtape.rows import events, messages
from mailtape.rows.usage import Usage
from mailtape.rows.writing_thread import WritingThread
from mailtape.services import retention
from mailtape.services.retention import Bounds, sweep, trim
from mailtape.stores.sqlite_queue import SqliteQueue
from postroom import a_mail, deliver, deliver_envelope

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PLENTY = 2**40


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


async def subjects(installation: Installation, organisation_id: OrganisationId) -> list[str]:
    found = await installation.parts.database.read(
        messages.find, organisation_id, MessageQuery(), limit=200
    )
    return [message.subject for message in found]


async def deliver_numbered(
    installation: Installation, organisation_id: OrganisationId, count: int
) -> None:
    for number in range(count):
        await deliver(
            installation,
            organisation_id,
            a_mail(subject=str(number)),
            accepted_us=1_795_000_000_000_000 + number * 1_000_000,
        )


async def trim_to(
    installation: Installation, organisation_id: OrganisationId, bounds: Bounds
) -> int:
    parts = installation.parts
    return await trim(parts.database, parts.bodies, organisation_id, bounds, now=NOW)


async def test_keeps_the_newest_messages_and_deletes_the_bodies_of_the_rest(
    installation: Installation, acme: OrganisationId
) -> None:
    await deliver_numbered(installation, acme, 10)

    deleted = await trim_to(installation, acme, Bounds(4, PLENTY))

    assert deleted == 6
    assert await subjects(installation, acme) == ["9", "8", "7", "6"]
    assert len(await installation.parts.bodies.keys(None, 100)) == 4


async def test_keeps_the_newest_that_fit_into_the_bytes(
    installation: Installation, acme: OrganisationId
) -> None:
    await deliver_numbered(installation, acme, 10)
    size = len(a_mail(subject="0"))

    await trim_to(installation, acme, Bounds(100, 3 * size))

    assert await subjects(installation, acme) == ["9", "8", "7"]


async def test_leaves_what_is_within_its_bounds_alone(
    installation: Installation, acme: OrganisationId
) -> None:
    await deliver_numbered(installation, acme, 3)

    assert await trim_to(installation, acme, Bounds(3, PLENTY)) == 0
    assert len(await subjects(installation, acme)) == 3


async def test_leaves_the_mail_of_others_alone(
    installation: Installation, acme: OrganisationId
) -> None:
    other = await installation.an_organisation("other")
    await deliver_numbered(installation, acme, 3)
    await deliver_numbered(installation, other, 3)

    await trim_to(installation, acme, Bounds(1, PLENTY))

    assert len(await subjects(installation, other)) == 3


async def test_a_month_still_counts_what_was_trimmed_and_its_events_were_forgotten(
    installation: Installation, acme: OrganisationId
) -> None:
    await deliver_numbered(installation, acme, 10)

    await trim_to(installation, acme, Bounds(4, PLENTY))

    database = installation.parts.database
    usage = await database.read(lambda session: session.query(Usage).one())
    left = await database.read(lambda session: session.query(events.Event).count())
    assert (usage.emails, usage.emails_forgotten, left) == (10, 6, 4)


def _body(key: BodyKey) -> Body:
    blob = Blob(b"x", 1, b"y" * 32)
    return Body(key, blob, blob, (("1", blob),))


async def _swept(installation: Installation) -> int:
    parts = installation.parts
    return await sweep(parts.database, parts.bodies, parts.queue, now=NOW)


def _aged(age: timedelta) -> IngestId:
    return IngestId(new_id(int((NOW - age).timestamp() * 1000)))


async def test_sweeps_old_bodies_that_nothing_names(
    installation: Installation, acme: OrganisationId
) -> None:
    bodies = installation.parts.bodies
    old = BodyKey(_aged(timedelta(days=2)), acme)
    young = BodyKey(_aged(timedelta(hours=1)), acme)
    await bodies.keep([_body(old), _body(young)])

    assert await _swept(installation) == 1

    assert await bodies.keys(None, 10) == [young]


async def test_sweeps_page_by_page_and_looks_at_no_page_of_young_ones(
    installation: Installation, acme: OrganisationId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SWEPT_AT_ONCE", 3)
    monkeypatch.setattr(retention, "_CHUNK", 2)
    bodies = installation.parts.bodies
    old = [BodyKey(_aged(timedelta(days=2, minutes=number)), acme) for number in range(7)]
    young = [BodyKey(_aged(timedelta(minutes=number)), acme) for number in range(7)]
    await bodies.keep([_body(key) for key in (*old, *young)])
    pages, keys = list[int](), bodies.keys

    async def counted(after: BodyKey | None, most: int) -> list[BodyKey]:
        page = await keys(after, most)
        pages.append(len(page))
        return page

    monkeypatch.setattr(bodies, "keys", counted)

    assert await _swept(installation) == 7

    assert pages == [3, 3, 3]
    assert await keys(None, 100) == sorted(young)


async def test_spares_bodies_that_a_message_or_the_queue_names(
    installation: Installation, acme: OrganisationId
) -> None:
    long_ago = NOW - timedelta(days=30)
    await deliver(installation, acme, accepted_us=int(long_ago.timestamp() * 1e6))
    waiting = _aged(timedelta(days=3))
    await installation.parts.queue.put(an_envelope(b"x", ingest_id=waiting), b"x")
    await installation.parts.bodies.keep([_body(BodyKey(waiting, acme))])

    assert await _swept(installation) == 0


class _StoredBetweenTheLooks(SqliteQueue):
    """The real queue; a worker stores the mail and acknowledges it right before it is asked."""

    installation: Installation
    organisation_id: OrganisationId

    async def named(self, ingest_ids: Sequence[IngestId]) -> set[IngestId]:
        [mail] = await self.lease(1, 2**20)
        await deliver_envelope(self.installation, mail.envelope, mail.raw)
        await self.acknowledge([mail.receipt])
        return await super().named(ingest_ids)


async def test_spares_the_body_of_a_mail_that_is_stored_while_the_sweep_looks(
    installation: Installation, acme: OrganisationId, tmp_path: Path
) -> None:
    parts = installation.parts
    writing = WritingThread()
    queue = _StoredBetweenTheLooks(tmp_path / "other.sqlite3", writing, max_bytes=2**30)
    queue.installation, queue.organisation_id = installation, acme
    raw = a_mail()
    long_ago = NOW - timedelta(days=3)
    waiting = an_envelope(
        raw,
        ingest_id=_aged(timedelta(days=3)),
        accepted_us=int(long_ago.timestamp() * 1e6),
        deliveries=(a_delivery(organisation_id=acme),),
    )
    await queue.put(waiting, raw)
    await parts.bodies.keep([_body(BodyKey(waiting.ingest_id, acme))])

    deleted = await sweep(parts.database, parts.bodies, queue, now=NOW)

    writing.stop()
    queue.close()
    assert deleted == 0
    assert await parts.bodies.keys(None, 10) == [BodyKey(waiting.ingest_id, acme)]
