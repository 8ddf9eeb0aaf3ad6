"""What `ports.queue` promises, asked of every implementation."""

import asyncio
from dataclasses import MISSING, dataclass, fields, make_dataclass

import pytest

from contract.conftest import QueueTwin
from fakes import an_envelope
from mailtape.domain.envelope import Envelope, Protocol
from mailtape.domain.errors import StoreFull
from mailtape.ports.queue import Leased, Queue, QueueDepth

_PATIENCE_SECONDS = 10
"""A broker tells of what it was told, but not at once."""
_LATER_SECONDS = 5.0
"""A delay by the broker's clock, which runs on while a busy machine holds the test up."""


async def _put(queue: Queue, *raws: bytes) -> None:
    await asyncio.gather(*(queue.put(an_envelope(raw), raw) for raw in raws))


async def _lease(queue: Queue, most: int = 100, most_bytes: int = 2**20) -> list[Leased]:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        return await queue.lease(most, most_bytes)


async def _lease_all(queue: Queue, mails: int, most: int = 100) -> list[Leased]:
    """Leases until so many have come: what waits is not always delivered at once."""
    leased: list[Leased] = []
    while len(leased) < mails:
        leased += await _lease(queue, most)
    return leased


async def _put_until_full(queue: Queue, raw: bytes) -> int:
    """Puts mails until one is refused; tells how many were kept."""
    for kept in range(100):
        try:
            await _put(queue, raw)
        except StoreFull:
            return kept
    raise AssertionError("it takes whatever comes")


async def _put_when_there_is_room(queue: Queue, raw: bytes) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            try:
                return await _put(queue, raw)
            except StoreFull:
                await asyncio.sleep(0.05)


async def _all_have_come(queue: Queue, mails: int) -> None:
    """Leaves so many to be leased at once."""
    leased = await _lease_all(queue, mails)
    await queue.release([mail.receipt for mail in leased])


async def _becomes(queue: Queue, depth: QueueDepth) -> bool:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while await queue.depth() != depth:
            await asyncio.sleep(0.05)
    return True


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


@dataclass(frozen=True, slots=True)
class LaterEnvelope(Envelope):
    """As a release to come may write it: with one more fact."""

    further: str = "fact"


OlderEnvelope = make_dataclass(
    "OlderEnvelope",
    [(field.name, field.type) for field in fields(Envelope) if field.default is MISSING],
)
"""As the first release wrote it, without any fact that has been added since."""


@pytest.mark.parametrize("protocol", [Protocol.LMTP, "jmap"])
@pytest.mark.parametrize("release", [LaterEnvelope, OlderEnvelope])
async def test_reads_what_another_release_has_put(
    queue: Queue, release: type[Envelope], protocol: str
) -> None:
    envelope = an_envelope(b"mail", protocol=protocol)
    facts = {
        f.name: getattr(envelope, f.name) for f in fields(release) if hasattr(envelope, f.name)
    }
    known = Envelope(**facts)

    await queue.put(release(**facts), b"mail")

    [mail] = await _lease(queue)
    assert mail.envelope == known
    assert (await queue.depth()).parked == 0


async def test_offers_mail_in_order_of_arrival(queue: Queue) -> None:
    raws = [str(n).encode() for n in range(250)]

    await _put(queue, *raws)

    leased = [mail.raw for mail in await _lease_all(queue, 250)]
    assert leased == raws


async def test_keeps_mail_over_a_restart(twin: QueueTwin) -> None:
    await _put(await twin.reopen(), b"one", b"two")

    leased = await _lease_all(await twin.reopen(), 2)

    assert [mail.raw for mail in leased] == [b"one", b"two"]


async def test_offers_what_a_dead_process_had_leased(twin: QueueTwin) -> None:
    queue = await twin.reopen()
    await _put(queue, b"one")
    await _lease(queue)

    [mail] = await _lease(await twin.reopen())

    assert mail.raw == b"one"


async def test_wakes_a_waiting_lease_when_mail_arrives(queue: Queue) -> None:
    waiting = asyncio.create_task(_lease(queue))
    await asyncio.sleep(0)

    await _put(queue, b"one")

    assert [mail.raw for mail in await waiting] == [b"one"]


async def test_leases_no_mail_twice(queue: Queue) -> None:
    await _put(queue, *(str(n).encode() for n in range(60)))

    leased: list[Leased] = []

    async def take() -> None:
        while len(leased) < 60:
            leased.extend(await queue.lease(10, 2**20))

    takers = [asyncio.create_task(take()) for _ in range(6)]
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
    for taker in takers:
        taker.cancel()

    assert len({mail.receipt for mail in leased}) == len({mail.raw for mail in leased}) == 60


async def test_bounds_a_lease_by_number_and_by_bytes(queue: Queue) -> None:
    await _put(queue, b"a" * 400, b"b" * 400, b"c" * 400, b"d" * 5000)

    await _all_have_come(queue, 4)
    sizes = [[len(m.raw) for m in await _lease(queue, 2, 1000)] for _ in range(3)]

    assert sizes == [[400, 400], [400], [5000]]


async def test_forgets_what_was_acknowledged(twin: QueueTwin) -> None:
    queue = await twin.reopen()
    await _put(queue, b"one", b"two")
    one, _two = await _lease_all(queue, 2)

    await queue.acknowledge([one.receipt])

    assert [mail.raw for mail in await _lease(await twin.reopen())] == [b"two"]


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


async def test_offers_mail_again_when_its_lease_runs_out(queue: Queue, twin: QueueTwin) -> None:
    await _put(queue, b"one")
    await _lease(queue)

    await twin.end_leases(queue)

    assert [mail.raw for mail in await _lease(queue)] == [b"one"]


async def test_offers_retried_mail_after_its_delay_with_a_try_counted(
    queue: Queue, twin: QueueTwin
) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)

    await queue.retry(mail.receipt, after_seconds=_LATER_SECONDS)

    assert await _nothing_to_lease(queue)
    await twin.forward(_LATER_SECONDS + 0.2)
    [again] = await _lease(queue)
    assert (again.raw, again.tries) == (b"one", 1)


async def test_remembers_tries_and_delays_over_a_restart(twin: QueueTwin) -> None:
    queue = await twin.reopen()
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await queue.retry(mail.receipt, after_seconds=_LATER_SECONDS)

    queue = await twin.reopen()

    assert await _nothing_to_lease(queue)
    await twin.forward(_LATER_SECONDS + 0.2)
    assert [mail.tries for mail in await _lease(queue)] == [1]


async def test_parked_mail_is_offered_to_nobody_and_listed(twin: QueueTwin) -> None:
    queue = await twin.reopen()
    await _put(queue, b"one")
    [mail] = await _lease(queue)

    await queue.park(mail.receipt, "cannot be stored")

    for next_process in (False, True):
        each = await twin.reopen() if next_process else queue
        assert await _nothing_to_lease(each)
        [parked] = await each.parked(10)
        assert (parked.envelope, parked.reason) == (mail.envelope, "cannot be stored")
        assert await each.parked_raw(parked.receipt) == b"one"


async def test_unparked_mail_is_offered_with_its_tries_forgotten(queue: Queue) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await queue.park(mail.receipt, "cannot be stored")
    [parked] = await queue.parked(10)

    assert await queue.unpark(parked.receipt)

    [again] = await _lease(queue)
    assert (again.raw, again.tries) == (b"one", 0)
    assert not await queue.unpark(parked.receipt)


async def test_drops_parked_mail_only(queue: Queue) -> None:
    await _put(queue, b"one", b"two")
    one, two = await _lease_all(queue, 2)
    await queue.park(one.receipt, "cannot be stored")

    [parked] = await queue.parked(10)
    assert await queue.drop(parked.receipt)
    assert not await queue.drop(parked.receipt)
    assert not await queue.drop(two.receipt)

    assert await queue.parked(10) == []
    assert await _becomes(queue, QueueDepth(waiting=0, leased=1, parked=0))


async def test_counts_what_waits_is_leased_and_parked(twin: QueueTwin) -> None:
    queue = await twin.reopen()
    await _put(queue, *(str(n).encode() for n in range(5)))
    await _all_have_come(queue, 5)
    first, second, _third = await _lease(queue, most=3)

    await queue.park(first.receipt, "cannot be stored")
    await queue.acknowledge([second.receipt])

    assert await _becomes(queue, QueueDepth(waiting=2, leased=1, parked=1))
    assert await _becomes(await twin.reopen(), QueueDepth(waiting=3, leased=0, parked=1))


async def test_names_what_waits_is_leased_or_parked(queue: Queue) -> None:
    envelopes = [an_envelope(b"x") for _ in range(4)]
    for envelope in envelopes[:3]:
        await queue.put(envelope, b"x")
    first, _second, third = await _lease_all(queue, 3)
    await queue.park(first.receipt, "cannot be stored")
    await queue.acknowledge([third.receipt])

    named = await queue.named([envelope.ingest_id for envelope in envelopes])

    assert named == {envelopes[0].ingest_id, envelopes[1].ingest_id}


async def test_refuses_what_is_over_its_bound_and_takes_mail_again_when_there_is_room(
    twin: QueueTwin,
) -> None:
    queue = await twin.reopen(max_bytes=20_000)

    kept = await _put_until_full(queue, b"a" * 5000)

    assert 3 <= kept <= 8  # a broker's bound gives way to a few
    leased = await _lease_all(queue, kept)
    await queue.acknowledge([mail.receipt for mail in leased])
    await _put_when_there_is_room(queue, b"b" * 5000)


async def test_says_whether_it_would_keep_a_mail(twin: QueueTwin) -> None:
    queue = await twin.reopen(max_bytes=20_000)
    await queue.check_room()

    await _put_until_full(queue, b"a" * 20_000)

    with pytest.raises(StoreFull):
        await queue.check_room()


async def test_a_sender_who_gives_up_takes_nobody_along(queue: Queue) -> None:
    given_up = asyncio.create_task(queue.put(an_envelope(b"one"), b"one"))
    await asyncio.sleep(0)
    given_up.cancel()

    await _put(queue, b"two")

    leased = await _lease(queue)
    if leased[-1].raw != b"two":
        leased += await _lease(queue)
    assert [mail.raw for mail in leased] in ([b"one", b"two"], [b"two"])


async def test_a_late_acknowledgement_gives_its_room_back(twin: QueueTwin) -> None:
    queue = await twin.reopen(max_bytes=20_000)
    kept = await _put_until_full(queue, b"a" * 20_000)
    late = await _lease_all(queue, kept)
    await twin.end_leases(queue)
    again = await _lease_all(queue, kept)

    await queue.acknowledge([mail.receipt for mail in late])
    await queue.acknowledge([mail.receipt for mail in again])

    assert await _becomes(queue, QueueDepth(waiting=0, leased=0, parked=0))
    await _put_when_there_is_room(queue, b"b" * 20_000)


async def test_mail_parked_after_its_lease_ended_is_counted_once(
    queue: Queue, twin: QueueTwin
) -> None:
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await twin.end_leases(queue)
    [again] = await _lease(queue)

    for receipt in (mail.receipt, again.receipt, again.receipt):
        await queue.park(receipt, "cannot be stored")

    assert await _becomes(queue, QueueDepth(waiting=0, leased=0, parked=1))
    [parked] = await queue.parked(10)
    assert await queue.drop(parked.receipt)
    assert await _becomes(queue, QueueDepth(waiting=0, leased=0, parked=0))


async def test_mail_unparked_after_a_restart_is_leased_once(twin: QueueTwin) -> None:
    queue = await twin.reopen()
    await _put(queue, b"one")
    [mail] = await _lease(queue)
    await queue.park(mail.receipt, "cannot be stored")
    queue = await twin.reopen()

    [parked] = await queue.parked(10)
    await queue.unpark(parked.receipt)

    assert len(await _lease(queue)) == 1
    assert await _nothing_to_lease(queue)


@pytest.mark.parametrize("restarts", [0, 1])
async def test_parked_mail_is_offered_again_some_at_a_time_and_each_once(
    twin: QueueTwin, restarts: int
) -> None:
    queue = await twin.reopen()
    await _put(queue, *(str(n).encode() for n in range(5)))
    for mail in await _lease_all(queue, 5):
        await queue.park(mail.receipt, "cannot be stored")
    for _ in range(restarts):
        queue = await twin.reopen()

    offered = [await queue.unpark_some(3) for _ in range(3)]

    again = await _lease_all(queue, 5)
    assert offered == [3, 2, 0]
    assert sorted((mail.raw, mail.tries) for mail in again) == [
        (str(n).encode(), 0) for n in range(5)
    ]
    assert await _nothing_to_lease(queue)
    assert await _becomes(queue, QueueDepth(waiting=0, leased=5, parked=0))
