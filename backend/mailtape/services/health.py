"""Whether this process can do its work now: each part really used once."""

import asyncio
from collections.abc import Coroutine

from mailtape.domain.errors import MailtapeError
from mailtape.ports.queue import Queue
from mailtape.rows import organisations
from mailtape.rows.database import Database, Session

_PATIENCE_SECONDS = 5.0
"""A part that takes longer to answer is down for whoever waits for it."""


async def check(database: Database, queue: Queue) -> dict[str, bool]:
    """Tell of each part whether it works: rows to read and write, a queue with room."""
    names = ("rows", "writing", "queue")
    works = await asyncio.gather(
        _works(database.read(organisations.find_by_slug, "local")),
        _works(database.write(_nothing)),
        _works(queue.check_room()),
    )
    return dict(zip(names, works, strict=True))


async def _works(question: Coroutine[object, object, object]) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await question
    except (MailtapeError, TimeoutError):
        return False
    return True


def _nothing(_session: Session) -> None:
    """Take the write lock and give it back."""
