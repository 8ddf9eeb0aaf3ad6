"""An installation's application on a real socket, for what a client in memory cannot show."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from fastapi import FastAPI


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve on a free loopback port; gives a client that speaks to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server._serve([listening]))
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False
            ) as client:
                yield client
        finally:
            server.should_exit = True
            await running


@dataclass(frozen=True)
class Told:
    """One event as it came over the wire."""

    id: str
    event: str
    data: str


async def follow(response: httpx.Response) -> AsyncIterator[Told]:
    """Read events off a stream (HTML standard, section 9.2.6), passing comments over."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(":")
        if line == "" and "data" in fields:
            yield Told(fields.get("id", ""), fields.get("event", ""), fields["data"])
        if line == "":
            fields = {}
        elif name:
            fields[name] = value.removeprefix(" ")
