"""From the queue to visible rows, with real parsing processes and real stores."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from fakes import a_delivery, an_envelope
from mailtape import opening
from mailtape.data_folder import DataFolder
from mailtape.domain.message import Content
from mailtape.domain.query import MessageQuery
from mailtape.mime.pack import unpack_bytes, unpack_content
from mailtape.ports.bodies import BodyKey
from mailtape.ports.queue import Leased
from mailtape.rows import messages
from mailtape.rows.database import Session
from mailtape.rows.messages import Listed, Message
from mailtape.services.wakeups import Wakeups
from mailtape.settings import read_settings
from mailtape.stores.sqlite_queue import SqliteQueue
from mailtape_workers.consumer import Consumer, ConsumerSettings
from mailtape_workers.parsers import ParserSettings
from unit.workers.conftest import House


def _mail(subject: str, body: bytes = b"text\r\n") -> bytes:
    return f"Subject: {subject}\r\nFrom: Ann <ann@example.org>\r\n\r\n".encode() + body


async def _put(house: House, raw: bytes, **changes: Any) -> None:
    delivery = a_delivery(organisation_id=house.organisation_id)
    await house.stores.queue.put(an_envelope(raw, **{"deliveries": (delivery,), **changes}), raw)


@asynccontextmanager
async def _consuming(house: House, **changes: Any) -> AsyncIterator[tuple[Consumer, Wakeups]]:
    wakeups = Wakeups()
    settings = ConsumerSettings(**{"workers": 1, "retry_seconds": 0.05, **changes})
    stores = house.stores
    consumer = Consumer(
        stores.queue, stores.bodies, stores.database, wakeups, settings, lambda: datetime.now(UTC)
    )
    await consumer.start()
    try:
        yield consumer, wakeups
    finally:
        await consumer.stop()


async def _list(house: House) -> list[Listed]:
    return await house.stores.database.read(
        messages.find, house.organisation_id, MessageQuery(), limit=200
    )


async def _until_stored(house: House, wakeups: Wakeups, count: int) -> list[Listed]:
    async with asyncio.timeout(60), wakeups.watch(house.organisation_id) as woken:
        while len(found := await _list(house)) < count:
            await woken.wait(1)
    return found


async def _until_empty(house: House) -> None:
    async with asyncio.timeout(60):
        while (depth := await house.stores.queue.depth()).waiting or depth.leased:
            await asyncio.sleep(0.05)


async def _content(house: House, message: Listed) -> Content:
    blob = await house.stores.bodies.content(BodyKey(message.transaction, house.organisation_id))
    assert blob is not None
    return unpack_content(blob.zstd)


async def test_makes_accepted_mail_visible_and_empties_the_queue(house: House) -> None:
    raw = _mail("hello")
    async with _consuming(house) as (_, wakeups):
        await _put(house, raw)

        [message] = await _until_stored(house, wakeups, 1)
        await _until_empty(house)

    assert (message.subject, message.sender.address) == ("hello", "ann@example.org")
    key = BodyKey(message.transaction, house.organisation_id)
    blob = await house.stores.bodies.raw(key)
    assert blob is not None
    assert unpack_bytes(blob.zstd) == raw


async def test_makes_one_message_of_each_recipient_over_one_body(house: House) -> None:
    recipients = [f"qa+{n}@mail.example.com" for n in range(3)]
    deliveries = tuple(a_delivery(r, house.organisation_id) for r in recipients)
    async with _consuming(house) as (_, wakeups):
        await _put(house, _mail("to three"), deliveries=deliveries)

        found = await _until_stored(house, wakeups, 3)

    assert {message.address for message in found} == set(recipients)
    assert len({message.transaction for message in found}) == 1
    assert len(await house.stores.bodies.keys(None, 10)) == 1


async def test_stores_a_replayed_mail_once(house: House) -> None:
    raw = _mail("again")
    envelope = an_envelope(raw, deliveries=(a_delivery(organisation_id=house.organisation_id),))
    async with _consuming(house):
        for _ in range(3):
            await house.stores.queue.put(envelope, raw)
        await _until_empty(house)

    [message] = await _list(house)
    assert message.sequence == 1


async def test_who_waits_is_woken_by_a_repeat_too(house: House) -> None:
    raw = _mail("again")
    envelope = an_envelope(raw, deliveries=(a_delivery(organisation_id=house.organisation_id),))
    async with _consuming(house) as (_, wakeups):
        await house.stores.queue.put(envelope, raw)
        await _until_stored(house, wakeups, 1)
        await _until_empty(house)

        async with wakeups.watch(house.organisation_id) as woken:
            await house.stores.queue.put(envelope, raw)

            assert await woken.wait(10), "who stored it first may have died before it told anybody"


async def test_recognises_what_postfix_delivers_again_by_its_queue_id(house: House) -> None:
    async with _consuming(house):
        for queue_id in ("4Zk1", "4Zk1", "4Zk2"):
            await _put(house, _mail("once more"), queue_id=queue_id)
        await _until_empty(house)

    assert len(await _list(house)) == 2
    assert len(await house.stores.bodies.keys(None, 10)) == 2


async def test_keeps_identical_mails_of_two_transactions_apart(house: House) -> None:
    async with _consuming(house):
        for _ in range(2):
            await _put(house, _mail("twin"))
        await _until_empty(house)

    assert len(await _list(house)) == 2


async def test_a_mail_deleted_meanwhile_does_not_come_back(house: House) -> None:
    raw = _mail("gone")
    envelope = an_envelope(raw, deliveries=(a_delivery(organisation_id=house.organisation_id),))
    async with _consuming(house) as (_, wakeups):
        await house.stores.queue.put(envelope, raw)
        [message] = await _until_stored(house, wakeups, 1)
        now = datetime.now(UTC)
        await house.stores.database.write(
            messages.delete, house.organisation_id, message.id, now=now
        )

        await house.stores.queue.put(envelope, raw)
        await _until_empty(house)

    assert await _list(house) == []


async def test_a_killed_parser_costs_no_mail(house: House) -> None:
    async with _consuming(house) as (consumer, wakeups):
        for number in range(150):
            await _put(house, _mail(str(number)))
            if number % 50 == 25:
                for pid in consumer.parser_pids:
                    with suppress(ProcessLookupError):  # nobody has missed it since the last time
                        os.kill(pid, signal.SIGKILL)
        found = await _until_stored(house, wakeups, 150)
        await _until_empty(house)

    assert len({message.subject for message in found}) == 150


async def test_a_mail_that_kills_parsers_is_kept_unparsed_and_its_neighbours_are_unharmed(
    house: House,
) -> None:
    poison = _mail("poison", b"x" * (60 * 2**20))
    settings = {"parser": ParserSettings(memory_bytes=200 * 2**20), "batch_bytes": 2**30}
    for number in range(5):
        await _put(house, _mail(f"before {number}"))
    await _put(house, poison)
    await _put(house, _mail("after"))

    async with _consuming(house, **settings) as (_, wakeups):
        found = await _until_stored(house, wakeups, 7)

    [unparsed] = [message for message in found if message.unparsed]
    assert unparsed.subject == "poison"
    assert "unparsed" in (await _content(house, unparsed)).defects
    key = BodyKey(unparsed.transaction, house.organisation_id)
    blob = await house.stores.bodies.raw(key)
    assert blob is not None
    assert unpack_bytes(blob.zstd) == poison


def _forbid(session: Session, value: str, column: str = "subject") -> None:
    session.execute(
        text(
            "CREATE TRIGGER forbid BEFORE INSERT ON messages"
            f" WHEN new.{column} = '{value}' BEGIN SELECT raise(ABORT, 'forbidden'); END"
        )
    )


async def test_a_mail_that_cannot_be_stored_is_parked_and_its_neighbours_are_stored(
    house: House,
) -> None:
    await house.stores.database.write(_forbid, "unstorable")
    for subject in ("one", "unstorable", "two"):
        await _put(house, _mail(subject))

    async with _consuming(house) as (_, wakeups):
        found = await _until_stored(house, wakeups, 2)
        await _until_empty(house)

    assert {message.subject for message in found} == {"one", "two"}
    [parked] = await house.stores.queue.parked(10)
    assert await house.stores.queue.parked_raw(parked.receipt) == _mail("unstorable")
    assert parked.reason == "could not be stored: IntegrityError"


async def test_who_waits_is_woken_by_a_mail_that_is_parked_with_some_of_its_messages_stored(
    house: House,
) -> None:
    recipients = [f"qa+{number}@mail.example.com" for number in range(120)]
    deliveries = tuple(a_delivery(r, house.organisation_id) for r in recipients)
    await house.stores.database.write(_forbid, recipients[-1], "recipient")

    async with (
        _consuming(house, tries=1) as (_, wakeups),
        wakeups.watch(house.organisation_id) as woken,
    ):
        await _put(house, _mail("to many"), deliveries=deliveries)

        assert await woken.wait(10)
        assert len(await _list(house)) == 100


async def test_goes_on_after_the_queue_could_not_be_read(house: House, tmp_path: Path) -> None:
    await _put(house, _mail("patient"))
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as other:
        other.execute("ALTER TABLE mail RENAME TO out_of_reach")
        with capture_logs() as logs:
            async with _consuming(house) as (_, wakeups):
                async with asyncio.timeout(10):
                    while len([line for line in logs if line["event"] == "batch.released"]) < 3:
                        await asyncio.sleep(0.01)
                other.execute("ALTER TABLE out_of_reach RENAME TO mail")

                [message] = await _until_stored(house, wakeups, 1)

    assert message.subject == "patient"


class CutOff:
    """The real queue, of which the first leases end as on a connection that dies."""

    def __init__(self, queue: SqliteQueue, leases: int) -> None:
        self.queue = queue
        self.leases = leases

    async def lease(self, mails: int, octets: int) -> list[Leased]:
        self.leases -= 1
        if self.leases >= 0:
            raise asyncio.CancelledError
        return await self.queue.lease(mails, octets)

    def __getattr__(self, name: str) -> object:
        return getattr(self.queue, name)


async def test_a_lane_goes_on_after_its_lease_was_cancelled_by_another(house: House) -> None:
    queue: Any = CutOff(house.stores.queue, leases=5)
    cut_off = replace(house, stores=replace(house.stores, queue=queue))
    await _put(house, _mail("patient"))

    async with _consuming(cut_off) as (_, wakeups):
        [message] = await _until_stored(house, wakeups, 1)

    assert message.subject == "patient"
    assert queue.leases < 0


async def test_a_mail_to_very_many_is_stored_whole_and_numbered_without_holes(
    house: House,
) -> None:
    recipients = [f"qa+{number}@mail.example.com" for number in range(450)]
    deliveries = tuple(a_delivery(r, house.organisation_id) for r in recipients)

    async with _consuming(house):
        for _ in range(2):
            await _put(house, _mail("to very many"), deliveries=deliveries, queue_id="4Zk1")
        await _until_empty(house)

    sequences = await house.stores.database.read(
        lambda session: sorted(session.scalars(select(Message.sequence)))
    )
    assert sequences == list(range(1, 451))


async def test_a_mail_is_found_by_its_envelope(house: House) -> None:
    hidden = a_delivery("hidden.bcc@mail.example.com", house.organisation_id)
    async with _consuming(house) as (_, wakeups):
        await _put(house, _mail("x"), deliveries=(hidden,), mail_from="bounces@example.net")
        await _until_stored(house, wakeups, 1)

    for words in ("hidden.bcc@mail.example.com", "bounces@example.net"):
        found = await house.stores.database.read(
            messages.find, house.organisation_id, MessageQuery(words=words), limit=10
        )
        assert len(found) == 1


async def _batches_after(house: House, first: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Store so many at once and then three, one by one; give the sizes of the batches."""
    queue, sizes = house.stores.queue, list[int]()
    acknowledge = queue.acknowledge

    async def counted(receipts: Sequence[int]) -> None:
        sizes.append(len(receipts))
        await acknowledge(receipts)

    monkeypatch.setattr(queue, "acknowledge", counted)
    for number in range(first):
        await _put(house, _mail(f"first {number}"))
    async with _consuming(house, gather_seconds=5.0) as (_, wakeups):
        await _until_stored(house, wakeups, first)
        for number in range(3):
            await _put(house, _mail(f"then {number}"))
            await asyncio.sleep(0.01)
        await _until_stored(house, wakeups, first + 3)
        await _until_empty(house)
    return sizes


async def test_a_batch_grows_while_mail_flows(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _batches_after(house, 16, monkeypatch) == [16, 3]


async def test_mail_that_comes_alone_is_taken_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await _batches_after(house, 1, monkeypatch))[:2] == [1, 1]


async def test_all_lanes_but_one_stand_back_a_while_when_mail_arrives(house: House) -> None:
    looks = 0

    def arriving() -> bool:
        nonlocal looks
        looks += 1
        return True

    stores, wakeups = house.stores, Wakeups()
    for number in range(40):
        await _put(house, _mail(f"mail {number}"))
    consumer = Consumer(
        stores.queue,
        stores.bodies,
        stores.database,
        wakeups,
        ConsumerSettings(workers=1, batch_mails=1),
        lambda: datetime.now(UTC),
        arriving,
    )
    leased: list[tuple[bool, int]] = []

    async def watch() -> None:
        while True:
            leased.append((looks < 25, (await stores.queue.depth()).leased))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await consumer.start()
    try:
        await _until_stored(house, wakeups, 40)
    finally:
        watching.cancel()
        await consumer.stop()

    assert max(mails for standing_back, mails in leased if standing_back) == 1
    assert looks >= 25, "it goes on, though mail has not stopped arriving"


async def test_what_takes_mail_in_tells_what_stores_it_that_mail_arrives(tmp_path: Path) -> None:
    settings = read_settings(tmp_path / "none.env")
    async with opening.opened(settings, DataFolder(tmp_path)) as stores:
        assert not stores.arriving()

        raws = [b"%d" % number for number in range(8)]
        await asyncio.gather(*(stores.queue.put(an_envelope(raw), raw) for raw in raws))

        assert stores.arriving()
