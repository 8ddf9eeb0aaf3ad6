import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import event

from installation import DOMAIN, Installation
from mailtape.domain.errors import Forbidden, NotFound, Unavailable
from mailtape.domain.tier import FREE
from mailtape.rows import organisations, tiers
from mailtape.rows.database import Database, Session
from mailtape.services import addresses, recipients
from mailtape.services.recipients import Recipients
from people import register


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
    looked_up = Recipients(database, domain=DOMAIN, capture=local)

    with next_read_held_up(database) as reached:
        looking = asyncio.create_task(looked_up.resolve(f"checkout@{DOMAIN}"))
        async with asyncio.timeout(5):
            await reached.wait()
        await addresses.create(
            database,
            looked_up,
            acme,
            local_part="checkout",
            domain=DOMAIN,
            now=installation.clock(),
        )
    before = await looking

    after = await looked_up.resolve(f"checkout@{DOMAIN}")
    assert before.delivery.organisation_id == local, "it was looked up before the change"
    assert after.delivery.organisation_id == acme


@contextmanager
def transactions_counted(database: Database) -> Iterator[list[str]]:
    """Collect the reading transactions that are begun until the context ends."""
    begun: list[str] = []

    def count(*_: object) -> None:
        begun.append("read")

    event.listen(database._reader, "begin", count)
    try:
        yield begun
    finally:
        event.remove(database._reader, "begin", count)


async def is_nobodys(looked_up: Recipients, address: str) -> bool:
    try:
        await looked_up.resolve(address)
    except NotFound:
        return True
    return False


@pytest.fixture
def strict(installation: Installation) -> Recipients:
    """Knows the addresses that somebody has, and captures nothing."""
    return Recipients(installation.parts.database, domain=DOMAIN, capture=None)


async def test_who_is_unknown_is_looked_up_once_and_not_each_time(
    installation: Installation, strict: Recipients
) -> None:
    with transactions_counted(installation.parts.database) as reads:
        answers = [await is_nobodys(strict, f"NoBody@{DOMAIN}".upper()) for _ in range(20)]

    assert answers == [True] * 20
    assert len(reads) == 1


async def test_who_was_unknown_is_looked_up_again_after_a_while(
    installation: Installation, strict: Recipients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipients, "_UNKNOWN_SECONDS", 0.05)
    with transactions_counted(installation.parts.database) as reads:
        await is_nobodys(strict, f"nobody@{DOMAIN}")
        await asyncio.sleep(0.06)
        await is_nobodys(strict, f"nobody@{DOMAIN}")

    assert len(reads) == 2


async def test_an_address_is_known_as_soon_as_somebody_takes_it(
    installation: Installation, strict: Recipients
) -> None:
    database = installation.parts.database
    acme = await installation.an_organisation("acme")
    assert await is_nobodys(strict, f"checkout@{DOMAIN}")

    now = installation.clock()
    await addresses.create(database, strict, acme, local_part="checkout", domain=DOMAIN, now=now)

    destination = await strict.resolve(f"checkout@{DOMAIN}")
    assert destination.delivery.organisation_id == acme


async def test_an_unknown_one_that_was_overtaken_by_a_change_is_not_remembered(
    installation: Installation, strict: Recipients
) -> None:
    database = installation.parts.database
    acme = await installation.an_organisation("acme")
    with next_read_held_up(database) as reached:
        looking = asyncio.create_task(is_nobodys(strict, f"checkout@{DOMAIN}"))
        async with asyncio.timeout(5):
            await reached.wait()
        now = installation.clock()
        await addresses.create(
            database, strict, acme, local_part="checkout", domain=DOMAIN, now=now
        )

    assert await looking, "it was looked up before the change"
    assert not await is_nobodys(strict, f"checkout@{DOMAIN}")


async def test_a_new_organisations_subdomain_takes_mail_at_once(
    installation: Installation,
) -> None:
    known = installation.parts.recipients
    assert await is_nobodys(known, f"anything@newcomer.{DOMAIN}")

    await register(installation.client, organization="newcomer")

    assert not await is_nobodys(known, f"anything@newcomer.{DOMAIN}")


async def test_a_dictionary_of_unknown_ones_puts_nobody_out_of_mind(
    installation: Installation, strict: Recipients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipients, "_MOST_UNKNOWN", 10)
    monkeypatch.setattr(recipients, "_MOST_REMEMBERED", 10)
    await installation.an_organisation("acme", "free")
    await strict.resolve(f"qa@acme.{DOMAIN}")
    for number in range(50):
        assert await is_nobodys(strict, f"word-{number}@{DOMAIN}")

    with transactions_counted(installation.parts.database) as reads:
        await strict.resolve(f"qa@acme.{DOMAIN}")
        assert await is_nobodys(strict, f"word-49@{DOMAIN}")
        assert reads == []
        assert await is_nobodys(strict, f"word-0@{DOMAIN}")

    assert len(reads) == 1, "of the unknown ones only the newest are remembered"
    assert len(strict._unknown) == 10


@contextmanager
def rows_away(database: Database) -> Iterator[list[str]]:
    """Have no reading transaction begin until the context ends; tells how many were tried."""
    tried: list[str] = []

    def refuse(*_: object) -> None:
        tried.append("read")
        raise sqlite3.OperationalError("unable to open database file")

    event.listen(database._reader, "begin", refuse)
    try:
        yield tried
    finally:
        event.remove(database._reader, "begin", refuse)


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is known looked up again each time."""
    monkeypatch.setattr(recipients, "_REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(recipients, "_UNKNOWN_SECONDS", 0.0)
    monkeypatch.setattr(recipients, "_LEFT_ALONE_SECONDS", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for rows that answer, however loaded the machine is."""
    monkeypatch.setattr(recipients, "_PATIENCE_SECONDS", 10.0)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What it is told by how long ago somebody was known."""
    clock = Clock()
    monkeypatch.setattr(recipients, "time", clock)
    return clock


@pytest.mark.usefixtures("short_memory", "patient")
async def test_who_was_known_is_known_while_the_rows_are_away_and_nobody_else_is_either(
    installation: Installation, strict: Recipients, clock: Clock
) -> None:
    acme = await installation.an_organisation("acme", "free")
    known = await strict.resolve(f"qa@acme.{DOMAIN}")
    assert await is_nobodys(strict, f"nobody@{DOMAIN}")

    with rows_away(installation.parts.database):
        assert strict.remembered(f"QA@acme.{DOMAIN}", stale=True) == known
        assert strict.remembered(f"qa@acme.{DOMAIN}", stale=False) is None
        assert await strict.resolve(f"QA@acme.{DOMAIN}") == known
        for other in (f"other@acme.{DOMAIN}", f"nobody@{DOMAIN}"):
            assert strict.remembered(other, stale=True) is None
            with pytest.raises(Unavailable):
                await strict.resolve(other)
        clock.now += recipients._STALE_SECONDS
        assert strict.remembered(f"qa@acme.{DOMAIN}", stale=True) is None
        with pytest.raises(Unavailable):
            await strict.resolve(f"qa@acme.{DOMAIN}")

    assert (await strict.resolve(f"qa@acme.{DOMAIN}")).delivery.organisation_id == acme


@pytest.mark.usefixtures("short_memory")
async def test_rows_that_hang_are_waited_for_a_moment_by_whoever_is_known(
    installation: Installation, strict: Recipients
) -> None:
    await installation.an_organisation("acme", "free")
    known = await strict.resolve(f"qa@acme.{DOMAIN}")

    with next_read_held_up(installation.parts.database) as reached:
        async with asyncio.timeout(5):
            assert await strict.resolve(f"qa@acme.{DOMAIN}") == known
        assert reached.is_set()


@pytest.mark.usefixtures("patient")
async def test_rows_that_were_away_are_left_alone_by_whoever_is_known(
    installation: Installation,
    strict: Recipients,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipients, "_REMEMBERED_SECONDS", 0.0)
    await installation.an_organisation("acme", "free")
    known = await strict.resolve(f"qa@acme.{DOMAIN}")

    with rows_away(installation.parts.database) as tried:
        answers = [await strict.resolve(f"qa@acme.{DOMAIN}") for _ in range(20)]
        assert len(tried) == 1
        clock.now += recipients._LEFT_ALONE_SECONDS
        await strict.resolve(f"qa@acme.{DOMAIN}")
        assert len(tried) == 2

    assert answers == [known] * 20


def _suspend(session: Session) -> None:
    organisation = organisations.find_by_slug(session, "acme")
    assert organisation is not None
    organisation.status = "suspended"


def _take_the_subdomain(session: Session) -> None:
    tiers.ensure(session, replace(FREE, name="plain", features=frozenset()))
    organisation = organisations.find_by_slug(session, "acme")
    assert organisation is not None
    organisation.tier = "plain"


@pytest.mark.usefixtures("short_memory", "patient")
@pytest.mark.parametrize(
    ("change", "error"),
    [(_suspend, Forbidden), (_take_the_subdomain, NotFound)],
    ids=["suspended", "gone"],
)
async def test_what_was_seen_to_have_ended_does_not_come_back_when_the_rows_go(
    installation: Installation,
    strict: Recipients,
    change: Callable[[Session], None],
    error: type[Exception],
) -> None:
    await installation.an_organisation("acme", "free")
    await strict.resolve(f"qa@acme.{DOMAIN}")
    await installation.parts.database.write(change)
    with pytest.raises(error):
        await strict.resolve(f"qa@acme.{DOMAIN}")

    with rows_away(installation.parts.database), pytest.raises(Unavailable):
        await strict.resolve(f"qa@acme.{DOMAIN}")
