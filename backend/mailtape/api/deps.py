"""What routes are given: the parts of the installation, the time, the caller's whereabouts.

`Parts` is put together once, by the program that serves, and handed to `api.main.create_app`.
A route names what it needs by the `Annotated` aliases at the end and in `api.auth`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request

from mailtape.domain import ids
from mailtape.domain.errors import NotFound
from mailtape.domain.query import WordLimits
from mailtape.domain.session import USER_AGENT_CHARACTERS, Client, FailureRules, SessionRules
from mailtape.ports.bodies import Bodies
from mailtape.ports.limits import FailureLimits
from mailtape.ports.queue import Queue
from mailtape.rows.database import Database
from mailtape.services.passwords import Passwords
from mailtape.services.policy import ANSWER_SECONDS
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients
from mailtape.services.sessions import Issuer
from mailtape.services.tokens import Keys
from mailtape.services.usage import ApiCalls
from mailtape.services.wakeups import Wakeups

KIB = 2**10
MIB = 2**20


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What the operator has set, as plain values."""

    keys: Keys
    domain: str
    """Where addresses are made, in lower case."""
    backend_url: str
    """How browsers reach the API, without a slash at the end."""
    registration_open: bool = True
    secure_cookies: bool = False
    """Whether browsers come over https: decides name and flags of the refresh cookie."""
    default_tier: str = "free"
    """Where a new organisation starts."""
    sessions: SessionRules = field(default_factory=SessionRules)
    failures: FailureRules = field(default_factory=FailureRules)
    message_max_bytes: int = 30 * MIB
    """The largest mail that `POST /ingest` takes."""
    max_json_bytes: int = 256 * KIB
    """The largest request body elsewhere."""
    wait_limit: timedelta = timedelta(seconds=60)
    """The longest `timeout` of a waiting request."""
    words: WordLimits = field(default_factory=WordLimits)
    """How much a search may ask for."""
    most_recipients: int = 1000
    """Of one mail that `POST /ingest` takes."""
    accept_blind: bool = False
    """Whether `POST /policy/check` has no objection to what it cannot decide."""
    policy_answer_seconds: float = ANSWER_SECONDS
    """Within which it answers."""

    @property
    def issuer(self) -> Issuer:
        """What access and refresh tokens are made and read with, at every API of a fleet."""
        return Issuer(self.domain, self.keys, self.sessions)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that routes reach for; made and closed by whoever serves."""

    settings: ApiSettings
    database: Database
    bodies: Bodies
    queue: Queue
    recipients: Recipients
    quota: Quota
    wakeups: Wakeups
    limits: FailureLimits
    passwords: Passwords
    calls: ApiCalls
    clock: Callable[[], datetime]
    """The time in UTC; it must go on by itself."""


async def parts_of(request: Request) -> Parts:
    """Hand out the parts that the application was made with."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)  # noqa: S101 - create_app put it there
    return parts


async def client_of(request: Request) -> Client:
    """Say where the request comes from."""
    return Client(
        address=request.client.host if request.client else "",
        user_agent=request.headers.get("user-agent", "")[:USER_AGENT_CHARACTERS],
    )


def read_id(text: str) -> bytes:
    """Read an id from a path.

    Raises:
        NotFound: it is no id, so there is nothing of that id.
    """
    identifier = ids.from_text(text)
    if identifier is None:
        raise NotFound("There is no such thing.")
    return identifier


async def now_of(request: Request) -> datetime:
    """Read the clock, once for all that a route does."""
    return (await parts_of(request)).clock()


GivenParts = Annotated[Parts, Depends(parts_of)]
GivenClient = Annotated[Client, Depends(client_of)]
Now = Annotated[datetime, Depends(now_of)]
