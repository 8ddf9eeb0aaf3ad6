"""What a door holds for mail on its way, and gives back when it does not come."""

import asyncio

from mailtape.domain.errors import Unavailable
from mailtape.services.quota import Quota
from mailtape.stores.sqlite_queue import SqliteQueue
from mailtape_ingest.server import Deadlines
from wire.conftest import OpenHouse

QUEUE_ID = "4XyzQ1"


class FullQueue:
    """A queue that takes nothing as long as it is told so."""

    def __init__(self, queue: SqliteQueue) -> None:
        self.queue = queue
        self.full = True

    async def put(self, envelope: object, raw: bytes) -> None:
        if self.full:
            raise Unavailable("The queue is full.")
        await self.queue.put(envelope, raw)

    def __getattr__(self, name: str) -> object:
        return getattr(self.queue, name)


async def may_have_one(quota: Quota, transaction: str = "another") -> bool:
    """Whether there is room for the one mail that `once` may have; holds nothing."""
    judged = await quota.recipient("once@b", transaction=transaction, octets=0)
    if judged.decision.accepted:
        await quota.release(transaction, [judged])
    return judged.decision.accepted


async def until_there_is_room(quota: Quota) -> None:
    async with asyncio.timeout(5):
        while not await may_have_one(quota):
            await asyncio.sleep(0)


async def test_gives_back_what_a_lost_client_held(open_house: OpenHouse) -> None:
    house = await open_house()
    client = await house.client()
    await client.says("HELO a", "MAIL FROM:<>", "RCPT TO:<once@b>")
    assert not await may_have_one(house.quota)
    client.writer.transport.abort()
    await until_there_is_room(house.quota)


async def test_gives_back_what_a_client_held_that_went_within_its_mail(
    open_house: OpenHouse,
) -> None:
    house = await open_house()
    client = await house.client()
    await client.starts_data("once@b")
    await client.send(b"half a mail\r\n")
    assert not await may_have_one(house.quota)
    client.writer.transport.abort()
    await until_there_is_room(house.quota)


async def test_gives_back_what_a_client_held_that_fell_asleep(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(command=0.05, farewell=1))
    client = await house.client()
    await client.says("HELO a", "MAIL FROM:<>", "RCPT TO:<once@b>")
    assert await client.reply() == "421 4.4.2 Timed out"
    assert await may_have_one(house.quota)


async def test_gives_back_what_was_held_when_it_shuts_down(open_house: OpenHouse) -> None:
    house = await open_house()
    client = await house.client()
    await client.says("HELO a", "MAIL FROM:<>", "RCPT TO:<once@b>")
    leaving = asyncio.create_task(house.server.drain(5))
    assert await client.reply() == "421 4.3.2 Shutting down"
    await client.close()
    await leaving
    assert await may_have_one(house.quota)


async def test_gives_back_what_was_held_when_the_queue_takes_nothing(
    open_house: OpenHouse, queue: SqliteQueue
) -> None:
    house = await open_house(queue=FullQueue(queue))
    client = await house.client()
    replies = await client.says("HELO a", "MAIL FROM:<>", "RCPT TO:<once@b>", "DATA", ".")
    assert replies[-1].startswith("451 4.3.0")
    assert await may_have_one(house.quota)


async def test_gives_back_what_was_held_when_there_is_no_room_for_the_message(
    open_house: OpenHouse,
) -> None:
    house = await open_house(octets_in_flight=0)
    client = await house.client()
    replies = await client.says("HELO a", "MAIL FROM:<>", "RCPT TO:<once@b>", "DATA")
    assert replies[-1].startswith("452 4.3.1")
    await until_there_is_room(house.quota)


async def test_counts_a_mail_though_its_client_did_not_wait(open_house: OpenHouse) -> None:
    house = await open_house()
    client = await house.client()
    await client.starts_data("once@b")
    await client.send(b".\r\nQUIT\r\n")
    client.writer.write_eof()
    assert (await client.reply()).startswith("250")
    assert not await may_have_one(house.quota)


# Behind Postfix, whose policy request held the room.


async def held_by_the_policy_daemon(quota: Quota) -> None:
    judged = await quota.recipient("once@b", transaction="6d65.0", octets=0)
    assert judged.decision.accepted
    await quota.queued("6d65.0", QUEUE_ID)


async def test_a_mail_that_passes_policy_and_lmtp_is_counted_once(open_lmtp: OpenHouse) -> None:
    house = await open_lmtp()
    await held_by_the_policy_daemon(house.quota)
    client = await house.client()
    replies = await client.says(
        "LHLO relay",
        f"XFORWARD IDENT={QUEUE_ID}",
        "MAIL FROM:<>",
        "RCPT TO:<once@b>",
        "DATA",
        ".",
    )
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "250", "354", "250"]
    assert not await may_have_one(house.quota)
    # Postfix did not hear the reply and comes again.
    again = await client.says(
        f"XFORWARD IDENT={QUEUE_ID}", "MAIL FROM:<>", "RCPT TO:<once@b>", "DATA", "."
    )
    assert again[-1].startswith("250")


async def test_what_is_held_for_a_mail_in_postfixs_queue_stays_held(open_lmtp: OpenHouse) -> None:
    house = await open_lmtp()
    await held_by_the_policy_daemon(house.quota)
    client = await house.client()
    for end in ("RSET", "LHLO relay", "QUIT"):
        replies = await client.says(
            "LHLO relay", f"XFORWARD IDENT={QUEUE_ID}", "MAIL FROM:<>", "RCPT TO:<once@b>", end
        )
        assert replies[3].startswith("250")
    assert await client.is_hung_up_on()
    assert not await may_have_one(house.quota)
    assert await may_have_one(house.quota, transaction=QUEUE_ID)


async def test_a_queue_that_takes_nothing_costs_a_relay_no_room(
    open_lmtp: OpenHouse, queue: SqliteQueue
) -> None:
    full = FullQueue(queue)
    house = await open_lmtp(queue=full)
    await held_by_the_policy_daemon(house.quota)
    client = await house.client()
    mail = (f"XFORWARD IDENT={QUEUE_ID}", "MAIL FROM:<>", "RCPT TO:<once@b>", "DATA", ".")
    assert (await client.says("LHLO relay", *mail))[-1].startswith("451 4.3.0")
    full.full = False
    assert (await client.says(*mail))[-1].startswith("250")
    assert len(await house.kept()) == 1
