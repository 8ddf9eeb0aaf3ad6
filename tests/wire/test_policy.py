r"""The policy daemon on a free loopback port, asked as Postfix asks and as nobody should.

The files `policy/*.txt` are transcripts: the lines of a request, an empty line, the reply it gets
or `CLOSED`, an empty line, the next request. `== a sentence` starts a connection of its own;
\r \0 \xNN stand for bytes.
"""

import asyncio
import contextlib
import gc
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailtape.domain.policy import PolicyRequest
from mailtape.services.quota import Quota
from mailtape.services.recipients import Destination
from mailtape.services.refusals import Refusals
from mailtape.stores.sql_counters import SqlCounters
from mailtape_policy.protocol import REQUEST_OCTETS
from mailtape_policy.server import Server
from wire.conftest import Directory
from wire.test_dialogs import unescaped

DUNNO = b"action=DUNNO\n\n"
DEFERRED = b"action=451 4.3.0 cannot tell at the moment, try again later\n\n"
UNKNOWN = b"action=550 5.1.1 no such address here\n\n"


def asks(recipient: str = "qa@mail.example.com", instance: object = 1, **more: object) -> bytes:
    """Write a request of the stage RCPT."""
    attributes = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "recipient": recipient,
        "instance": instance,
        **more,
    }
    return "".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n"


class Asker:
    """A client that sends bytes as told and reads replies; ten seconds is for ever."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(10):
            await self.writer.drain()

    async def reply(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\n\n")

    async def asks(self, request: bytes) -> bytes:
        await self.send(request)
        return await self.reply()

    async def is_hung_up_on(self) -> bool:
        """Whether the server has closed and said nothing more."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


class Daemon:
    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.askers: list[Asker] = []

    async def asker(self) -> Asker:
        asker = Asker(*await asyncio.open_connection("127.0.0.1", self.port))
        self.askers.append(asker)
        return asker

    async def is_left_alone(self) -> None:
        async with asyncio.timeout(10):
            while self.server.connections:
                await asyncio.sleep(0.001)


OpenDaemon = Callable[..., Awaitable[Daemon]]


@pytest.fixture
async def open_daemon(quota: Quota) -> AsyncIterator[OpenDaemon]:
    """Opens a policy daemon that has time; keyword arguments are those of `Server`."""
    daemons: list[Daemon] = []

    async def open_daemon(quota: Quota = quota, **changes: Any) -> Daemon:
        server = Server(quota, domain="mail.example.com", **({"answer_seconds": 30} | changes))
        _, port = await server.listen("127.0.0.1", 0)
        daemons.append(Daemon(server, port))
        return daemons[-1]

    yield open_daemon
    for daemon in daemons:
        for asker in daemon.askers:
            asker.writer.transport.abort()
        await daemon.server.drain(1.0)


@pytest.fixture
async def asker(open_daemon: OpenDaemon) -> Asker:
    return await (await open_daemon()).asker()


def transcripts() -> list[pytest.param]:
    found = []
    for path in sorted((Path(__file__).parent / "policy").glob("*.txt")):
        for part in re.split(r"(?m)^== ", path.read_text(encoding="utf-8"))[1:]:
            title, _, script = part.partition("\n")
            blocks = re.split(r"\n{2,}", script.strip("\n"))
            assert len(blocks) % 2 == 0, title
            pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
            found.append(pytest.param(pairs, id=f"{path.stem}: {title}"))
    return found


@pytest.mark.parametrize("pairs", transcripts())
async def test_answers_as_the_transcript_says(pairs: list[tuple[str, str]], asker: Asker) -> None:
    for request, reply in pairs:
        await asker.send(unescaped(request) + b"\n\n")
        if reply == "CLOSED":
            assert await asker.is_hung_up_on()
        else:
            assert (await asker.reply()).decode() == reply + "\n\n"


async def test_ten_thousand_requests_on_one_connection(asker: Asker, chance: random.Random) -> None:
    wanted = []
    for number in range(10_000):
        lines = asks(f"someone{number % 7}@mail.example.com", number).splitlines()[:-1]
        kind = chance.choice(["good", "unknown", "other"])
        if kind == "unknown":
            lines.append(b"recipient=unknown@mail.example.com")
        elif kind == "other":
            lines.append(b"protocol_state=DATA")
        else:
            lines += [b"tls_sni=x", b"sender=", b"sender=a=b@x"]
            chance.shuffle(lines)

        assert await asker.asks(b"\n".join(lines) + b"\n\n") == (
            UNKNOWN if kind == "unknown" else DUNNO
        ), number
        wanted.append(kind)

    assert {"good", "unknown", "other"} == set(wanted)


async def test_pipelined_requests_are_answered_in_their_order(asker: Asker) -> None:
    recipients = ["unknown@x", "qa@x", "suspended@x", "down@x"] * 500
    asker.writer.write(b"".join(asks(each, n) for n, each in enumerate(recipients)))

    replies = [(await asker.reply())[7:10] for _ in recipients]

    assert replies == [b"550", b"DUN", b"550", b"451"] * 500


async def test_one_byte_at_a_time_is_a_request_like_any_other(asker: Asker) -> None:
    asker.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in asks("unknown@mail.example.com") + asks():
        await asker.send(bytes([byte]))
        await asyncio.sleep(0)

    assert [await asker.reply(), await asker.reply()] == [UNKNOWN, DUNNO]


async def test_an_empty_request_is_answered(asker: Asker) -> None:
    assert await asker.asks(b"\n") == DUNNO
    assert await asker.asks(asks("unknown@mail.example.com")) == UNKNOWN


async def test_one_mail_may_be_told_over_several_connections(open_daemon: OpenDaemon) -> None:
    daemon = await open_daemon()
    first, second = await daemon.asker(), await daemon.asker()

    assert await first.asks(asks("once@x", "mail-1")) == DUNNO
    assert await second.asks(asks("once@x", "mail-1")) == DUNNO
    assert (await second.asks(asks("once@x", "mail-2"))).startswith(b"action=452 4.2.2 ")


async def test_of_many_that_ask_at_once_as_many_are_taken_as_there_is_room_for(
    open_daemon: OpenDaemon,
) -> None:
    daemon = await open_daemon()
    askers = [await daemon.asker() for _ in range(50)]

    replies = await asyncio.gather(
        *(each.asks(asks("twice@x", f"mail-{n}")) for n, each in enumerate(askers))
    )

    assert replies.count(DUNNO) == 2
    assert sum(reply.startswith(b"action=452 4.2.2 ") for reply in replies) == 48


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"sender=%b\n\n" % (b"x" * 2**20), "request too long"),
        (b"a=b\n" * REQUEST_OCTETS, "request too long"),
        (b"sender=a\0secret\n\n", "NUL"),
        (b"secret\n", "line without ="),
        (b"request=secret\n\n", "another kind of request"),
    ],
)
async def test_a_malformed_request_is_logged_and_not_answered(
    open_daemon: OpenDaemon, data: bytes, fault: str
) -> None:
    daemon = await open_daemon()
    bystander, offender = await daemon.asker(), await daemon.asker()
    await bystander.asks(asks())

    with capture_logs() as logs:
        offender.writer.write(data)
        assert await offender.is_hung_up_on()

    (line,) = logs
    assert (line["event"], line["log_level"], line["fault"]) == (
        "policy.malformed",
        "warning",
        fault,
    )
    assert "secret" not in str(line)
    assert await bystander.asks(asks()) == DUNNO
    assert daemon.server.connections == 1


async def test_what_came_before_a_fault_is_answered(asker: Asker) -> None:
    await asker.send(asks() + asks("unknown@x") + b"nonsense\n\n" + asks())

    assert [await asker.reply(), await asker.reply()] == [DUNNO, UNKNOWN]
    assert await asker.is_hung_up_on()


class Slow(Directory):
    """A directory that answers about `slow` only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.let = asyncio.Event()

    async def resolve(self, address: str) -> Destination:
        if address.startswith("slow@"):
            self.asked.set()
            await self.let.wait()
        return await super().resolve(address)


@pytest.fixture
async def slow(quota: Quota) -> tuple[Slow, Quota]:
    directory = Slow()
    return directory, Quota(directory, quota._counters, Refusals(), lambda: datetime.now(UTC))


async def test_what_takes_too_long_is_put_off_and_the_next_is_answered(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota]
) -> None:
    asker = await (await open_daemon(slow[1], answer_seconds=0.05)).asker()
    await asker.send(asks("slow@x") + asks("qa@x"))

    assert [await asker.reply(), await asker.reply()] == [DEFERRED, DUNNO]


async def test_one_slow_answer_keeps_no_other_connection_waiting(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota]
) -> None:
    daemon = await open_daemon(slow[1])
    waiting, other = await daemon.asker(), await daemon.asker()
    await waiting.send(asks("slow@x"))
    await slow[0].asked.wait()

    assert await other.asks(asks()) == DUNNO

    slow[0].let.set()
    assert await waiting.reply() == DUNNO


async def test_one_who_asks_and_shuts_his_side_is_answered(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota]
) -> None:
    daemon = await open_daemon(slow[1])
    asker, other = await daemon.asker(), await daemon.asker()
    await asker.send(asks("slow@x") + asks("unknown@x"))
    asker.writer.write_eof()
    await slow[0].asked.wait()
    for _ in range(10):  # turns in which the end is seen
        await other.asks(asks())
    slow[0].let.set()

    assert [await asker.reply(), await asker.reply()] == [DUNNO, UNKNOWN]
    assert await asker.is_hung_up_on()


async def test_a_peer_that_goes_away_leaves_nothing_behind(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota]
) -> None:
    daemon = await open_daemon(slow[1])
    asker = await daemon.asker()
    await asker.send(asks("slow@x"))
    await slow[0].asked.wait()

    asker.writer.transport.abort()
    slow[0].let.set()
    await daemon.is_left_alone()

    assert await (await daemon.asker()).asks(asks("slow@x")) == DUNNO


async def test_a_peer_that_reads_no_replies_is_answered_when_it_does(
    open_daemon: OpenDaemon,
) -> None:
    daemon = await open_daemon()
    deaf = await daemon.asker()
    await deaf.asks(asks())
    (connection,) = daemon.server._open
    other = await daemon.asker()
    for transport in (connection._transport, deaf.writer.transport):
        held = transport.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    deaf.writer.transport.pause_reading()

    deaf.writer.write(b"\n" * 30_000)
    async with asyncio.timeout(10):
        while connection._writable.is_set():
            await other.asks(asks())
    for _ in range(200):  # turns in which it could go on
        await other.asks(asks())

    assert connection._transport.get_write_buffer_size() < 2 * 64 * 1024
    assert connection._arrived

    held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    deaf.writer.transport.resume_reading()
    async with asyncio.timeout(20):
        assert await deaf.reader.readexactly(30_000 * len(DUNNO)) == DUNNO * 30_000


async def test_a_flood_of_empty_requests_is_not_made_into_requests_at_once(
    open_daemon: OpenDaemon,
) -> None:
    """One octet is one request: a whole read of them must neither fill memory nor hold the loop."""
    daemon = await open_daemon()
    flood, other = await daemon.asker(), await daemon.asker()
    await flood.asks(asks())
    before = sum(isinstance(each, PolicyRequest) for each in gc.get_objects())
    flood.writer.write(b"\n" * 40_000)

    most = 0
    for _ in range(20):
        assert await other.asks(asks()) == DUNNO
        held = sum(isinstance(each, PolicyRequest) for each in gc.get_objects())
        most = max(most, held - before)

    assert most <= 2 * 4096
    async with asyncio.timeout(20):
        assert await flood.reader.readexactly(40_000 * len(DUNNO)) == DUNNO * 40_000


async def test_a_request_of_exactly_the_limit_is_answered_and_one_octet_more_is_not(
    open_daemon: OpenDaemon,
) -> None:
    daemon = await open_daemon()
    longest, longer = await daemon.asker(), await daemon.asker()
    head = asks("unknown@x")[:-1] + b"helo_name="
    fill = b"x" * (REQUEST_OCTETS - len(head) - 2)

    assert await longest.asks(head + fill + b"\n\n") == UNKNOWN
    assert await longest.asks(asks()) == DUNNO
    await longer.send(head + fill + b"x\n\n")
    assert await longer.is_hung_up_on()


@pytest.mark.parametrize("place", range(0, 200, 7))
async def test_a_nul_anywhere_is_hung_up_on(asker: Asker, place: int) -> None:
    request = asks(sender="shop@example.org", client_name="x" * 120)
    place %= len(request)

    await asker.send(asks("unknown@x") + request[:place] + b"\0" + request[place:])

    assert await asker.reply() == UNKNOWN
    assert await asker.is_hung_up_on()


@pytest.mark.parametrize("stage", ["RCPT", "END-OF-MESSAGE"])
async def test_only_what_cannot_be_decided_passes_where_the_operator_said_accept(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota], stage: str
) -> None:
    refused = ("unknown", "suspended", "rate", "usedup", "full", "fullforgood", "small")
    blind = ("down", "broken", "slow")

    replies: dict[str, tuple[bytes, bytes]] = {}
    with capture_logs() as logs:
        for local in (*refused, *blind, "qa"):
            hurry = {"answer_seconds": 0.05} if local == "slow" else {}
            strict = await (await open_daemon(slow[1], **hurry)).asker()
            lenient = await (await open_daemon(slow[1], accept_blind=True, **hurry)).asker()
            request = asks(f"{local}@x", size=101, protocol_state=stage)
            replies[local] = await strict.asks(request), await lenient.asks(request)

    assert {local: replies[local] for local in blind} == dict.fromkeys(blind, (DEFERRED, DUNNO))
    for local in refused:
        assert replies[local][0] == replies[local][1] != DUNNO, local
    assert replies["qa"] == (DUNNO, DUNNO)
    assert [line["stage"] for line in logs if line["event"] == "policy.accepted_blind"] == (
        [stage] * len(blind)
    )


async def test_a_name_that_no_server_gives_is_not_kept(
    open_daemon: OpenDaemon, quota: Quota
) -> None:
    asker = await (await open_daemon()).asker()
    endless = "x" * 256
    counters = quota._counters
    assert isinstance(counters, SqlCounters)

    assert await asker.asks(asks("once@x", endless, queue_id=endless)) == DUNNO
    assert await asker.asks(asks("once@x", "mail-2", queue_id=endless)) == DUNNO

    assert not counters._joined._first


async def test_a_peer_that_waits_for_its_answer_is_not_read_from(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota]
) -> None:
    asker = await (await open_daemon(slow[1])).asker()
    asker.writer.transport.set_write_buffer_limits(high=0)
    await asker.send(asks("slow@x"))
    await slow[0].asked.wait()
    pipelined = 0

    with contextlib.suppress(TimeoutError):
        while pipelined < 4000:
            asker.writer.write(b"sender=%b\n\n" % (b"x" * 60_000))
            pipelined += 1
            async with asyncio.timeout(0.5):
                await asker.writer.drain()

    assert pipelined < 1000, "60 MB were taken in"
    slow[0].let.set()
    for _ in range(1 + pipelined):
        assert await asker.reply() == DUNNO


async def test_the_idle_are_hung_up_on(open_daemon: OpenDaemon) -> None:
    daemon = await open_daemon(idle_seconds=0.2)
    silent, dripping = await daemon.asker(), await daemon.asker()
    begin = asyncio.get_running_loop().time()

    await dripping.send(b"sender=a")

    assert await silent.is_hung_up_on()
    assert await dripping.is_hung_up_on()
    assert 0.15 < asyncio.get_running_loop().time() - begin < 5


async def test_who_sends_a_request_by_drips_is_idle_all_the_same(open_daemon: OpenDaemon) -> None:
    daemon = await open_daemon(idle_seconds=0.3)
    dripping = await daemon.asker()
    begin = asyncio.get_running_loop().time()

    while daemon.server.connections and asyncio.get_running_loop().time() - begin < 5:
        with contextlib.suppress(ConnectionError):
            await dripping.send(b"x")
        await asyncio.sleep(0.02)

    assert daemon.server.connections == 0


async def test_each_request_starts_the_idle_time_again(open_daemon: OpenDaemon) -> None:
    asker = await (await open_daemon(idle_seconds=0.4)).asker()
    begin = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - begin < 1:
        assert await asker.asks(asks()) == DUNNO
        await asyncio.sleep(0.1)

    assert await asker.is_hung_up_on()


async def test_more_connections_than_allowed_are_sent_away_without_a_reply(
    open_daemon: OpenDaemon,
) -> None:
    daemon = await open_daemon(connections=2)
    first, second = await daemon.asker(), await daemon.asker()
    assert await first.asks(asks()) == await second.asks(asks()) == DUNNO

    with capture_logs() as logs:
        third = await daemon.asker()
        assert await third.is_hung_up_on()

    assert [line["event"] for line in logs] == ["policy.too_many_connections"]
    first.writer.transport.abort()
    async with asyncio.timeout(10):
        while daemon.server.connections > 1:
            await asyncio.sleep(0.001)
    assert await (await daemon.asker()).asks(asks()) == DUNNO


async def test_a_drain_answers_what_was_asked_and_hangs_up(
    open_daemon: OpenDaemon, slow: tuple[Slow, Quota]
) -> None:
    daemon = await open_daemon(slow[1])
    idle, busy = await daemon.asker(), await daemon.asker()
    await idle.asks(asks())
    await busy.send(asks("slow@x") + asks("unknown@x"))
    await slow[0].asked.wait()

    draining = asyncio.create_task(daemon.server.drain(10))
    assert await idle.is_hung_up_on()
    slow[0].let.set()

    assert [await busy.reply(), await busy.reply()] == [DUNNO, UNKNOWN]
    assert await busy.is_hung_up_on()
    await asyncio.wait_for(draining, 10)
    with pytest.raises(ConnectionRefusedError):
        await daemon.asker()


async def test_a_drain_ends_in_its_time(open_daemon: OpenDaemon, slow: tuple[Slow, Quota]) -> None:
    daemon = await open_daemon(slow[1])
    asker = await daemon.asker()
    await asker.send(asks("slow@x"))
    await slow[0].asked.wait()

    await asyncio.wait_for(daemon.server.drain(0.1), 5)

    assert await asker.is_hung_up_on()
    assert daemon.server.connections == 0
