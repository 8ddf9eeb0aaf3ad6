"""Whether this process can do its work now: each part really used once."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TypeAlias

from mailtape.domain.errors import MailtapeError
from mailtape.ports.bodies import Bodies
from mailtape.ports.queue import Queue
from mailtape.rows import organisations
from mailtape.rows.database import Database, Session

_PATIENCE_SECONDS = 5.0
"""A part that takes longer to answer is down for whoever waits for it."""

Question: TypeAlias = Callable[[], Coroutine[object, object, object]]
"""Uses a part once; raises when it does not work."""


def reading(database: Database) -> Question:
    """Ask whether rows can be read."""
    return lambda: database.read(organisations.find_by_slug, "local")


def writing(database: Database) -> Question:
    """Ask whether rows can be written."""
    return lambda: database.write(_nothing)


def accepting(queue: Queue) -> Question:
    """Ask whether mail would be kept."""
    return queue.check_room


def keeping(bodies: Bodies) -> Question:
    """Ask whether bodies can be fetched."""
    return lambda: bodies.keys(None, 1)


async def check(questions: Mapping[str, Question]) -> dict[str, bool]:
    """Tell of each part whether it works."""
    works = await asyncio.gather(*(_works(ask) for ask in questions.values()))
    return dict(zip(questions, works, strict=True))


async def _works(ask: Question) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await ask()
    except (MailtapeError, TimeoutError):
        return False
    return True


def _nothing(_session: Session) -> None:
    """Take the write lock and give it back."""
