"""Connections over sockets: those that ask for nothing, for half of something, or are too many."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from mailtape.http_server import HttpBounds, HttpServer

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SOON = HttpBounds(request_seconds=0.2)


class Client:
    """Sends bytes as told; five seconds is for ever."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """The next answer's status line and body; empty when the server has closed."""
        async with asyncio.timeout(5):
            status = await self.reader.readline()
            length = 0
            while (line := await self.reader.readline()) not in {b"", b"\r\n"}:
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            return status.strip() + await self.reader.readexactly(length)

    async def is_hung_up_on(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


class House:
    """A listener and its clients; the application answers how much it was sent."""

    def __init__(self, server: HttpServer, port: int, may_answer: asyncio.Event) -> None:
        self.server = server
        self.port = port
        self.may_answer = may_answer
        self.clients: list[Client] = []

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def empties_to(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.server.server_state.connections) > count:
                await asyncio.sleep(0)


@asynccontextmanager
async def open_house(bounds: HttpBounds) -> AsyncIterator[House]:
    may_answer = asyncio.Event()
    may_answer.set()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = PlainTextResponse("too much", status_code=413)
        if scope["path"] != "/refused":
            body = await Request(scope, receive).body()
            response = PlainTextResponse(str(len(body)))
        await may_answer.wait()
        await response(scope, receive, send)

    listener = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    (listening,) = (socket.dup() for socket in listener.sockets)
    listener.close()
    server = HttpServer(
        application, bounds, may_answer.set, lifespan="off", ws="none", log_config=None
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await server.ready.wait()
    house = House(server, listening.getsockname()[1], may_answer)
    try:
        yield house
    finally:
        for client in house.clients:
            client.writer.transport.abort()
        server.leave()
        await serving


async def test_a_connection_that_asks_nothing_is_closed_in_time() -> None:
    async with open_house(SOON) as house:
        client = await house.client()

        assert await client.answer() == b""
        await house.empties_to(0)


@pytest.mark.parametrize(
    "half",
    [
        b"GET / HTTP/1.1\r\nHost",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_half_a_request_is_answered_408_and_closed(half: bytes) -> None:
    async with open_house(SOON) as house:
        client = await house.client()
        client.send(half)

        assert await client.answer() == b"HTTP/1.1 408 Request Timeout"
        assert await client.is_hung_up_on()
        await house.empties_to(0)


async def test_a_request_that_trickles_gains_no_time() -> None:
    async with open_house(SOON) as house:
        client = await house.client()
        client.send(b"GET / HTTP/1.1\r\nX: ")

        async def trickle() -> None:
            while True:
                client.send(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await client.answer() == b"HTTP/1.1 408 Request Timeout"
        trickling.cancel()


@pytest.mark.parametrize("owed", [b"\r\n", b"GET / HT"])
async def test_a_later_request_has_its_time_too(owed: bytes) -> None:
    async with open_house(SOON) as house:
        client = await house.client()
        client.send(GET)
        assert await client.answer() == b"HTTP/1.1 200 OK0"

        client.send(owed)

        assert await client.answer() in {b"", b"HTTP/1.1 408 Request Timeout"}
        await house.empties_to(0)


async def test_a_body_that_was_refused_must_come_in_time_too() -> None:
    async with open_house(SOON) as house:
        client = await house.client()
        client.send(b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")

        assert await client.answer() == b"HTTP/1.1 413 Request Entity Too Largetoo much"
        assert await client.is_hung_up_on()


async def test_a_slow_answer_is_not_the_clients_fault() -> None:
    async with open_house(SOON) as house:
        client = await house.client()
        house.may_answer.clear()
        client.send(GET + GET + GET[:9])  # with one in line, the server reads no further
        await asyncio.sleep(0.5)  # more than twice what a client has
        house.may_answer.set()
        client.send(GET[9:])

        for _ in range(3):
            assert await client.answer() == b"HTTP/1.1 200 OK0"


async def test_a_client_between_requests_may_stay() -> None:
    async with open_house(SOON) as house:
        client = await house.client()
        for _ in range(2):
            client.send(GET)
            assert await client.answer() == b"HTTP/1.1 200 OK0"
            await asyncio.sleep(0.4)  # twice what half a request has
        client.send(GET)
        assert await client.answer() == b"HTTP/1.1 200 OK0"


async def test_a_large_body_comes_whole() -> None:
    async with open_house(HttpBounds()) as house:
        client = await house.client()
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000)

        assert await client.answer() == b"HTTP/1.1 200 OK9000000"


async def test_the_connection_too_many_is_answered_503_and_those_before_it_go_on() -> None:
    async with open_house(HttpBounds(connections=2)) as house:
        first, second = await house.client(), await house.client()
        second.send(GET)
        assert await second.answer() == b"HTTP/1.1 200 OK0"
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                third = await house.client()
                assert await third.answer() == b"HTTP/1.1 503 Service Unavailable"
                assert await third.is_hung_up_on()
        first.send(GET)
        assert await first.answer() == b"HTTP/1.1 200 OK0"
        first.writer.close()
        await house.empties_to(1)

        fourth = await house.client()
        fourth.send(GET)
        assert await fourth.answer() == b"HTTP/1.1 200 OK0"
        assert [entry["event"] for entry in logs] == ["http.too_many_connections"]
