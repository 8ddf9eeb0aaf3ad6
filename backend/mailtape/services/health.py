"""Whether this process can do its work now: each part really used once."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TypeAlias

from mailtape.domain.errors import MailtapeError
from mailtape.metrics import PART_WORKS, QUEUE_DEPTH
from mailtape.ports.bodies import Bodies
from mailtape.ports.queue import Queue
from mailtape.rows import organisations
from mailtape.rows.database import Database

_PATIENCE_SECONDS = 5.0
"""A part that takes longer to answer is down for whoever waits for it."""

Question: TypeAlias = Callable[[], Coroutine[object, object, object]]
"""Uses a part once; raises when it does not work."""


def reading(database: Database) -> Question:
    """Ask whether rows can be read."""
    return lambda: database.read(organisations.find_by_slug, "local")


def writing(database: Database) -> Question:
    """Ask whether rows can be written."""
    return lambda: database.write(organisations.change_nothing)


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


async def measure(questions: Mapping[str, Question], queue: Queue | None) -> None:
    """Bring the metrics of parts and queue up to date; what cannot be told is not shown."""
    for name, works in (await check(questions)).items():
        PART_WORKS.labels(name).set(works)
    if queue is None:
        return
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            depth = await queue.depth()
    except (MailtapeError, TimeoutError):
        QUEUE_DEPTH.clear()
        return
    QUEUE_DEPTH.labels("waiting").set(depth.waiting)
    QUEUE_DEPTH.labels("leased").set(depth.leased)
    QUEUE_DEPTH.labels("parked").set(depth.parked)


async def _works(ask: Question) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await ask()
    except (MailtapeError, TimeoutError):
        return False
    return True
