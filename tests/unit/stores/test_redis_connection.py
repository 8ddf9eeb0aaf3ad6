"""A connection to what speaks no RESP."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailtape.domain.errors import Unavailable
from mailtape.stores import redis_connection
from mailtape.stores.redis_connection import RedisConnection


class Server:
    """Hangs up on whoever asks, or answers every command alike."""

    answer = b""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.answer and (line := await reader.readline()):
            if line.startswith(b"*"):
                writer.write(self.answer)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    server = Server()
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    yield server, f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


async def test_an_answer_that_nobody_understands_does_not_end_the_probes(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "PROBE_SECONDS", 0.02)
    answering, url = server
    connection = RedisConnection(url)
    while connection.available:
        with pytest.raises(Unavailable):
            await connection.commands([("GET", "a")])

    answering.answer = b":no number\r\n"
    await asyncio.sleep(0.2)
    assert not connection.available
    answering.answer = b"+OK\r\n"

    async with asyncio.timeout(5):
        while not connection.available:
            await asyncio.sleep(0.01)
    await connection.close()
