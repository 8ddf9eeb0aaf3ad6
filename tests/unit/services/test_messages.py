import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from installation import Installation
from mailtape.domain import ids
from mailtape.domain.errors import Invalid, NotFound
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.message import Listed
from mailtape.domain.query import MessageQuery
from mailtape.ports.bodies import BodyKey
from mailtape.services import messages
from postroom import QA, a_mail, deliver, deposit_many

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


def identity(text: str) -> MessageId:
    octets = ids.from_text(text)
    assert octets is not None
    return MessageId(octets)


async def bodies_of(installation: Installation) -> list[BodyKey]:
    return await installation.parts.bodies.keys(None, 100)


async def may_read() -> None:
    """Nobody's leave ends in here."""


@asynccontextmanager
async def waiting(
    installation: Installation, organisation_id: OrganisationId, query: MessageQuery
) -> AsyncIterator[asyncio.Task[Listed | None]]:
    parts = installation.parts
    task = asyncio.create_task(
        messages.wait(
            parts.database, parts.wakeups, organisation_id, query, seconds=10, check=may_read
        )
    )
    while not parts.wakeups.watching(organisation_id):
        await asyncio.sleep(0)
    yield task
    task.cancel()


async def test_wait_gives_the_oldest_match_that_is_there(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 1, recipient="other@mail.example.com")
    first, *_ = await deposit_many(installation, acme, 3)
    parts = installation.parts

    found = await messages.wait(
        parts.database, parts.wakeups, acme, MessageQuery(address=QA), seconds=0, check=may_read
    )

    assert found is not None
    assert found.id == first
    assert not found.read


async def test_wait_is_woken_by_the_store_and_by_what_matches_alone(
    installation: Installation, acme: OrganisationId
) -> None:
    rival = await installation.an_organisation("rival")
    query = MessageQuery(address=QA, words="invoice")

    async with waiting(installation, acme, query) as task:
        await deliver(installation, rival, a_mail("invoice"))
        await deliver(installation, acme, a_mail("order"))
        await deliver(installation, acme, a_mail("invoice"), recipients=["b@mail.example.com"])
        assert not task.done()
        (expected,) = await deliver(installation, acme, a_mail("invoice"))
        found = await asyncio.wait_for(task, 5)

    assert found is not None
    assert ids.to_text(found.id) == expected


async def test_wait_misses_no_message_that_is_stored_while_it_looks(
    installation: Installation, acme: OrganisationId
) -> None:
    parts = installation.parts
    for run in range(100):
        since = MessageQuery(since_sequence=run)
        delivering = asyncio.create_task(deliver(installation, acme))
        waits: list[asyncio.Task[Listed | None]] = []
        while not delivering.done():  # so that some wait is at each of its steps at the commit
            if len(waits) < 40:
                wait = messages.wait(
                    parts.database, parts.wakeups, acme, since, seconds=5, check=may_read
                )
                waits.append(asyncio.create_task(wait))
            await asyncio.sleep(0.0002)

        (expected,) = await delivering
        found = await asyncio.gather(*waits)

        assert {ids.to_text(message.id) for message in found if message} == {expected}
        assert None not in found


@pytest.mark.parametrize(("seconds", "again"), [(1.0, 15.0), (60.0, 0.05)], ids=["last", "again"])
async def test_wait_finds_what_nobody_announced(
    installation: Installation,
    acme: OrganisationId,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    again: float,
) -> None:
    monkeypatch.setattr(messages, "_LOOK_AGAIN_SECONDS", again)
    parts, looked = installation.parts, asyncio.Event()

    async def check() -> None:
        looked.set()

    waiting = asyncio.create_task(
        messages.wait(
            parts.database, parts.wakeups, acme, MessageQuery(), seconds=seconds, check=check
        )
    )
    while not looked.is_set():
        parts.wakeups.ring(acme)
        await asyncio.sleep(0)
    (expected,) = await deposit_many(installation, acme, 1)

    found = await asyncio.wait_for(waiting, 5)

    assert found is not None
    assert found.id == expected


async def test_wait_ends_without_a_match_in_time_and_when_the_process_ends(
    installation: Installation, acme: OrganisationId
) -> None:
    parts = installation.parts

    in_time = await messages.wait(
        parts.database, parts.wakeups, acme, MessageQuery(), seconds=0.02, check=may_read
    )
    async with waiting(installation, acme, MessageQuery()) as task:
        parts.wakeups.close()
        at_the_end = await asyncio.wait_for(task, 5)

    assert (in_time, at_the_end) == (None, None)
    assert not parts.wakeups.watching(acme)


async def test_a_body_goes_with_the_last_message_of_its_organisation(
    installation: Installation, acme: OrganisationId
) -> None:
    rival = await installation.an_organisation("rival")
    one, other = await deliver(
        installation,
        acme,
        recipients=[QA, "b@mail.example.com"],
        strangers=[("c@mail.example.com", rival)],
    )
    parts = installation.parts
    assert len(await bodies_of(installation)) == 2

    await messages.delete(parts.database, parts.bodies, acme, identity(one), now=NOW)
    with_one_left = await bodies_of(installation)
    await messages.delete(parts.database, parts.bodies, acme, identity(other), now=NOW)
    with_none_left = await bodies_of(installation)

    assert len(with_one_left) == 2
    assert [key.organisation_id for key in with_none_left] == [rival]
    with pytest.raises(NotFound):
        await messages.delete(parts.database, parts.bodies, acme, identity(one), now=NOW)


async def test_bulk_deletion_takes_all_that_match_and_their_bodies(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 450)
    for _ in range(3):
        await deliver(installation, acme, a_mail("order"))
    await deliver(installation, acme, recipients=["kept@mail.example.com"])
    parts = installation.parts

    deleted = await messages.delete_matching(
        parts.database, parts.bodies, acme, MessageQuery(address=QA), now=NOW
    )

    left = await messages.find(parts.database, acme, MessageQuery(), limit=50)
    assert deleted == 453
    assert [message.address for message in left.items] == ["kept@mail.example.com"]
    assert len(await bodies_of(installation)) == 1


async def test_a_message_whose_body_is_gone_is_not_found_but_listed(
    installation: Installation, acme: OrganisationId
) -> None:
    (text,) = await deliver(installation, acme)
    parts = installation.parts
    await parts.bodies.delete(await bodies_of(installation))

    for ask in (messages.get, messages.raw, messages.content):
        with pytest.raises(NotFound) as refused:
            await ask(parts.database, parts.bodies, acme, identity(text))
        assert refused.value.code == "body_gone"
    listed = await messages.find(parts.database, acme, MessageQuery(), limit=50)

    assert len(listed.items) == 1


async def test_shows_only_the_recipients_of_its_own_organisation(
    installation: Installation, acme: OrganisationId
) -> None:
    rival = await installation.an_organisation("rival")
    mine = [QA, "qa+bcc@mail.example.com"]
    one, _ = await deliver(
        installation, acme, recipients=mine, strangers=[("theirs@mail.example.com", rival)]
    )
    parts = installation.parts

    opened = await messages.get(parts.database, parts.bodies, acme, identity(one))

    assert opened.reception.rcpt_to == tuple(mine)
    assert opened.message.unparsed is False


@pytest.mark.parametrize(
    "query", [MessageQuery(), MessageQuery(words="order"), MessageQuery(since_sequence=0)]
)
async def test_pages_join_without_a_seam(
    installation: Installation, acme: OrganisationId, query: MessageQuery
) -> None:
    stored = await deposit_many(installation, acme, 11)
    seen: list[bytes] = []
    after: bytes | None = None

    for _ in range(4):
        page = await messages.find(installation.parts.database, acme, query, limit=3, after=after)
        seen += [message.id for message in page.items]
        after = page.next

    assert seen == stored[::-1]
    assert after is None


async def test_refuses_the_cursor_of_another_order(
    installation: Installation, acme: OrganisationId
) -> None:
    await deposit_many(installation, acme, 3)
    database = installation.parts.database
    by_id = (await messages.find(database, acme, MessageQuery(), limit=1)).next
    by_sequence = (await messages.find(database, acme, MessageQuery(words="order"), limit=1)).next

    for query, cursor in (
        (MessageQuery(words="order"), by_id),
        (MessageQuery(), by_sequence),
        (MessageQuery(), b"short"),
        (MessageQuery(words="order"), bytes(8) + b"\xff" * 8),
    ):
        with pytest.raises(Invalid) as refused:
            await messages.find(database, acme, query, limit=1, after=cursor)
        assert refused.value.code == "invalid_cursor"


@pytest.mark.parametrize(
    "tags", [["x"] * 3 + [str(n) for n in range(20)], [""], ["x" * 65], ["a\nb"], ["a\x1bb"]]
)
async def test_refuses_tags_beyond_their_bounds(
    installation: Installation, acme: OrganisationId, tags: list[str]
) -> None:
    (message_id,) = await deposit_many(installation, acme, 1)

    with pytest.raises(Invalid):
        await messages.update(installation.parts.database, acme, MessageId(message_id), tags=tags)


async def test_a_tag_that_is_named_twice_is_set_once(
    installation: Installation, acme: OrganisationId
) -> None:
    (message_id,) = await deposit_many(installation, acme, 1)

    changed = await messages.update(
        installation.parts.database, acme, MessageId(message_id), tags=["b", "a", "b"]
    )

    assert changed.tags == ("b", "a")
