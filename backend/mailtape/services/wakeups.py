"""Waking those who wait for an organisation's next message, or may wait no longer.

Whoever has stored messages, or ended a session or a token, announces it after the commit; a watcher
is woken and looks for itself, at the messages and at its own leave. An announcement carries nothing
but "look again", so a lost or doubled one can never show a wrong message. A watch that is opened
before the first look misses nothing that is committed after it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from mailtape.domain.errors import TooMany
from mailtape.domain.ids import OrganisationId


class Watch:
    """One watcher's bell."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the watcher, now or when it waits next."""
        self._rung.set()

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - a time-out is an answer here
        """Sleep until the bell rings, at most `timeout` seconds; tell whether it rang."""
        try:
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Wakeups:
    """Who watches which organisation.

    `most` bounds the watches of one organisation at a time: each is an open connection, and all are
    woken together.
    """

    def __init__(self, most: int = 500) -> None:
        self.most = most
        self._watches: defaultdict[OrganisationId, set[Watch]] = defaultdict(set)
        self._closed = False
        self._tell_others: Callable[[OrganisationId], None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the process is ending: watchers finish instead of sleeping on."""
        return self._closed

    def watching(self, organisation_id: OrganisationId) -> int:
        """Tell how many watch this organisation now."""
        return len(self._watches.get(organisation_id, ()))

    def announce(self, organisation_id: OrganisationId) -> None:
        """Wake everybody who watches this organisation; call it after the commit."""
        self.ring(organisation_id)
        if self._tell_others is not None:
            self._tell_others(organisation_id)

    def announce_all(self, organisation_ids: Iterable[OrganisationId]) -> None:
        """Announce to each of these."""
        for organisation_id in organisation_ids:
            self.announce(organisation_id)

    def also_tell(self, announce: Callable[[OrganisationId], None]) -> None:
        """Hand every announcement on to the watchers of other processes; it must not block."""
        self._tell_others = announce

    def ring(self, organisation_id: OrganisationId) -> None:
        """Wake those who watch this organisation in this process."""
        for watch in self._watches.get(organisation_id, ()):
            watch.ring()

    def ring_all(self) -> None:
        """Wake everybody in this process: an announcement may have been lost."""
        for watches in self._watches.values():
            for watch in watches:
                watch.ring()

    def close(self) -> None:
        """Wake everybody for the last time."""
        self._closed = True
        self.ring_all()

    @asynccontextmanager
    async def watch(self, organisation_id: OrganisationId) -> AsyncIterator[Watch]:
        """Watch an organisation for as long as the context lasts.

        Raises:
            TooMany: it is watched by as many as may.
        """
        if self.watching(organisation_id) >= self.most:
            raise TooMany("Too many requests are waiting already.", retry_after=5)
        watch = Watch()
        self._watches[organisation_id].add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[organisation_id]
            watches.discard(watch)
            if not watches:
                del self._watches[organisation_id]
