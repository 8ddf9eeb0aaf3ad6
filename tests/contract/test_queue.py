"""What `ports.queue` promises, asked of every implementation."""

import asyncio
from collections.abc import Callable

import pytest

from contract.conftest import Clock
from fakes import a_delivery, an_envelope
from mailtape.domain.errors import StoreFull
from mailtape.ports.queue import Backlog, Leased, Queue, QueueDepth

OpenQueue = Callable[..., Queue]


async def _put(queue: Queue, *raws: bytes) -> None:
    await asyncio.gather(*(queue.put(an_envelope(raw), raw) for raw in raws))


async def _lease(queue: Queue, most: int = 100, most_bytes: int = 2**20) -> list[Leased]:
    async with asyncio.timeout(10):
        return await queue.lease(most, most_bytes)


async def _nothing_to_lease(queue: Queue) -> bool:
    lease = asyncio.create_task(queue.lease(100, 2**20))
    done, _ = await asyncio.wait({lease}, timeout=0.2)
    lease.cancel()
    return not done


async def test_gives_back_what_was_put_byte_for_byte(queue: Queue) -> None:
    raw = bytes(range(256)) * 40
    envelope = an_envelope(raw)

    await queue.put(envelope, raw)

    [mail] = await _lease(queue)
    assert (mail.envelope, mail.raw, mail.tries) == (envelope, raw, 0)


async def test_offers_mail_in_order_of_arrival(queue: Queue) -> None:
    raws = [str(n).encode() for n in range(250)]

    await _put(queue, *raws)

    leased = [mail.raw for _ in range(3) for mail in await _lease(queue)]
    assert leased == raws


async def test_keeps_mail_over_a_restart(open_queue: OpenQueue) -> None:
    await _put(open_queue(), b"one", b"two")

    leased = await _lease(open_queue())

    assert [mail.raw for mail in leased] == [b"one", b"two"]


async def test_offers_what_a_dead_process_had_leased(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await _put(queue, b"one")
    await _lease(queue)

    [mail] = await _lease(open_queue())

    assert mail.raw == b"one"


async def test_wakes_a_waiting_lease_when_mail_arrives(queue: Queue) -> None:
    waiting = asyncio.create_task(_lease(queue))
    await asyncio.sleep(0)

    await _put(queue, b"one")

    assert [mail.raw for mail in await waiting] == [b"one"]


async def test_leases_no_mail_twice(queue: Queue) -> None:
    await _put(queue, *(str(n).encode() for n in range(60)))

    leases = await asyncio.gather(*(_lease(queue, most=10) for _ in range(6)))

    assert len({mail.receipt for lease in leases for mail in lease}) == 60


async def test_bounds_a_lease_by_number_and_by_bytes(queue: Queue) -> None:
    await _put(queue, b"a" * 400, b"b" * 400, b"c" * 400, b"d" * 5000)

    sizes = [[len(m.raw) for m in await _lease(queue, 2, 1000)] for _ in range(3)]

    assert sizes == [[400, 400], [400], [5000]]


async def test_forgets_what_was_acknowledged(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await _put(queue, b"one", b"two")
    one, _two = await _lease(queue)

    await queue.acknowledge([one.receipt])

    assert [mail.raw for mail in await _lease(open_queue())] == [b"two"]


async def test_numbers_no_mail_like_an_acknowledged_one(queue: Queue) -> None:
    """An emptied table must not start again below the cursor."""
    await _put(queue, b"one")
    await queue.acknowledge([mail.receipt for mail in await _lease(queue)])

    await _put(queue, b"two")

    assert [mail.raw for mail in await _lease(queue)] == [b"two"]


async def test_offers_released_mail_again_without_counting_a_try(queue: Queue) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)

    await queue.release([mail.receipt])

    [again] = await _lease(queue)
    assert (again.raw, again.tries) == (b"one", 0)


async def test_offers_mail_again_when_its_lease_runs_out(queue: Queue, clock: Clock) -> None:
    await _put(queue, b"one")
    await _lease(queue)

    clock.ahead = 61

    assert [mail.raw for mail in await _lease(queue)] == [b"one"]


async def test_offers_retried_mail_after_its_delay_with_a_try_counted(
    queue: Queue, clock: Clock
) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)

    await queue.retry(mail.receipt, after_seconds=30)

    assert await _nothing_to_lease(queue)
    clock.ahead = 31
    [again] = await _lease(queue)
    assert (again.raw, again.tries) == (b"one", 1)


async def test_remembers_tries_and_delays_over_a_restart(
    open_queue: OpenQueue, clock: Clock
) -> None:
    queue = open_queue()
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await queue.retry(mail.receipt, after_seconds=30)

    queue = open_queue()

    assert await _nothing_to_lease(queue)
    clock.ahead = 31
    assert [mail.tries for mail in await _lease(queue)] == [1]


async def test_parked_mail_is_offered_to_nobody_and_listed(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await _put(queue, b"one")
    [mail] = await _lease(queue)

    await queue.park(mail.receipt, "cannot be stored")

    for seen_by in (lambda: queue, open_queue):
        each = seen_by()
        assert await _nothing_to_lease(each)
        [parked] = await each.parked(10)
        assert (parked.envelope, parked.reason) == (mail.envelope, "cannot be stored")
        assert await each.parked_raw(parked.receipt) == b"one"


async def test_unparked_mail_is_offered_with_its_tries_forgotten(queue: Queue) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await queue.park(mail.receipt, "cannot be stored")

    assert await queue.unpark(mail.receipt)

    [again] = await _lease(queue)
    assert (again.raw, again.tries) == (b"one", 0)
    assert not await queue.unpark(mail.receipt)


async def test_drops_parked_mail_only(queue: Queue) -> None:
    await _put(queue, b"one", b"two")
    one, two = await _lease(queue)
    await queue.park(one.receipt, "cannot be stored")

    assert await queue.drop(one.receipt)
    assert not await queue.drop(two.receipt)

    assert await queue.parked(10) == []
    assert await queue.depth() == QueueDepth(waiting=0, leased=1, parked=0)


async def test_counts_what_waits_is_leased_and_parked(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await _put(queue, *(str(n).encode() for n in range(5)))
    first, second, *_ = await _lease(queue, most=3)

    await queue.park(first.receipt, "cannot be stored")
    await queue.acknowledge([second.receipt])

    assert await queue.depth() == QueueDepth(waiting=2, leased=1, parked=1)
    assert await open_queue().depth() == QueueDepth(waiting=3, leased=0, parked=1)


async def test_names_what_waits_is_leased_or_parked(queue: Queue) -> None:
    envelopes = [an_envelope(b"x") for _ in range(4)]
    for envelope in envelopes[:3]:
        await queue.put(envelope, b"x")
    first, _second, third = await _lease(queue)
    await queue.park(first.receipt, "cannot be stored")
    await queue.acknowledge([third.receipt])

    named = await queue.named([envelope.ingest_id for envelope in envelopes])

    assert named == {envelopes[0].ingest_id, envelopes[1].ingest_id}


async def test_refuses_what_is_over_its_bound_and_takes_mail_again_when_there_is_room(
    open_queue: OpenQueue,
) -> None:
    queue = open_queue(max_bytes=1000)
    await _put(queue, b"a" * 900)

    with pytest.raises(StoreFull):
        await _put(queue, b"b" * 101)

    await queue.acknowledge([mail.receipt for mail in await _lease(queue)])
    await _put(queue, b"b" * 101)


async def test_says_whether_it_would_keep_a_mail(open_queue: OpenQueue) -> None:
    queue = open_queue(max_bytes=1000)
    await queue.check_room()

    await _put(queue, b"a" * 1000)

    with pytest.raises(StoreFull):
        await queue.check_room()


async def test_commits_a_sender_who_gave_up_and_the_rest_of_its_group(queue: Queue) -> None:
    given_up = asyncio.create_task(queue.put(an_envelope(b"one"), b"one"))
    await asyncio.sleep(0)
    given_up.cancel()

    await _put(queue, b"two")

    assert {mail.raw for mail in await _lease(queue)} == {b"one", b"two"}


async def test_a_late_acknowledgement_gives_its_room_back(
    open_queue: OpenQueue, clock: Clock
) -> None:
    queue = open_queue(max_bytes=1000)
    await _put(queue, b"a" * 1000)
    [mail] = await _lease(queue)
    clock.ahead = 61
    [again] = await _lease(queue)

    await queue.acknowledge([mail.receipt])
    await queue.acknowledge([again.receipt])

    assert await queue.depth() == QueueDepth(waiting=0, leased=0, parked=0)
    await _put(queue, b"b" * 1000)


async def test_mail_parked_after_its_lease_ran_out_is_counted_once(
    queue: Queue, clock: Clock
) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    clock.ahead = 61
    await _lease(queue)

    for _ in range(2):
        await queue.park(mail.receipt, "cannot be stored")

    assert await queue.depth() == QueueDepth(waiting=0, leased=0, parked=1)
    assert await queue.drop(mail.receipt)
    assert await queue.depth() == QueueDepth(waiting=0, leased=0, parked=0)


async def test_mail_unparked_after_a_restart_is_leased_once(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await queue.park(mail.receipt, "cannot be stored")
    queue = open_queue()

    await queue.unpark(mail.receipt)

    assert len(await _lease(queue)) == 1
    assert await _nothing_to_lease(queue)


async def test_tells_what_each_organisation_has_waiting(queue: Queue) -> None:
    first, second = a_delivery("a@mail.example.com"), a_delivery("b@mail.example.com")
    relayed = an_envelope(b"12345", deliveries=(first, second), queue_id="4A1")
    await queue.put(relayed, b"12345")
    direct = an_envelope(b"123", deliveries=(first,))
    await queue.put(direct, b"123")
    await _lease(queue, most=1)

    assert await queue.backlog() == {
        first.organisation_id: Backlog(
            2,
            8,
            relayed=[("4A1", "a@mail.example.com")],
            oldest=[(relayed.message_id(first), 5), (direct.message_id(first), 3)],
        ),
        second.organisation_id: Backlog(
            1,
            5,
            relayed=[("4A1", "b@mail.example.com")],
            oldest=[(relayed.message_id(second), 5)],
        ),
    }
