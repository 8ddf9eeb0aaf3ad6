"""The real listener on a free loopback port, with the real rule, counters and queue behind it.

Only the directory of recipients is made up: it is the input of these tests.
"""

import asyncio
import contextlib
import hashlib
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fakes import a_delivery
from mailtape.domain.envelope import Protocol
from mailtape.domain.errors import NotFound, Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import Limits
from mailtape.ports.queue import Leased, Queue
from mailtape.rows.sqlite_database import SqliteDatabase
from mailtape.rows.writing_thread import WritingThread
from mailtape.services.quota import Quota
from mailtape.services.recipients import Destination, Suspended
from mailtape.services.refusals import Refusals
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.sqlite_queue import SqliteQueue
from mailtape_ingest.handler import MailHandler
from mailtape_ingest.server import Deadlines, Server
from mailtape_ingest.session import Rules
from mailtape_ingest.tls import ensure_self_signed, server_context

LOOPBACK = (ip_network("127.0.0.0/8"),)
LIMITS = {
    "small": Limits(message_bytes=100),
    "once": Limits(emails_per_month=1),
    "twice": Limits(emails_per_month=2),
    "usedup": Limits(emails_per_month=0),
    "rate": Limits(messages_per_minute=0),
    "full": Limits(storage_bytes=0),
    "fullforgood": Limits(storage_bytes=0, storage_is_hard=True),
    "tight": Limits(storage_bytes=100),
    "tightforgood": Limits(storage_bytes=100, storage_is_hard=True),
}


class Directory:
    """Recipients by what their local part says; everybody else is known and takes anything.

    Each local part is an organisation; a number at its end makes another with the same limits.
    Who was asked about is remembered.
    """

    def __init__(self) -> None:
        self._known: dict[str, Destination] = {}

    def remembered(self, address: str, *, stale: bool) -> Destination | None:  # noqa: ARG002
        return self._known.get(address)

    async def resolve(self, address: str) -> Destination:
        match local := address.partition("@")[0].partition("+")[0]:
            case "unknown":
                raise NotFound("No such address here.", code="address_unknown")
            case "suspended":
                raise Suspended(a_delivery(address, OrganisationId(bytes(16))))
            case "down":
                raise Unavailable("The directory is down.")
            case "broken":
                raise ZeroDivisionError("a secret of ours")
        owner = OrganisationId(hashlib.sha256(local.encode()).digest()[:16])
        self._known[address] = Destination(
            a_delivery(address, owner), LIMITS.get(local.rstrip("0123456789"), Limits())
        )
        return self._known[address]


async def only_opensesame(user: str, password: str) -> bool:
    return (user, password) == ("ali", "open sesame")


class Client:
    """A client that sends bytes as told and reads reply lines; five seconds is for ever."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(5):
            await self.writer.drain()

    async def line(self) -> str:
        """The next line without its end; empty when the server has closed."""
        async with asyncio.timeout(5):
            return (await self.reader.readline()).decode().removesuffix("\r\n")

    async def reply(self) -> str:
        """The last line of the next reply."""
        while (line := await self.line())[3:4] == "-":
            pass
        return line

    async def says(self, *commands: str) -> list[str]:
        """Send each command after the reply to the one before it."""
        replies = []
        for command in commands:
            await self.send(command.encode() + b"\r\n")
            replies.append(await self.reply())
        return replies

    async def starts_data(self, recipient: str = "qa@mail.example.com") -> None:
        replies = await self.says(
            "EHLO client.example.org", "MAIL FROM:<shop@example.org>", f"RCPT TO:<{recipient}>"
        )
        assert [reply[:3] for reply in replies] == ["250", "250", "250"]
        assert await self.says("DATA") == ["354 End data with <CR><LF>.<CR><LF>"]

    async def starts_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with asyncio.timeout(5):
            await self.writer.start_tls(context)

    async def is_hung_up_on(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class House:
    """A listener, what it keeps, and its clients."""

    def __init__(self, server: Server, port: int, queue: Queue, quota: Quota) -> None:
        self.server = server
        self.port = port
        self.queue = queue
        self.quota = quota
        self.clients: list[Client] = []

    async def client(self, *, greeted: bool = True) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        client = Client(reader, writer)
        self.clients.append(client)
        if greeted:
            kind = "ESMTP" if self.server.rules.protocol is Protocol.SMTP else "LMTP"
            assert await client.reply() == f"220 mail.example.com {kind} Mailtape"
        return client

    async def kept(self) -> list[Leased]:
        """The mails in the queue, oldest first."""
        mails: list[Leased] = []
        while len(mails) < (await self.queue.depth()).waiting + len(mails):
            mails += await self.queue.lease(100, 2**30)
        return mails


OpenHouse = Callable[..., Awaitable[House]]


@pytest.fixture
def queue(tmp_path: Path) -> Any:
    writing = WritingThread()
    queue = SqliteQueue(tmp_path / "queue.sqlite3", writing, max_bytes=2**30, lease_seconds=60)
    yield queue
    writing.stop()
    queue.close()


@pytest.fixture
async def quota(tmp_path: Path, migrated_rows: Path) -> AsyncIterator[Quota]:
    rows = tmp_path / "rows.sqlite3"
    shutil.copy(migrated_rows, rows)
    writing = WritingThread()
    database = SqliteDatabase(rows, writing)
    yield Quota(Directory(), SqlCounters(database), Refusals(), lambda: datetime.now(UTC))
    writing.stop()
    database.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return ensure_self_signed(tmp_path_factory.mktemp("tls"), "mail.example.com", datetime.now(UTC))


@pytest.fixture
async def open_house(
    queue: SqliteQueue, quota: Quota, certificate: tuple[Path, Path]
) -> AsyncIterator[OpenHouse]:
    """Opens a listener; keyword arguments are those of `Rules`, `Deadlines` and `Server`."""
    houses: list[House] = []

    async def open_house(
        *,
        deadlines: Deadlines | None = None,
        connections: int = 1000,
        octets_in_flight: int = 2**29,
        any_credentials: bool = False,
        queue: Queue = queue,
        **rules: Any,
    ) -> House:
        rules = {"hostname": "mail.example.com", "tls": True, "message_octets": 10_000} | rules
        handler = MailHandler(queue, quota, None if any_credentials else only_opensesame)
        server = Server(
            handler,
            Rules(**rules),
            deadlines=deadlines or Deadlines(farewell=1),
            tls=server_context(*certificate) if rules["tls"] else None,
            connections=connections,
            octets_in_flight=octets_in_flight,
        )
        _, port = await server.listen("127.0.0.1", 0)
        houses.append(House(server, port, queue, quota))
        return houses[-1]

    yield open_house
    for house in houses:
        for client in house.clients:
            client.writer.transport.abort()
        await house.server.drain(1.0)


@pytest.fixture
async def open_lmtp(open_house: OpenHouse) -> OpenHouse:
    """Opens a listener for LMTP, as a relay on this machine finds it."""

    async def open_lmtp(**rules: Any) -> House:
        relays = {"protocol": Protocol.LMTP, "tls": False, "trusted": LOOPBACK}
        return await open_house(**(relays | rules))

    return open_lmtp


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The wire on both loops: uvloop is what serves, asyncio's own is the second opinion."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
