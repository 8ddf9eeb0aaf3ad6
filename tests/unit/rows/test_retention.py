"""What nobody needs any more goes by bounded statements, on SQLite and on MySQL."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from fakes import an_ingest_id
from installation import Installation
from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.ports.bodies import BodyKey
from mailtape.rows import receipts, retention
from mailtape.rows.database import Session
from mailtape.rows.events import Event
from mailtape.rows.messages import Message, MessageKey
from mailtape.rows.receipts import IngestReceipt
from mailtape.services import retention as services
from postroom import deposit_many

NOW = datetime(2026, 11, 21, tzinfo=UTC)
OLD, YOUNG = NOW - timedelta(days=8), NOW - timedelta(days=6)


def fill(session: Session, organisation_id: OrganisationId, old: int) -> None:
    """Keep so many old keys and answers, all of one time, and a young one of each."""
    for number, time in enumerate([OLD] * old + [YOUNG]):
        key = number.to_bytes(32, "big")
        session.add(MessageKey(organisation_id=organisation_id, dedupe_key=key, deleted_at=time))
        receipts.add(
            session,
            organisation_id,
            key,
            request_hash=key,
            ingest_id=an_ingest_id(),
            statuses=[],
            now=time,
        )


def kept(session: Session) -> list[datetime]:
    """Tell the times of what is kept."""
    return [
        *session.scalars(select(MessageKey.deleted_at)),
        *session.scalars(select(IngestReceipt.created_at)),
    ]


@pytest.mark.parametrize("forget", [retention.forget_keys, receipts.forget])
async def test_forgets_a_bounded_number_at_a_time(
    installation: Installation, acme: OrganisationId, forget: Any
) -> None:
    database = installation.parts.database
    await database.write(fill, acme, 5)

    gone = [await database.write_bulk(forget, YOUNG, 2) for _ in range(4)]

    assert gone == [2, 2, 1, 0]
    assert sorted(await database.read(kept)) == [OLD] * 5 + [YOUNG] * 2


async def test_the_sweep_forgets_until_nothing_old_is_left(
    installation: Installation, acme: OrganisationId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_FORGOTTEN_AT_ONCE", 2)
    parts = installation.parts
    await parts.database.write(fill, acme, 5)

    await services.sweep(parts.database, parts.bodies, parts.queue, now=NOW)

    assert await parts.database.read(kept) == [YOUNG] * 2


async def test_trimming_forgets_events_a_bounded_number_at_a_time(
    installation: Installation, acme: OrganisationId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_FORGOTTEN_AT_ONCE", 3)
    parts = installation.parts
    await deposit_many(installation, acme, 12)
    at_once: list[int] = []
    forget = retention.forget_events

    def counted(session: Session, organisation_id: OrganisationId, most: int) -> int:
        def count() -> int:
            return session.scalar(select(func.count()).select_from(Event)) or 0

        before = count()
        told = forget(session, organisation_id, most)
        at_once.append(before - count())
        assert told == at_once[-1]
        return told

    monkeypatch.setattr(retention, "forget_events", counted)
    bounds = services.Bounds(4, 2**40)

    await services.trim(parts.database, parts.bodies, acme, bounds, now=NOW)

    assert at_once == [3, 3, 2]


async def test_asks_for_many_bodies_by_few_statements(
    installation: Installation, acme: OrganisationId, rival: OrganisationId
) -> None:
    database = installation.parts.database
    for tenant in (acme, rival):
        await deposit_many(installation, tenant, 80)
    named = await database.read(_bodies)
    moved = [BodyKey(key.ingest_id, rival) for key in named if key.organisation_id == acme]
    twins = [BodyKey(_of_the_same_moment(key.ingest_id), key.organisation_id) for key in named]

    def asked(session: Session) -> tuple[list[BodyKey], int]:
        sent: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            sent.append(statement)

        engine = session.get_bind()
        event.listen(engine, "before_cursor_execute", note)
        found = retention.without_rows(session, [*named, *moved, *twins])
        event.remove(engine, "before_cursor_execute", note)
        return found, len(sent)

    unnamed, statements = await database.read(asked)

    assert unnamed == [*moved, *twins]
    assert statements <= len([*named, *moved, *twins]) / 50


def _of_the_same_moment(ingest_id: IngestId) -> IngestId:
    return IngestId(ingest_id[:-1] + bytes([ingest_id[-1] ^ 1]))


def _bodies(session: Session) -> list[BodyKey]:
    rows = session.execute(select(Message.ingest_id, Message.organisation_id))
    return [BodyKey(IngestId(one), OrganisationId(other)) for one, other in rows]
