import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from installation import DOMAIN, Installation
from mailtape.rows.database import Database
from mailtape.services import addresses
from mailtape.services.recipients import Recipients


@contextmanager
def next_read_held_up(database: Database) -> Iterator[asyncio.Event]:
    """Hold the next read up in its thread, its snapshot taken, until the context ends."""
    loop, reached, may_go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def hold_up(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):  # with the first query SQLite takes the snapshot
            loop.call_soon_threadsafe(reached.set)
            may_go_on.wait(10)

    event.listen(database._reader, "after_cursor_execute", hold_up)
    try:
        yield reached
    finally:
        may_go_on.set()


async def test_a_look_up_that_was_overtaken_by_a_change_is_not_remembered(
    installation: Installation,
) -> None:
    database = installation.parts.database
    local = await installation.an_organisation("local")
    acme = await installation.an_organisation("acme")
    recipients = Recipients(database, domain=DOMAIN, capture=local)

    with next_read_held_up(database) as reached:
        looking = asyncio.create_task(recipients.resolve(f"checkout@{DOMAIN}"))
        async with asyncio.timeout(5):
            await reached.wait()
        await addresses.create(
            database,
            recipients,
            acme,
            local_part="checkout",
            domain=DOMAIN,
            now=installation.clock(),
        )
    before = await looking

    after = await recipients.resolve(f"checkout@{DOMAIN}")
    assert before.delivery.organisation_id == local, "it was looked up before the change"
    assert after.delivery.organisation_id == acme
