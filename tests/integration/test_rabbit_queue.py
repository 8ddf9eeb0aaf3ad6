"""What only the queue on RabbitMQ can meet: a broker, and connections that break."""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import pytest
import structlog
from aio_pika.abc import AbstractIncomingMessage

import services
from contract import rabbit
from contract.rabbit import RabbitQueues
from fakes import a_delivery, an_envelope, an_organisation_id
from mailtape.data_folder import DataFolder
from mailtape.domain.envelope import Envelope
from mailtape.domain.errors import Conflict, StoreFull, Unavailable
from mailtape.domain.ids import IngestId, new_id
from mailtape.domain.tier import UNLIMITED
from mailtape.mime.pack import pack
from mailtape.mime.understand import understand
from mailtape.opening import opened
from mailtape.ports.queue import Leased, QueueDepth
from mailtape.rows import tiers
from mailtape.rows.database import Session
from mailtape.rows.organisations import Organisation
from mailtape.services.processing import Understood, store
from mailtape.services.retention import sweep_claims
from mailtape.settings import read_settings
from mailtape.stores import bounded_claims, rabbit_parked, rabbit_topology
from mailtape.stores.rabbit_consuming import LATE_SECONDS
from mailtape.stores.rabbit_mail import CLAIM_OCTETS, RabbitMail
from mailtape.stores.rabbit_queue import RabbitQueue
from mailtape.stores.rabbit_topology import DELIVERY_LIMIT, Difference, RabbitTopology
from services import Instance

pytestmark = pytest.mark.services

SECONDS = 20
"""For what takes a fraction of one."""

LARGE = secrets.token_bytes(CLAIM_OCTETS + 1)


@pytest.fixture
async def queues() -> AsyncIterator[RabbitQueues]:
    async with rabbit.open_queues() as opened:
        yield opened


@pytest.fixture
async def queue(queues: RabbitQueues) -> RabbitQueue:
    return await queues.open()


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """A broker of these tests' own, to be killed."""
    with services.running("rabbitmq") as started:
        yield started


@pytest.fixture
async def own_queues(instance: Instance) -> AsyncIterator[RabbitQueues]:
    url = instance.variables()["RABBITMQ_URL"]
    async with rabbit.open_queues(url, settle_seconds=rabbit_topology.SETTLE_SECONDS) as opened:
        yield opened


async def put(queue: RabbitQueue, raw: bytes) -> IngestId:
    envelope = an_envelope(raw)
    await queue.put(envelope, raw)
    return envelope.ingest_id


async def lease(queue: RabbitQueue, mails: int) -> list[Leased]:
    leased: list[Leased] = []
    async with asyncio.timeout(SECONDS):
        while len(leased) < mails:
            leased += await queue.lease(mails - len(leased), 2**30)
    return leased


async def fill(queue: RabbitQueue, octets: int) -> int:
    """Puts mails until one is refused; tells how many were kept."""
    for kept in range(20):
        try:
            await put(queue, bytes(octets))
        except StoreFull:
            return kept
    raise AssertionError("it takes whatever comes")


async def becomes(queue: RabbitQueue, depth: QueueDepth) -> bool:
    async with asyncio.timeout(SECONDS):
        while await queue.depth() != depth:
            await asyncio.sleep(0.05)
    return True


async def put_again(queue: RabbitQueue, raw: bytes) -> float:
    """Puts a mail as a sender does who is told to come again; tells how long it took."""
    started = time.monotonic()
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await put(queue, raw)
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return time.monotonic() - started


async def seen_by_the_broker(queues: RabbitQueues, side: str = "") -> AbstractIncomingMessage:
    """Looks at the first message by the bare driver."""
    async with await aio_pika.connect(queues.url) as connection:
        channel = await connection.channel()
        found = await (await channel.get_queue(queues.name + side)).get(fail=True)
        await found.reject(requeue=True)
        return found


def cut(queue: RabbitQueue) -> None:
    """Ends the connection that a queue consumes by as the death of its process does."""
    connection = queue._consuming._link._connection
    assert connection is not None
    assert connection.transport is not None
    transport = connection.transport.connection._writer_task.task.get_coro().cr_frame
    transport.f_locals["writer"].transport.abort()


# What stands at the broker


async def test_a_mail_is_persistent_and_has_a_message_id_of_its_own(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    envelope = an_envelope(b"one")
    for _ in range(2):  # the same mail, as a sender who heard nothing gives it
        await queue.put(envelope, b"one")

    first = await seen_by_the_broker(queues)
    [mail] = await lease(queue, 1)
    await queue.acknowledge([mail.receipt])
    await lease(queue, 1)
    await queue.close()
    async with asyncio.timeout(SECONDS):
        second = await seen_by_the_broker(queues)

    assert first.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert first.headers["ingest-id"] == second.headers["ingest-id"]
    assert first.message_id != second.message_id


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-queue-type": "classic"},
        {"x-queue-type": "quorum", "x-max-length-bytes": 2**30},
        {"x-queue-type": "quorum", "x-max-length-bytes": 2**30, "x-message-ttl": 1000},
    ],
)
async def test_a_queue_that_could_lose_mail_is_refused_by_name(
    queues: RabbitQueues, arguments: dict[str, str | int]
) -> None:
    async with await aio_pika.connect(queues.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queues.name, durable=True, arguments=arguments)
    other = RabbitQueue(queues.url, queues.name, queues.claims, max_bytes=12_345)

    with pytest.raises(Conflict, match=queues.name):
        await other.declare()
    with pytest.raises(Conflict, match=queues.name):
        await other.start()
    await other.close()


@pytest.mark.parametrize("max_bytes", [1000, 100_000])
async def test_another_bound_keeps_nobody_from_starting_and_is_told(
    queues: RabbitQueues, max_bytes: int
) -> None:
    old = await queues.open(max_bytes=10_000)
    before = await put(old, b"before")

    with structlog.testing.capture_logs() as logged:
        new = await queues.open(max_bytes=max_bytes)
        await new.declare()
    after = await put(new, b"after")

    told = [entry for entry in logged if entry["event"] == "rabbitmq.declared_otherwise"]
    assert {entry["queue"] for entry in told} == {queues.name}
    assert {entry["argument"] for entry in told} == {"x-max-length-bytes"}
    assert {(entry["wanted"], entry["in_force"]) for entry in told} == {(max_bytes, 10_000)}
    assert 1 <= await fill(new, 2000) < 10, "what the queue was made with"
    assert [mail.envelope.ingest_id for mail in await lease(new, 2)] == [before, after]


async def test_another_release_may_limit_deliveries_otherwise(queues: RabbitQueues) -> None:
    await queues.open(max_bytes=10_000)
    arguments = {**RabbitTopology(queues.name, 20_000).arguments[queues.name]}
    async with await aio_pika.connect(queues.url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(queues.name)
        channel = await connection.channel()
        del arguments["x-max-length-bytes"]
        await channel.declare_queue(
            queues.name, durable=True, arguments=arguments | {"x-delivery-limit": 77}
        )
        differences = await RabbitTopology(queues.name, 20_000).declare(connection)

    assert set(differences) == {
        Difference(queues.name, "x-delivery-limit", DELIVERY_LIMIT, 77),
        Difference(queues.name, "x-max-length-bytes", 20_000, None),
    }


async def test_the_bound_is_changed_as_the_operator_is_told_to() -> None:
    with services.own_vhost() as given:
        url = given["RABBITMQ_URL"]
        async with rabbit.open_queues(url) as queues:
            old = await queues.open(max_bytes=20_000)
            host = url.rpartition("/")[2]
            policy = ("bound", f"^{queues.name}$", '{"max-length-bytes": 3000}')
            services.rabbitmqctl("set_policy", "--vhost", host, *policy, "--apply-to", "queues")
            async with asyncio.timeout(SECONDS):
                while not 1 <= (kept := await fill(old, 2000)) < 4:  # until it is in force
                    leased = await lease(old, kept)
                    await old.acknowledge([mail.receipt for mail in leased])

            await queues.close()
            services.rabbitmqctl("clear_policy", "--vhost", host, "bound")
            services.rabbitmqctl("delete_queue", "--vhost", host, queues.name)
            new = await queues.open(max_bytes=30_000)
            assert await fill(new, 2000) > 10


async def test_declaring_twice_changes_nothing(queue: RabbitQueue) -> None:
    await put(queue, b"one")

    await queue.declare()

    assert [mail.raw for mail in await lease(queue, 1)] == [b"one"]


async def test_what_can_be_routed_nowhere_is_not_kept_and_the_queue_is_made_anew(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    async with await aio_pika.connect(queues.url) as connection:
        await (await connection.channel()).queue_delete(queues.name)

    with pytest.raises(Unavailable):
        await put(queue, b"one")

    assert await put_again(queue, b"two") < SECONDS
    assert [mail.raw for mail in await lease(queue, 1)] == [b"two"]


async def test_an_envelope_of_many_recipients_passes(queue: RabbitQueue) -> None:
    """It is larger than a frame, and what stands in headers must fit into one."""
    deliveries = tuple(
        a_delivery(f"{'r' * 50}{number}@{'sub' * 15}.example.com") for number in range(2000)
    )
    envelope = an_envelope(b"one", deliveries=deliveries)

    await queue.put(envelope, b"one")

    [mail] = await lease(queue, 1)
    assert mail.envelope == envelope


async def test_an_envelope_that_cannot_be_read_is_parked_and_the_rest_is_offered(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    async with await aio_pika.connect(queues.url) as connection:
        channel = await connection.channel(on_return_raises=True)
        for body in (b"", b"\0\0\0\1\xc1raw", b"\xff\xff\xff\xff"):
            await channel.default_exchange.publish(aio_pika.Message(body), queues.name)
    await put(queue, b"two")

    leasing = asyncio.create_task(lease(queue, 2))
    assert await becomes(queue, QueueDepth(waiting=0, leased=1, parked=3))
    leasing.cancel()
    assert [mail.reason for mail in await queue.parked(10)] == ["its envelope cannot be read"] * 3


# Large mail


async def test_a_large_mail_lies_in_the_store_of_claims_until_it_is_acknowledged(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    ingest_id = await put(queue, LARGE)

    assert len((await seen_by_the_broker(queues)).body) < 1000
    [mail] = await lease(queue, 1)
    await queue.retry(mail.receipt, 0.1)
    [mail] = await lease(queue, 1)
    assert (mail.raw, mail.tries) == (LARGE, 1)
    assert await queues.claims.fetch(ingest_id) == LARGE
    await queue.acknowledge([mail.receipt])
    assert await queues.claims.fetch(ingest_id) is None


async def test_the_claim_of_a_parked_mail_goes_when_it_is_dropped(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    ingest_id = await put(queue, LARGE)
    [mail] = await lease(queue, 1)
    await queue.park(mail.receipt, "cannot be stored")

    [parked] = await queue.parked(10)
    assert await queue.parked_raw(parked.receipt) == LARGE
    assert await queue.drop(parked.receipt)

    assert await queues.claims.fetch(ingest_id) is None


async def test_a_refused_mail_leaves_no_claim(queues: RabbitQueues) -> None:
    queue = await queues.open(max_bytes=1000)
    await fill(queue, 1000)
    envelope = an_envelope(LARGE)

    with pytest.raises(StoreFull):
        await queue.put(envelope, LARGE)

    assert await queues.claims.fetch(envelope.ingest_id) is None


async def test_what_is_claimed_has_the_bound_of_the_queue_in_all_processes_together(
    queues: RabbitQueues,
) -> None:
    queue = await queues.open(max_bytes=3 * len(LARGE))
    other = await queues.open(max_bytes=3 * len(LARGE))
    for each in (queue, queue, other):
        await put(each, LARGE)
    await asyncio.sleep(bounded_claims.ASKED_SECONDS)

    for each in (queue, other):
        envelope = an_envelope(LARGE)
        with pytest.raises(StoreFull):
            await each.put(envelope, LARGE)
        assert await queues.claims.fetch(envelope.ingest_id) is None
    await put(other, b"small")

    leased = await lease(queue, 4)
    await queue.acknowledge([mail.receipt for mail in leased])
    await asyncio.sleep(bounded_claims.ASKED_SECONDS)
    await put(queue, LARGE)
    await put(other, LARGE)


async def test_large_mails_that_come_at_once_do_not_pass_the_bound_together(
    queues: RabbitQueues,
) -> None:
    queue = await queues.open(max_bytes=3 * len(LARGE))

    ends = await asyncio.gather(*(put(queue, LARGE) for _ in range(12)), return_exceptions=True)

    assert sum(isinstance(end, StoreFull) for end in ends) == 9
    assert await queues.claims.octets() == 3 * len(LARGE)


async def test_a_mail_whose_claim_is_gone_is_parked(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    ingest_id = await put(queue, LARGE)
    await queues.claims.delete([ingest_id])
    await put(queue, b"two")

    assert [mail.raw for mail in await lease(queue, 1)] == [b"two"]
    assert [mail.reason for mail in await queue.parked(10)] == ["its raw bytes are gone"]


async def test_a_stored_mail_whose_claim_is_gone_is_forgotten(
    queue: RabbitQueue,
    queues: RabbitQueues,
    tmp_path: Path,
    migrated_rows: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker offers it again that died before it had written the acknowledgement down."""
    monkeypatch.setenv("RABBITMQ_URL", queues.url)
    monkeypatch.setenv("RABBITMQ_QUEUE", queues.name)
    folder = DataFolder(tmp_path)
    shutil.copy(migrated_rows, folder.rows)
    async with opened(read_settings(tmp_path / "none.env"), folder) as stores:
        assert stores.claims is not None
        now = datetime.now(UTC)
        acme = Organisation(
            id=an_organisation_id(), slug="acme", name="Acme", tier="unlimited", created_at=now
        )
        await stores.database.write(tiers.ensure, UNLIMITED)
        await stores.database.write(Session.add, acme)
        to_acme = (a_delivery(organisation_id=acme.id),)
        stored, lost = (an_envelope(LARGE, deliveries=to_acme) for _ in range(2))
        understood = Understood(stored, pack(LARGE, understand(LARGE)))
        await store(stores.database, stores.bodies, [understood], now=now)
        for envelope in (stored, lost):
            await stores.queue.put(envelope, LARGE)
            await stores.claims.delete([envelope.ingest_id])
        await put(queue, b"two")

        async with asyncio.timeout(SECONDS):
            [mail] = await stores.queue.lease(3, 2**20)
        await stores.queue.acknowledge([mail.receipt])

        assert mail.raw == b"two"
        assert [each.envelope.ingest_id for each in await queue.parked(10)] == [lost.ingest_id]
        assert await becomes(queue, QueueDepth(waiting=0, leased=0, parked=1))


# Leases and the death of workers


async def test_thirty_dead_workers_dead_letter_no_mail(queues: RabbitQueues) -> None:
    """Each dies with its prefetch full, and the broker holds that against every mail in it."""
    publisher = await queues.open()
    raws = [str(number).encode() for number in range(60)]
    for raw in raws:
        await put(publisher, raw)

    for _ in range(30):
        worker = await queues.open(prefetch=50)
        assert len(await lease(worker, 50)) == 50
        cut(worker)
        await worker.close()

    assert await becomes(publisher, QueueDepth(waiting=60, leased=0, parked=0))
    leased = await lease(publisher, 60)
    assert sorted(mail.raw for mail in leased) == sorted(raws)
    assert {mail.tries for mail in leased} == {0}


async def test_a_mail_that_ends_ever_more_workers_is_parked_whole(
    queues: RabbitQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbit_topology, "DELIVERY_LIMIT", 3)
    queue = await queues.open()
    await put(queue, b"one")

    for _ in range(4):
        await lease(queue, 1)
        await rabbit.lose_connection(queue)

    assert await becomes(queue, QueueDepth(waiting=0, leased=0, parked=1))
    [parked] = await queue.parked(10)
    assert parked.reason == "every worker that took it ended without a word"
    assert await queue.parked_raw(parked.receipt) == b"one"


async def test_a_released_mail_is_not_held_to_have_failed(
    queues: RabbitQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is down for a night would park all mail otherwise."""
    monkeypatch.setattr(rabbit_topology, "DELIVERY_LIMIT", 3)
    queue = await queues.open()
    await put(queue, b"one")

    for _ in range(20):
        [mail] = await lease(queue, 1)
        await queue.release([mail.receipt])

    assert await becomes(queue, QueueDepth(waiting=1, leased=0, parked=0))


async def test_what_is_said_about_a_lost_lease_is_void(queue: RabbitQueue) -> None:
    for raw in (b"one", b"two", b"three", b"four"):
        await put(queue, raw)
    one, two, three, four = (mail.receipt for mail in await lease(queue, 4))
    await rabbit.lose_connection(queue)
    again = await lease(queue, 4)

    await queue.acknowledge([one])
    await queue.retry(two, 0)
    await queue.park(three, "cannot be stored")
    await queue.release([four])

    assert await becomes(queue, QueueDepth(waiting=0, leased=4, parked=0))
    assert sorted(mail.raw for mail in again) == [b"four", b"one", b"three", b"two"]


async def test_what_comes_over_a_connection_that_was_given_up_is_not_taken_for_what_comes_anew(
    queues: RabbitQueues,
) -> None:
    """Its tags mean other mails on the next channel, which would be acknowledged unseen."""
    writer = await queues.open()
    kept = set(await asyncio.gather(*(put(writer, bytes(50_000)) for _ in range(200))))
    for _ in range(4):
        worker = await queues.open(prefetch=300)
        first = asyncio.create_task(worker.lease(1, 1))
        consuming = worker._consuming
        async with asyncio.timeout(SECONDS):
            while not consuming._held:
                await asyncio.sleep(0)
            consuming._link.reopen()
            await asyncio.sleep(0.1)
            await asyncio.gather(first, return_exceptions=True)
            while len(consuming._held) < len(kept):
                await asyncio.sleep(0.01)

        held = [delivery.mail.ingest_id for delivery in consuming._held.values() if delivery.mail]
        assert len(held) == len(kept)
        assert set(held) == kept
        tags = [delivery.tag for delivery in consuming._held.values()]
        assert tags == list(range(1, len(kept) + 1))
        await worker.close()


async def test_mails_are_acknowledged_in_any_order(queue: RabbitQueue) -> None:
    """A word that covers too much would lose one of those that are not finished."""
    raws = [str(number).encode() for number in range(30)]
    for raw in raws:
        await put(queue, raw)
    leased = await lease(queue, 30)
    unfinished = {4, 11, 12, 25}

    for chosen in (range(20, 30), range(5), range(8, 20), range(5, 8)):
        await queue.acknowledge([leased[n].receipt for n in chosen if n not in unfinished])

    await rabbit.lose_connection(queue)
    assert [mail.raw for mail in await lease(queue, 4)] == [raws[n] for n in sorted(unfinished)]
    assert await becomes(queue, QueueDepth(waiting=0, leased=4, parked=0))


async def test_an_acknowledgement_ends_with_the_connection_that_it_was_to_be_told_by(
    queue: RabbitQueue,
) -> None:
    """However many words it takes; who waited for it then would keep all others from speaking."""
    await asyncio.gather(*(put(queue, bytes(1)) for _ in range(200)))
    leased = await lease(queue, 200)
    cut(queue)

    async with asyncio.timeout(SECONDS):
        await queue.acknowledge([mail.receipt for mail in leased[1::2]])

    again = await lease(queue, 200)
    await queue.acknowledge([mail.receipt for mail in again])
    assert await becomes(queue, QueueDepth(waiting=0, leased=0, parked=0))


# Parked mail, seen by another process


async def test_a_look_at_parked_mail_takes_nothing_and_keeps_its_order(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    for number in range(5):
        await put(queue, str(number).encode())
    for mail in await lease(queue, 5):
        await queue.park(mail.receipt, f"reason {mail.raw.decode()}")
    other = await queues.open()

    looks = [await other.parked(most) for most in (10, 3, 10)]

    assert [mail.reason for mail in looks[0]] == [f"reason {number}" for number in range(5)]
    assert (looks[1], looks[2]) == (looks[0][:3], looks[0])
    assert await other.parked_raw(looks[0][3].receipt) == b"3"
    assert await other.drop(looks[0][1].receipt)
    assert [mail.reason[-1] for mail in await queue.parked(10)] == ["0", "2", "3", "4"]


async def test_a_mail_that_was_parked_twice_is_dropped_whole(queue: RabbitQueue) -> None:
    envelope = an_envelope(b"one")
    for _ in range(2):
        await queue.put(envelope, b"one")
    for mail in await lease(queue, 2):
        await queue.park(mail.receipt, "cannot be stored")

    assert await queue.drop((await queue.parked(1))[0].receipt)

    assert await queue.parked(10) == []


async def test_a_mail_stays_parked_when_there_is_no_room_for_it(queues: RabbitQueues) -> None:
    queue = await queues.open(max_bytes=2000, prefetch=1)
    await put(queue, b"one")
    [mail] = await lease(queue, 1)
    await queue.park(mail.receipt, "cannot be stored")
    [parked] = await queue.parked(10)
    await fill(queue, 2000)

    with pytest.raises(StoreFull):
        await queue.unpark(parked.receipt)
    with pytest.raises(StoreFull):
        await queue.unpark_some(10)

    assert [mail.receipt for mail in await queue.parked(10)] == [parked.receipt]


@contextlib.asynccontextmanager
async def looking(queue: RabbitQueue, receipt: int) -> AsyncIterator[None]:
    """Looks at parked mail for as long as the context lasts; takes the mail out at its end."""
    looks, enough = asyncio.Event(), asyncio.Event()

    async def look(_: RabbitMail) -> None:
        looks.set()
        await enough.wait()

    look_at_all = asyncio.create_task(queue._parked.take_out(receipt, look))
    async with asyncio.timeout(SECONDS):
        await looks.wait()
        try:
            yield
        finally:
            enough.set()
            with contextlib.suppress(Unavailable):  # of whom the connection was cut
                await look_at_all


async def park(queue: RabbitQueue, *envelopes: Envelope) -> list[int]:
    """Parks a small mail of each; gives the receipts, the oldest first."""
    for envelope in envelopes:
        await queue.put(envelope, b"one")
        [mail] = await lease(queue, 1)
        await queue.park(mail.receipt, "cannot be stored")
    return [mail.receipt for mail in await queue.parked(len(envelopes))]


async def test_who_looks_while_another_looks_sees_all_there_is_afterwards(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    other = await queues.open()
    *others, last = await park(queue, *(an_envelope(b"one") for _ in range(5)))

    async with looking(queue, last):
        seen = asyncio.create_task(other.parked(10))
        await asyncio.sleep(0.2)

    assert [mail.receipt for mail in await seen] == others


async def test_who_looks_right_after_another_sees_all_there_is(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    """More than a quorum queue takes back at once."""
    other = await queues.open()
    mails = 100
    await asyncio.gather(*(put(queue, b"one") for _ in range(mails)))
    for mail in await lease(queue, mails):
        await queue.park(mail.receipt, "cannot be stored")

    seen = [len(await each.parked(mails)) for each in (queue, other) * 3]

    assert seen == [mails] * len(seen)


async def test_mail_is_found_and_offered_again_beyond_what_the_broker_sends_at_once(
    queue: RabbitQueue, queues: RabbitQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else finds less than there is as soon as it is done."""
    monkeypatch.setattr(rabbit_parked, "_WINDOW", 8)
    other = await queues.open()
    mails = 30
    await asyncio.gather(*(put(queue, b"one") for _ in range(mails)))
    for mail in await lease(queue, mails):
        await queue.park(mail.receipt, "cannot be stored")

    seen = []
    for _ in range(2):
        last = (await queue.parked(mails))[-1]
        assert await queue.drop(last.receipt)
        assert await queue.unpark_some(10) == 10
        seen.append(len(await other.parked(mails)))

    assert seen == [19, 8]
    assert len(await lease(queue, 20)) == 20


async def test_no_more_is_fetched_than_is_offered_again(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    """What was fetched needlessly would be on its way back when the next looks."""
    await park(queue, *(an_envelope(b"one") for _ in range(5)))
    before = await fetched(queues)

    assert await queue.unpark_some(2) == 2

    assert (before, await fetched(queues)) == ([1] * 5, [2] * 3)


async def fetched(queues: RabbitQueues) -> list[int]:
    """Tells of each parked mail how often it was fetched before; counts as once more."""
    async with await aio_pika.connect(queues.url) as connection:
        parked = await (await connection.channel()).get_queue(f"{queues.name}.parked")
        counts = []
        while (message := await parked.get(fail=False)) is not None:
            counts.append(int(str(message.headers.get("x-delivery-count", 0))))
        return counts


async def test_only_what_there_was_room_for_is_parked_no_more(queue: RabbitQueue) -> None:
    receipts = await park(queue, *(an_envelope(b"one") for _ in range(6)))
    refused = (receipts[1], receipts[4], receipts[5])

    async def offer(mail: RabbitMail) -> None:
        if rabbit_parked._receipt(mail.ingest_id) in refused:
            raise StoreFull("The queue is full.")

    assert await queue._parked.take_some(6, offer) == 3
    assert tuple(mail.receipt for mail in await queue.parked(6)) == refused
    with pytest.raises(StoreFull):
        await queue._parked.take_some(6, offer)
    assert tuple(mail.receipt for mail in await queue.parked(6)) == refused


async def test_who_looks_in_vain_for_long_is_told_that_another_does(
    queue: RabbitQueue, queues: RabbitQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbit_parked, "_PATIENCE_SECONDS", 0.3)
    other = await queues.open()
    [receipt] = await park(queue, an_envelope(b"one"))

    async with looking(queue, receipt):
        with pytest.raises(Unavailable, match="Another process looks"):
            await other.parked(10)

    assert await other.parked(10) == []


async def test_a_look_ends_with_the_process_that_looks(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    other = await queues.open()
    receipts = await park(queue, *(an_envelope(b"one") for _ in range(3)))

    async with looking(queue, receipts[0]), asyncio.timeout(SECONDS):
        queue._parked._link.reopen()
        while len(await other.parked(10)) < 3:
            await asyncio.sleep(0.05)

    assert [mail.receipt for mail in await other.parked(10)] == receipts


async def test_what_is_counted_does_not_wait_for_a_look(queue: RabbitQueue) -> None:
    receipts = await park(queue, *(an_envelope(b"one") for _ in range(2)))

    async with looking(queue, receipts[0]), asyncio.timeout(SECONDS):
        await queue.depth()
        await queue.check_room()


async def test_asking_for_room_leaves_nothing_to_be_leased(queues: RabbitQueues) -> None:
    queue = await queues.open(max_bytes=2000)
    kept = await fill(queue, 2000)
    with pytest.raises(StoreFull):
        await queue.check_room()
    await queue.acknowledge([mail.receipt for mail in await lease(queue, kept)])

    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await queue.check_room()
                break
            except StoreFull:
                await asyncio.sleep(0.05)

    await put(queue, b"two")
    assert [mail.raw for mail in await lease(queue, 1)] == [b"two"]
    assert await becomes(queue, QueueDepth(waiting=0, leased=1, parked=0))


# Which mail has left


FROM = datetime(2026, 11, 3, 12, tzinfo=UTC)


async def left_before(queue: RabbitQueue, *seconds: float) -> list[float | None]:
    """Asks at these times; gives how long before each all mail was kept that has left."""
    told = []
    for since in seconds:
        now = FROM + timedelta(seconds=since)
        before = await queue.left_before(now)
        told.append(None if before is None else (now - before).total_seconds())
    return told


def accepted_ago(seconds: float, raw: bytes = b"one") -> Envelope:
    return an_envelope(raw, ingest_id=IngestId(new_id(int((time.time() - seconds) * 1000))))


async def test_all_has_left_when_all_looks_of_45_seconds_found_nothing(queue: RabbitQueue) -> None:
    assert await left_before(queue, 0, 15, 30, 44, 45, 60) == [None] * 4 + [45, 45]


async def test_looks_that_were_too_far_apart_tell_nothing(queue: RabbitQueue) -> None:
    assert await left_before(queue, 0, 15, 30, 90, 100) == [None] * 5


async def test_mail_that_waits_has_not_left_and_time_begins_anew(queue: RabbitQueue) -> None:
    await put(queue, b"one")
    while_waiting = await left_before(queue, 0, 15, 30, 45, 60)
    await queue.acknowledge([mail.receipt for mail in await lease(queue, 1)])
    afterwards = await left_before(queue, 75, 90, 105, 120)

    assert while_waiting == [None] * 5
    assert afterwards == [None] * 3 + [45]


async def test_mail_that_becomes_late_in_the_hands_of_another_has_not_left(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    await queue.put(accepted_ago(LATE_SECONDS - 3), b"one")
    worker = await queues.open()
    [mail] = await lease(worker, 1)
    assert (await queue.depth()).waiting == 0
    young = await left_before(queue, 0)  # of a mail so young nothing is told either
    await asyncio.sleep(5)

    while_held = await left_before(queue, 15, 30, 45, 60)
    await worker.release([mail.receipt])  # it stays with that process
    while_given_back = await left_before(queue, 75)
    await worker.acknowledge([each.receipt for each in await lease(worker, 1)])
    afterwards = await left_before(queue, 90, 105, 120, 135)

    assert (young, while_held, while_given_back) == ([None], [None] * 4, [None])
    assert afterwards == [None] * 3 + [45]


async def test_mail_that_is_tried_again_later_has_not_left_and_parked_mail_has(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    worker = await queues.open()
    await queue.put(accepted_ago(60), b"one")
    [mail] = await lease(worker, 1)
    await worker.retry(mail.receipt, 8)
    while_delayed = await left_before(queue, 0, 15, 30, 45)
    [mail] = await lease(worker, 1)
    while_tried = await left_before(queue, 60)
    await worker.park(mail.receipt, "it will not do")

    assert while_delayed == [None] * 4
    assert while_tried == [None]
    assert await left_before(queue, 75, 90, 105, 120) == [None] * 3 + [45]


# The orphan sweep


async def test_names_everything_while_anything_waits(queue: RabbitQueue) -> None:
    await put(queue, b"one")
    some = IngestId(new_id(1))

    assert await queue.named([some]) == {some}


async def test_names_everything_while_another_process_holds_late_mail(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    two_days_ago_ms = int((time.time() - 2 * 86_400) * 1000)
    late = an_envelope(b"one", ingest_id=IngestId(new_id(two_days_ago_ms)))
    await queue.put(late, b"one")
    worker = await queues.open()
    [mail] = await lease(worker, 1)
    some = IngestId(new_id(two_days_ago_ms))

    while_held = await queue.named([some, late.ingest_id])
    await worker.acknowledge([mail.receipt])
    afterwards = await queue.named([some, late.ingest_id])

    assert while_held == {some, late.ingest_id}
    assert afterwards == set()


async def test_mail_that_becomes_late_again_after_all_was_stored_is_told_of_again(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    worker = await queues.open()
    for _ in range(2):
        await queue.put(accepted_ago(60), b"one")
        [mail] = await lease(worker, 1)
        assert await queue.named([IngestId(new_id(1))]) != set()
        await worker.acknowledge([mail.receipt])
        assert await queue.named([IngestId(new_id(1))]) == set()


async def test_young_mail_in_other_hands_stops_no_sweep(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    await put(queue, b"one")
    worker = await queues.open()
    await lease(worker, 1)

    assert await queue.named([IngestId(new_id(1))]) == set()


async def test_parked_mail_is_named_whoever_else_looks(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    others = [await queues.open() for _ in range(2)]
    envelopes = [accepted_ago(3 * 86_400) for _ in range(20)]
    await park(queue, *envelopes)
    parked = {envelope.ingest_id for envelope in envelopes}

    named = await asyncio.gather(*(each.named(list(parked)) for each in (queue, *others)))

    assert named == [parked] * 3


async def test_parked_mail_that_is_offered_again_during_the_look_is_named(
    queue: RabbitQueue, queues: RabbitQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await queues.open()
    envelope = accepted_ago(3 * 86_400)
    [receipt] = await park(queue, envelope)
    may_have_mail = queue._may_have_mail
    offering: list[asyncio.Task[bool]] = []

    async def then_offer_again() -> bool:
        found = await may_have_mail()
        offering.append(asyncio.create_task(other.unpark(receipt)))
        await asyncio.wait(offering, timeout=0.5)
        return found

    monkeypatch.setattr(queue, "_may_have_mail", then_offer_again)

    assert await queue.named([envelope.ingest_id]) == {envelope.ingest_id}
    assert await offering[0]


async def test_claims_go_when_no_queue_names_their_mail(
    queue: RabbitQueue, queues: RabbitQueues
) -> None:
    now = datetime.now(UTC)
    long_ago_ms = int((now - timedelta(days=3)).timestamp() * 1000)
    orphan, parked = (IngestId(new_id(long_ago_ms)) for _ in range(2))
    await queues.claims.keep(orphan, LARGE)
    await queue.put(an_envelope(LARGE, ingest_id=parked), LARGE)
    young = an_envelope(LARGE).ingest_id
    await queues.claims.keep(young, LARGE)
    while_it_waits = await sweep_claims(queues.claims, queue, now=now)
    [mail] = await lease(queue, 1)
    await queue.park(mail.receipt, "cannot be stored")

    assert while_it_waits == 0
    assert await sweep_claims(queues.claims, queue, now=now) == 1

    assert await queues.claims.fetch(orphan) is None
    assert await queues.claims.fetch(parked) == await queues.claims.fetch(young) == LARGE


# A broker that fails


async def test_what_was_confirmed_is_there_after_the_broker_was_killed(
    own_queues: RabbitQueues, instance: Instance
) -> None:
    queue = await own_queues.open()
    numbers = iter(range(2000))
    confirmed: set[bytes] = set()
    refused = 0

    async def publish() -> None:
        nonlocal refused
        for number in numbers:
            raw = b"%d " % number + bytes(5000)
            try:
                await queue.put(an_envelope(raw), raw)
                confirmed.add(raw)
            except Unavailable:
                refused += 1

    async def kill() -> None:
        while len(confirmed) < 300:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(instance.kill, "rabbitmq")

    async with asyncio.timeout(120):
        await asyncio.gather(kill(), *(publish() for _ in range(50)))
        assert refused > 0
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await put(queue, b"while it is down")
        assert time.monotonic() - started < 5, "half the time of a publish"
        await asyncio.to_thread(instance.start, "rabbitmq")
        assert await put_again(queue, b"last") < 10

        found: set[bytes] = set()
        while b"last" not in found or not confirmed <= found:
            leased = await queue.lease(500, 2**30)
            found |= {mail.raw for mail in leased}
            await queue.acknowledge([mail.receipt for mail in leased])
    assert await queue.parked(1) == []


async def test_a_broker_that_stands_still_costs_no_more_than_the_time_of_a_publish(
    own_queues: RabbitQueues, instance: Instance
) -> None:
    queue = await own_queues.open(publish_seconds=1)
    await put_again(queue, b"one")
    instance.pause("rabbitmq")
    started = time.monotonic()

    with pytest.raises(Unavailable):
        await put(queue, b"two")

    assert time.monotonic() - started < 5
    instance.resume("rabbitmq")
    await put_again(queue, b"three")
    raws = {mail.raw for mail in await lease(queue, 2)}
    assert {b"one"} <= raws <= {b"one", b"two", b"three"}


async def test_a_broker_without_memory_takes_no_mail_and_gives_out_what_it_has(
    own_queues: RabbitQueues, instance: Instance
) -> None:
    """Which shows too that nobody publishes by the connection that others consume by."""
    queue = await own_queues.open(publish_seconds=1)
    for raw in (b"one", b"two"):
        await put_again(queue, raw)
    await lease(queue, 1)
    instance.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        async with asyncio.timeout(SECONDS):
            while True:  # until the broker has noticed
                started = time.monotonic()
                try:
                    await put(queue, b"three")
                except Unavailable:
                    break
        assert time.monotonic() - started < 5
        for raw in (b"four", LARGE):
            with pytest.raises(Unavailable):
                await put(queue, raw)
        assert await own_queues.claims.octets() == 0
        [mail] = await lease(queue, 1)
        await queue.acknowledge([mail.receipt])
    finally:
        instance.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "2GB")

    await put_again(queue, b"five")
    async with asyncio.timeout(SECONDS):
        raws: set[bytes] = set()
        while b"five" not in raws:
            raws |= {mail.raw for mail in await queue.lease(100, 2**20)}
    assert not raws & {b"four", LARGE}  # they waited here, and were never sent


async def test_a_process_that_starts_before_the_broker_works_when_it_comes(
    own_queues: RabbitQueues, instance: Instance
) -> None:
    await (await own_queues.open()).close()
    instance.stop("rabbitmq")
    queue = await own_queues.open()
    with pytest.raises(Unavailable):
        await queue.check_room()

    await asyncio.to_thread(instance.start, "rabbitmq")

    assert await put_again(queue, b"one") < 10
    await queue.check_room()
    assert [mail.raw for mail in await lease(queue, 1)] == [b"one"]
