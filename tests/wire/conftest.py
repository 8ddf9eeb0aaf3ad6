"""The real listener on a free loopback port, with the real queue behind it.

Only the directory of recipients is made up: it is the input of these tests.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fakes import a_delivery
from mailtape.domain.errors import Forbidden, NotFound, Unavailable
from mailtape.ports.queue import Leased, Queue
from mailtape.rows.writing_thread import WritingThread
from mailtape.services.recipients import Destination
from mailtape.stores.sqlite_queue import SqliteQueue
from mailtape_ingest.handler import MailHandler
from mailtape_ingest.server import Deadlines, Server
from mailtape_ingest.session import Rules
from mailtape_ingest.tls import ensure_self_signed, server_context


class Directory:
    """Recipients by what their local part says; everybody else is known and takes any size."""

    async def resolve(self, address: str) -> Destination:
        match address.partition("@")[0].partition("+")[0]:
            case "unknown":
                raise NotFound("No such address here.", code="address_unknown")
            case "suspended":
                raise Forbidden("Suspended.", code="organisation_suspended")
            case "down":
                raise Unavailable("The directory is down.")
            case "broken":
                raise ZeroDivisionError("a secret of ours")
            case "small":
                return Destination(a_delivery(address), message_bytes=100)
            case _:
                return Destination(a_delivery(address), message_bytes=None)


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

    def __init__(self, server: Server, port: int, queue: Queue) -> None:
        self.server = server
        self.port = port
        self.queue = queue
        self.clients: list[Client] = []

    async def client(self, *, greeted: bool = True) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        client = Client(reader, writer)
        self.clients.append(client)
        if greeted:
            assert await client.reply() == "220 mail.example.com ESMTP Mailtape"
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return ensure_self_signed(tmp_path_factory.mktemp("tls"), "mail.example.com", datetime.now(UTC))


@pytest.fixture
async def open_house(
    queue: SqliteQueue, certificate: tuple[Path, Path]
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
        handler = MailHandler(queue, Directory(), None if any_credentials else only_opensesame)
        server = Server(
            handler,
            Rules(**rules),
            deadlines=deadlines or Deadlines(farewell=1),
            tls=server_context(*certificate) if rules["tls"] else None,
            connections=connections,
            octets_in_flight=octets_in_flight,
        )
        _, port = await server.listen("127.0.0.1", 0)
        houses.append(House(server, port, queue))
        return houses[-1]

    yield open_house
    for house in houses:
        for client in house.clients:
            client.writer.transport.abort()
        await house.server.drain(1.0)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """SMTP on both loops: uvloop is what serves, asyncio's own is the second opinion."""
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return loops if "smtp" in item.nodeid else {"asyncio": asyncio.new_event_loop}
