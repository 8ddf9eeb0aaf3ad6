"""A whole installation in a folder: real SQLite files, the real application, a clock to move.

The fixture `installation` of `tests/conftest.py` opens one; its methods make the people and
tokens that a test is about, straight in the rows.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from fastapi import FastAPI

from mailtape.api.deps import ApiSettings, Parts
from mailtape.api.main import create_app
from mailtape.domain import ids
from mailtape.domain.account import Principal, Scope
from mailtape.domain.ids import OrganisationId
from mailtape.domain.session import SessionRules
from mailtape.domain.tier import FREE, UNLIMITED
from mailtape.rows import tiers
from mailtape.rows.database import Database, Session
from mailtape.rows.organisations import Organisation
from mailtape.rows.sqlite_database import SqliteDatabase
from mailtape.rows.writing_thread import WritingThread
from mailtape.services import tokens
from mailtape.services.passwords import Passwords
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients
from mailtape.services.refusals import Refusals
from mailtape.services.tokens import Keys
from mailtape.services.usage import ApiCalls
from mailtape.services.wakeups import Wakeups
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.sql_limits import SqlFailureLimits
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_queue import SqliteQueue

DOMAIN = "mail.example.com"
OVERLAP = timedelta(milliseconds=100)


_idle: dict[tuple[int, int], list[FastAPI]] = {}
"""Applications whose installation is closed, by the bounds they were made with.

An application holds nothing of an installation but its parts, and works out its routes at their
first use: ten times as long as most tests need for what they ask.
"""


class MovableClock:
    """Real time in UTC, moved on by a test that will not wait for it."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, by: timedelta) -> None:
        self._ahead += by


@dataclass
class Installation:
    """What a test can reach; `client` speaks HTTP to the application and is nobody yet."""

    parts: Parts
    clock: MovableClock
    app: FastAPI
    client: httpx.AsyncClient

    async def an_organisation(self, slug: str = "acme", tier: str = "unlimited") -> OrganisationId:
        """Make an organisation."""
        now = self.clock()
        organisation = Organisation(
            id=ids.new_id(int(now.timestamp() * 1000)),
            slug=slug,
            name=slug.title(),
            tier=tier,
            status="active",
            created_at=now,
        )
        identifier = OrganisationId(organisation.id)
        await self.parts.database.write(Session.add, organisation)
        return identifier

    async def a_token(
        self,
        organisation_id: OrganisationId,
        scopes: Iterable[Scope] = tuple(Scope),
        *,
        expires_at: datetime | None = None,
    ) -> str:
        """Make a token of an organisation, with every scope unless told otherwise."""
        maker = Principal(organisation_id=organisation_id, scopes=frozenset(Scope))
        made = await tokens.create(
            self.parts.database,
            maker,
            salt=self.parts.settings.keys.token_salt,
            name="of a test",
            scopes=list(scopes),
            expires_at=expires_at,
            now=self.clock(),
        )
        return made.text

    def as_bearer(self, token: str | None) -> dict[str, str]:
        """Make the header that says who calls; none for nobody."""
        return {} if token is None else {"Authorization": f"Bearer {token}"}


Installed = Callable[..., AbstractAsyncContextManager[Installation]]
"""Opens an installation with some settings changed."""


def settings(**changes: object) -> ApiSettings:
    """Set up an API as a test likes it."""
    chosen: dict[str, object] = {
        "keys": Keys(token_salt="salt-of-the-tests-" * 3, jwt_secret="secret-of-the-tests-" * 3),
        "domain": DOMAIN,
        "backend_url": "http://127.0.0.1:8025",
        "sessions": SessionRules(overlap=OVERLAP),
        "policy_answer_seconds": 30.0,  # a busy machine is no reason to put a question off
    }
    return ApiSettings(**(chosen | changes))  # type: ignore[arg-type]


@asynccontextmanager
async def open_installation(
    folder: Path, *, api: ApiSettings | None = None, elsewhere: Database | None = None
) -> AsyncIterator[Installation]:
    """Open the installation in a folder that holds a migrated `rows.sqlite3`, or rows elsewhere."""
    chosen = api or settings()
    clock = MovableClock()
    writing, queueing = WritingThread(), WritingThread()
    embedded = None if elsewhere else SqliteDatabase(folder / "rows.sqlite3", writing)
    database = elsewhere or embedded
    assert database is not None
    bodies = SqliteBodies(folder / "bodies.sqlite3", writing)
    queue = SqliteQueue(
        folder / "queue.sqlite3",
        queueing,
        max_bytes=2**30,
        lease_seconds=60,
        clock=lambda: clock().timestamp(),
        ticks=lambda: clock().timestamp(),
    )
    passwords = Passwords()
    recipients = Recipients(database, domain=chosen.domain, capture=None)
    parts = Parts(
        settings=chosen,
        database=database,
        bodies=bodies,
        queue=queue,
        recipients=recipients,
        quota=Quota(recipients, SqlCounters(database), Refusals(), clock),
        wakeups=Wakeups(),
        limits=SqlFailureLimits(database),
        passwords=passwords,
        calls=ApiCalls(),
        clock=clock,
    )
    await database.write(_tiers)
    bounds = (chosen.max_json_bytes, chosen.message_max_bytes)
    idle = _idle.setdefault(bounds, [])
    app = idle.pop() if idle else create_app(parts)
    app.state.parts = parts
    routes = len(app.routes)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 50_000))
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8025"
        ) as client:
            yield Installation(parts, clock, app, client)
        if len(app.routes) == routes:  # a test may have added some
            idle.append(app)
    finally:
        parts.wakeups.close()
        passwords.close()
        writing.stop()
        queueing.stop()
        queue.close()
        bodies.close()
        if embedded is not None:
            embedded.close()


def _tiers(session: Session) -> None:
    tiers.ensure(session, UNLIMITED)
    tiers.ensure(session, FREE)
