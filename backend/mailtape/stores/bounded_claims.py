"""The bound of what is claimed, which all processes share and each keeps by itself.

A process asks the store how much is claimed, a second at most before it relies on the answer, and
adds what it claims itself. So what all of them claim passes the bound by no more than what the
others claim within a second. Of a store that says nothing all who ask hear within the time of one
question.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mailtape.domain.errors import StoreFull
from mailtape.ports.claims import Claims

ASKED_SECONDS = 1.0


class BoundedClaims:
    """How much room there is for claims."""

    def __init__(self, claims: Claims, max_bytes: int) -> None:
        self._claims = claims
        self._max_bytes = max_bytes
        self._question: asyncio.Task[None] | None = None
        """Under way."""
        self._asked_at = float("-inf")
        self._kept = 0
        """What the store told."""
        self._since = 0
        """What was claimed here after the store was asked."""
        self._under_way = 0

    @asynccontextmanager
    async def room(self, octets: int) -> AsyncIterator[None]:
        """Have room for a claim that is made within the context.

        Raises:
            StoreFull: there is none.
            Unavailable: the store cannot be asked.
        """
        await self._ask()
        if self._kept + self._since + self._under_way + octets > self._max_bytes:
            raise StoreFull("The queue has no room for mail as large as this.")
        self._under_way += octets
        try:
            yield
        finally:
            self._under_way -= octets
            self._since += octets  # also what failed may be there; the next answer has it or not

    async def _ask(self) -> None:
        """Ask once, however many wait for the answer, and whoever of them leaves."""
        if self._question is None:
            if time.monotonic() - self._asked_at < ASKED_SECONDS:
                return
            self._question = asyncio.create_task(self._learn())
            self._question.add_done_callback(self._learnt)
        await asyncio.shield(self._question)

    async def _learn(self) -> None:
        asked_at, since = time.monotonic(), self._since
        self._kept = await self._claims.octets()
        self._since -= since
        self._asked_at = asked_at

    def _learnt(self, question: asyncio.Task[None]) -> None:
        self._question = None
        if not question.cancelled():
            question.exception()  # whoever waited has it; nobody may have
