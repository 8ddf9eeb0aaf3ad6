"""What only a running server shows: limits, deadlines, lost clients, the way out."""

import asyncio
import contextlib
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import structlog

from mailtape.domain.envelope import Envelope
from mailtape.domain.errors import StoreFull
from mailtape.stores.sqlite_queue import SqliteQueue
from mailtape_ingest.server import Deadlines
from wire.conftest import Client, House, OpenHouse

TIMED_OUT = "421 4.4.2 Timed out"
SHUTTING_DOWN = "421 4.3.2 Shutting down"


class Gate:
    """The real queue behind a gate, so that a test decides when a hand-over ends."""

    def __init__(self, queue: SqliteQueue) -> None:
        self.queue = queue
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.passed = asyncio.Event()

    async def put(self, envelope: Envelope, raw: bytes) -> None:
        self.reached.set()
        await self.open.wait()
        await self.queue.put(envelope, raw)
        self.passed.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self.queue, name)


class Trouble(Gate):
    """A queue that fails in a way it may, or in one that nobody thought of."""

    def __init__(self, queue: SqliteQueue, error: BaseException) -> None:
        super().__init__(queue)
        self.error = error

    async def put(self, envelope: Envelope, raw: bytes) -> None:  # noqa: ARG002  # the port's
        raise self.error


@pytest.fixture
async def gate(queue: SqliteQueue) -> AsyncIterator[Gate]:
    gate = Gate(queue)
    yield gate
    gate.open.set()


async def until(wanted: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await wanted.wait()


async def until_alone(house: House) -> None:
    """Wait until the server has noticed that its clients are gone."""
    async with asyncio.timeout(5):
        while house.server.connections:
            await asyncio.sleep(0)


def reset(client: Client) -> None:
    """Vanish as a killed program does: a reset, no farewell."""
    sock: socket.socket = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


# Size.


async def test_refuses_an_oversized_mail_after_its_dot_and_goes_on(open_house: OpenHouse) -> None:
    house = await open_house(message_octets=100_000)
    client = await house.client()
    await client.starts_data()
    await client.send(b"x" * 300_000 + b"\r\n.\r\n")
    assert await client.reply() == "552 5.3.4 Message too large"

    await client.starts_data()
    await client.send(b"y" * 99_998 + b"\r\n.\r\n")
    assert (await client.reply()).startswith("250 2.0.0")
    assert [mail.raw for mail in await house.kept()] == [b"y" * 99_998 + b"\r\n"]


async def test_hangs_up_on_whoever_sends_more_than_four_times_the_limit(
    open_house: OpenHouse,
) -> None:
    house = await open_house(message_octets=100_000)
    client = await house.client()
    await client.starts_data()
    with contextlib.suppress(ConnectionError):
        for _ in range(50):
            await client.send(b"x" * 10_000)
    assert await client.reply() == "552 5.3.4 Message too large"
    assert await client.is_hung_up_on()
    assert await house.kept() == []


async def test_keeps_no_more_of_an_oversized_mail_than_the_limit(open_house: OpenHouse) -> None:
    limit = 4 * 2**20
    house = await open_house(message_octets=limit)
    client = await house.client()
    await client.starts_data()
    chunk = b"x" * 64 * 1024  # one line, as long as the mail
    tracemalloc.start()
    try:
        for _ in range(3 * limit // len(chunk)):
            await client.send(chunk)
        await client.send(b"\r\n.\r\n")
        assert (await client.reply()).startswith("552 5.3.4")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The buffer grows by an eighth at a time; the rest is the client's own and the loop's.
    assert peak < 1.5 * limit


# All messages together.

NO_ROOM = "452 4.3.1 Too much mail at once, try again later"
BULK = b"x" * 60_000


async def until_taken(house: House, octets: int) -> None:
    """Wait until the messages under way have taken so much."""
    async with asyncio.timeout(5):
        while house.server.budget.taken < octets:
            await asyncio.sleep(0)


async def test_keeps_no_more_of_all_messages_together_than_the_budget(
    open_house: OpenHouse,
) -> None:
    budget = 8 * 2**20
    house = await open_house(message_octets=4 * 2**20, octets_in_flight=budget)
    clients = [await house.client() for _ in range(12)]
    for client in clients:
        await client.starts_data()
    tracemalloc.start()
    try:
        for _ in range(60):  # 3.6 MB each, 43 MB in all, everybody at a time
            await asyncio.gather(*(client.send(BULK) for client in clients))
            assert house.server.budget.taken <= budget
        await asyncio.gather(*(client.send(b"\r\n.\r\n") for client in clients))
        replies = await asyncio.gather(*(client.reply() for client in clients))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    accepted = [reply for reply in replies if reply.startswith("250 2.0.0")]
    assert accepted
    assert replies.count(NO_ROOM) == len(replies) - len(accepted) > 0
    assert len(await house.kept()) == len(accepted)
    assert house.server.budget.taken == 0
    # Beside the budget: the clients' own buffers, and copies of what is being written.
    assert peak < 3 * budget


async def test_refuses_data_while_there_is_no_room_and_goes_on_when_there_is(
    open_house: OpenHouse,
) -> None:
    house = await open_house(message_octets=100_000, octets_in_flight=100_000)
    first, second = await house.client(), await house.client()
    await first.starts_data()
    await first.send(BULK)
    await until_taken(house, len(BULK))

    hello = ("EHLO b", "MAIL FROM:<> SIZE=50000", "RCPT TO:<qa@b>", "DATA")
    assert (await second.says(*hello))[-1] == NO_ROOM
    await first.send(b"\r\n.\r\n")
    assert (await first.reply()).startswith("250 2.0.0")
    assert (await second.says(*hello))[-1].startswith("354")
    await second.send(BULK + b"\r\n.\r\n")
    assert (await second.reply()).startswith("250 2.0.0")
    assert house.server.budget.taken == 0


async def test_a_message_counts_until_it_is_answered(open_house: OpenHouse, gate: Gate) -> None:
    house = await open_house(message_octets=100_000, octets_in_flight=100_000, queue=gate)
    first, second = await house.client(), await house.client()
    await first.starts_data()
    await first.send(BULK + b"\r\n.\r\n")
    await until(gate.reached)
    await second.starts_data()
    await second.send(BULK + b"\r\n.\r\n")

    assert await second.reply() == NO_ROOM
    reset(first)
    await second.says("QUIT")
    await second.close()
    await until_alone(house)
    assert house.server.budget.taken >= len(BULK), "it is still being written"
    gate.open.set()
    await until(gate.passed)
    await house.server.drain(1.0)
    assert house.server.budget.taken == 0


async def test_whoever_breaks_off_gives_the_room_back(open_house: OpenHouse) -> None:
    house = await open_house(
        message_octets=100_000,
        octets_in_flight=100_000,
        deadlines=Deadlines(message=0.5, farewell=0.1),
    )
    vanished, silent = await house.client(), await house.client()
    for client in (vanished, silent):
        await client.starts_data()
    await vanished.send(BULK)
    await until_taken(house, len(BULK))
    reset(vanished)
    async with asyncio.timeout(5):
        while house.server.budget.taken:
            await asyncio.sleep(0)
    await silent.send(BULK)
    await until_taken(house, len(BULK))

    assert await silent.reply() == TIMED_OUT
    assert house.server.budget.taken == 0


# Numbers.


async def test_takes_no_more_recipients_than_allowed_but_those(open_house: OpenHouse) -> None:
    house = await open_house(recipients=2)
    client = await house.client()
    replies = await client.says(
        "HELO a", "MAIL FROM:<>", *(f"RCPT TO:<r{i}@b>" for i in (1, 2, 3, 1)), "DATA", "."
    )
    # One that is named again has its place in the replies of LMTP, so it counts again.
    assert [reply[:9] for reply in replies[2:6]] == ["250 2.1.5"] * 2 + ["452 4.5.3"] * 2
    assert replies[-1].startswith("250 2.0.0")
    [mail] = await house.kept()
    assert [delivery.recipient for delivery in mail.envelope.deliveries] == ["r1@b", "r2@b"]


async def test_takes_recipients_of_so_many_organisations_and_the_rest_in_the_next_transaction(
    open_house: OpenHouse,
) -> None:
    """In this house each is an organisation, whatever stands behind its plus."""
    house = await open_house()
    client = await house.client()
    begin = ("MAIL FROM:<>", *(f"RCPT TO:<r{i}@b>" for i in range(101)), "RCPT TO:<r0+x@b>")
    replies = await client.says("HELO a", *begin, "DATA", ".")
    refused = [reply[:9] for reply in replies if reply[:3] == "452"]
    assert refused == ["452 4.5.3"]
    assert replies[102].startswith("452")
    assert replies[-1].startswith("250 2.0.0")
    again = await client.says("MAIL FROM:<>", "RCPT TO:<r100@b>", "DATA", ".")
    assert again[-1].startswith("250 2.0.0")
    assert [len(mail.envelope.deliveries) for mail in await house.kept()] == [101, 1]


async def test_sends_the_connection_too_many_away(open_house: OpenHouse) -> None:
    house = await open_house(connections=1)
    first = await house.client()
    second = await house.client(greeted=False)
    assert await second.reply() == "421 4.7.0 Too many connections"
    assert await second.is_hung_up_on()

    assert (await first.says("QUIT"))[0].startswith("221")
    await first.close()
    await second.close()
    await until_alone(house)
    await house.client()


async def test_counts_idle_commands_as_errors_in_the_end(open_house: OpenHouse) -> None:
    house = await open_house(idle_commands=3, errors=2)
    client = await house.client()
    replies = await client.says(*["NOOP"] * 6)
    assert [reply[:3] for reply in replies] == ["250"] * 6
    assert await client.reply() == "421 4.7.0 Too many errors"


async def test_an_accepted_mail_pays_for_earlier_errors(open_house: OpenHouse) -> None:
    house = await open_house(errors=2)
    client = await house.client()
    for _ in range(3):
        await client.says("x", "x")
        await client.starts_data()
        assert (await client.says("."))[0].startswith("250")


async def test_stops_reading_from_a_client_that_sends_ahead_without_end(
    open_house: OpenHouse, gate: Gate
) -> None:
    house = await open_house(queue=gate)
    client = await house.client()
    await client.starts_data()
    await client.send(b".\r\n")
    await until(gate.reached)
    # More than the read-ahead and both socket buffers hold.
    client.writer.write(b"NOOP\r\n" * 10_000_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.writer.drain()
    [connection] = house.server._open
    assert connection._session.waiting_octets < 1_000_000
    reset(client)


async def test_stops_reading_from_a_client_that_reads_no_replies(open_house: OpenHouse) -> None:
    house = await open_house(errors=10**9, idle_commands=10**9)
    client = await house.client()
    client.reader._transport.pause_reading()
    client.writer.write(b"HELP\r\n" * 5_000_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.writer.drain()
    [connection] = house.server._open
    assert connection._transport.get_write_buffer_size() < 8 * 2**20
    reset(client)


# Deadlines.


async def test_hangs_up_on_a_client_that_says_nothing(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(command=0.1, farewell=1))
    client = await house.client()
    assert await client.reply() == TIMED_OUT
    assert await client.is_hung_up_on()


async def test_a_command_that_trickles_gains_no_time(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(command=0.3, farewell=1))
    client = await house.client()

    async def trickle() -> None:
        while True:
            client.writer.write(b"N")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    assert await client.reply() == TIMED_OUT
    trickling.cancel()


async def test_a_message_that_trickles_gains_no_time(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(message=0.3, farewell=1))
    client = await house.client()
    await client.starts_data()

    async def trickle() -> None:
        while True:
            client.writer.write(b"x\r\n")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    assert await client.reply() == TIMED_OUT
    trickling.cancel()
    assert await house.kept() == []


async def test_every_reply_gives_the_client_its_time_anew(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(command=2, farewell=1))
    client = await house.client()
    for _ in range(3):
        await asyncio.sleep(1)  # half of the client's time
        assert (await client.says("NOOP"))[0].startswith("250")


async def test_a_slow_hand_over_is_not_the_clients_fault(open_house: OpenHouse, gate: Gate) -> None:
    house = await open_house(queue=gate, deadlines=Deadlines(command=0.1, message=0.1, farewell=1))
    client = await house.client()
    await client.starts_data()
    await client.send(b".\r\n")
    await until(gate.reached)
    await asyncio.sleep(0.3)  # three times what a client may idle
    gate.open.set()
    assert (await client.reply()).startswith("250 2.0.0")


async def test_cuts_off_a_client_that_does_not_leave(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(farewell=0.1))
    client = await house.client()
    assert (await client.says("QUIT"))[0].startswith("221")
    await until_alone(house)


async def test_cuts_off_a_client_that_stays_after_its_command_timed_out(
    open_house: OpenHouse,
) -> None:
    house = await open_house(deadlines=Deadlines(command=0.1, farewell=0.1))
    client = await house.client()
    assert await client.reply() == TIMED_OUT
    await until_alone(house)


async def test_cuts_off_a_client_that_stays_after_its_message_timed_out(
    open_house: OpenHouse,
) -> None:
    house = await open_house(deadlines=Deadlines(message=0.1, farewell=0.1))
    client = await house.client()
    await client.starts_data()
    await client.send(b"Subject: half")
    assert await client.reply() == TIMED_OUT
    await until_alone(house)


async def test_cuts_off_a_handshake_that_never_comes(open_house: OpenHouse) -> None:
    house = await open_house(deadlines=Deadlines(handshake=0.1, farewell=0.1))
    client = await house.client()
    assert (await client.says("STARTTLS"))[0].startswith("220")
    assert await client.is_hung_up_on()
    await until_alone(house)


async def test_idle_clients_keep_nobody_waiting(open_house: OpenHouse) -> None:
    house = await open_house()
    idle = [await house.client() for _ in range(200)]
    for client in idle:
        await client.send(b"EH")
    client = await house.client()
    async with asyncio.timeout(2):
        await client.starts_data()
        assert (await client.says("."))[0].startswith("250")
    for client in idle:
        await client.close()


# Trouble on our side.


async def test_a_full_store_is_452_and_the_session_goes_on(
    open_house: OpenHouse, queue: SqliteQueue
) -> None:
    house = await open_house(queue=Trouble(queue, StoreFull("a path of ours")))
    client = await house.client()
    await client.starts_data()
    assert await client.says(".", "NOOP") == ["452 4.3.1 Insufficient storage", "250 2.0.0 OK"]


async def test_the_unexpected_is_logged_and_answered_try_again(
    open_house: OpenHouse, queue: SqliteQueue
) -> None:
    house = await open_house(queue=Trouble(queue, ZeroDivisionError("a secret of ours")))
    client = await house.client()
    await client.starts_data()
    with structlog.testing.capture_logs() as logs:
        [reply] = await client.says(".")
    assert reply == "451 4.3.0 Temporary failure, try again later"
    [entry] = logs
    assert entry["event"] == "smtp.handler_failed"
    assert entry["exc_info"]
    await client.starts_data()  # nothing of the failed mail stands in the way


async def test_what_the_handler_waits_for_being_cancelled_is_answered_try_again(
    open_house: OpenHouse, queue: SqliteQueue
) -> None:
    house = await open_house(queue=Trouble(queue, asyncio.CancelledError()))
    client = await house.client()
    await client.starts_data()
    assert await client.says(".", "NOOP") == [
        "451 4.3.0 Temporary failure, try again later",
        "250 2.0.0 OK",
    ]


# Lost clients.


async def test_a_mail_that_came_whole_is_kept_though_its_client_is_gone(
    open_house: OpenHouse, gate: Gate
) -> None:
    house = await open_house(queue=gate)
    client = await house.client()
    await client.starts_data()
    await client.send(b"whole\r\n.\r\n")
    await until(gate.reached)
    reset(client)
    await until_alone(house)
    gate.open.set()
    await until(gate.passed)
    assert [mail.raw for mail in await house.kept()] == [b"whole\r\n"]


async def test_a_mail_that_was_cut_off_is_none(open_house: OpenHouse) -> None:
    house = await open_house()
    client = await house.client()
    await client.starts_data()
    await client.send(b"half\r\n.\r")
    reset(client)
    await until_alone(house)
    assert await house.kept() == []


async def test_who_says_all_and_shuts_its_side_still_hears_the_reply(
    open_house: OpenHouse, gate: Gate
) -> None:
    house = await open_house(queue=gate)
    client = await house.client()
    await client.starts_data()
    await client.send(b"x\r\n.\r\n")
    client.writer.write_eof()
    await until(gate.reached)
    gate.open.set()
    assert (await client.reply()).startswith("250 2.0.0")
    assert await client.is_hung_up_on()


# The way out.


async def test_on_the_way_out_the_idle_are_told_and_nobody_new_gets_in(
    open_house: OpenHouse,
) -> None:
    house = await open_house()
    client = await house.client()
    leaving = asyncio.create_task(house.server.drain(5))
    assert await client.reply() == SHUTTING_DOWN
    await client.close()
    async with asyncio.timeout(2):
        await leaving
    with pytest.raises(ConnectionRefusedError):
        await house.client()


async def test_on_the_way_out_a_running_message_is_finished(open_house: OpenHouse) -> None:
    house = await open_house()
    client = await house.client()
    await client.starts_data()
    await client.send(b"first half\r\n")
    leaving = asyncio.create_task(house.server.drain(5))
    await asyncio.sleep(0)
    await client.send(b"second half\r\n.\r\n")
    assert (await client.reply()).startswith("250 2.0.0")
    assert await client.reply() == SHUTTING_DOWN
    await client.close()
    async with asyncio.timeout(2):
        await leaving
    assert [mail.raw for mail in await house.kept()] == [b"first half\r\nsecond half\r\n"]


async def test_on_the_way_out_what_came_whole_is_handed_over_past_the_deadline(
    open_house: OpenHouse, gate: Gate
) -> None:
    house = await open_house(queue=gate)
    client = await house.client()
    await client.starts_data()
    await client.send(b"x\r\n.\r\n")
    await until(gate.reached)
    leaving = asyncio.create_task(house.server.drain(0.05))
    assert await client.is_hung_up_on()
    assert not leaving.done()
    gate.open.set()
    async with asyncio.timeout(2):
        await leaving
    assert len(await house.kept()) == 1


async def test_on_the_way_out_what_cannot_be_handed_over_in_time_is_given_up(
    open_house: OpenHouse, gate: Gate
) -> None:
    house = await open_house(queue=gate)
    client = await house.client()
    await client.starts_data()
    await client.send(b"x\r\n.\r\n")
    await until(gate.reached)
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(3):
            await house.server.drain(0.05)
    gate.open.set()
    assert await client.is_hung_up_on()
    assert ("smtp.given_up", 1) in [(each["event"], each.get("conversations")) for each in logs]
    assert await house.kept() == []


async def test_on_the_way_out_a_message_that_never_ends_is_told_and_cut(
    open_house: OpenHouse,
) -> None:
    house = await open_house()
    client = await house.client()
    await client.starts_data()
    await client.send(b"x\r\n")
    async with asyncio.timeout(2):
        await house.server.drain(0.05)
    assert await client.reply() == SHUTTING_DOWN
    assert await client.is_hung_up_on()
    assert await house.kept() == []


# What is kept with a mail.


async def test_the_envelope_says_who_came_and_how(open_house: OpenHouse) -> None:
    house = await open_house()
    client = await house.client()
    await client.says("STARTTLS")
    await client.starts_tls()
    await client.starts_data("QA+x@Mail.example.com")
    await client.says(".")
    [mail] = await house.kept()
    assert mail.envelope.client_address == "127.0.0.1"
    assert mail.envelope.helo == "client.example.org"
    assert mail.envelope.tls.startswith("TLSv1.3 TLS_")
    assert mail.envelope.mail_from == "shop@example.org"
