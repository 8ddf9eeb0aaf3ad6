"""The doors of a process: they open together, and drain in the same seconds."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from mailtape.settings import HostPort, Settings


class Door(Protocol):
    """A server that takes connections and can be asked to finish with them."""

    async def listen(self, host: str, port: int, *, shared: bool = False) -> tuple[str, int]:
        """Start to take connections; returns host and port as bound."""

    async def drain(self, seconds: float) -> None:
        """Take no more, finish what has begun, cut what is left after so many seconds."""


def bind(address: HostPort, *, shared: bool = False) -> socket.socket:
    """Bind by ourselves, so that port 0 is known and a taken port is an error of the start.

    `shared`: several processes may bind the same address, and the kernel spreads the connections.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server(
        (address.host, address.port), family=family, backlog=1024, reuse_port=shared
    )


@asynccontextmanager
async def listening(
    settings: Settings, doors: Mapping[str, tuple[Door, HostPort]], *, shared: bool = False
) -> AsyncIterator[dict[str, HostPort]]:
    """Listen at every door; gives the addresses as bound."""
    try:
        yield {
            name: HostPort(*await door.listen(address.host, address.port, shared=shared))
            for name, (door, address) in doors.items()
        }
    finally:
        seconds = settings.drain_timeout_seconds
        await asyncio.gather(*(door.drain(seconds) for door, _ in doors.values()))
