"""Who calls: `Authorization: Bearer <access token or API token>`, and the scope a route asks for.

Nothing is remembered between requests: what a token stands for is asked of the rows each time, so
a revoked session or token, a disabled user or a lowered role counts from the next request on.
Streams and waiting requests ask again with `check_still_allowed` before they show anything.

A route names its scope by one of the aliases at the end; the handler receives the `Principal`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase

from mailtape.api.deps import Parts, parts_of
from mailtape.domain.account import Principal, Scope
from mailtape.domain.errors import Forbidden, Unauthenticated
from mailtape.domain.ids import SessionId, UserId
from mailtape.services import sessions, tokens

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="An access token from `POST /auth/login`, or an API token from `POST /tokens`.",
)


@dataclass(frozen=True, slots=True)
class Person:
    """A caller who has signed in."""

    principal: Principal
    user_id: UserId
    session_id: SessionId


async def authenticate(parts: Parts, token: str, now: datetime) -> Principal:
    """Recognise either kind of token; only an access token has dots in it.

    Raises:
        Unauthenticated: it is worth nothing, now or ever.
    """
    settings = parts.settings
    if "." in token:
        return await sessions.authenticate(parts.database, settings.issuer, token, now)
    return await tokens.authenticate(parts.database, settings.keys.token_salt, token, now)


class Caller(SecurityBase):
    """A dependency that names the caller of a request, when they have a scope if one is asked for.

    One dependency in itself, because the framework takes longer over each than is needed to
    recognise a token.
    """

    model = _bearer.model
    scheme_name = _bearer.scheme_name

    def __init__(self, scope: Scope | None = None) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> Principal:
        """Name the caller, and count the call as their organisation's."""
        credentials = await _bearer(request)
        if credentials is None:
            raise Unauthenticated("Say who you are: Authorization: Bearer <token>.")
        parts = await parts_of(request)
        now = parts.clock()
        principal = await authenticate(parts, credentials.credentials, now)
        parts.calls.count(principal.organisation_id, now)
        if self._scope is not None and self._scope not in principal.scopes:
            raise _scope_missing(self._scope)
        return principal


async def check_still_allowed(request: Request, parts: Parts, principal: Principal) -> None:
    """Ask again what the token of this long request is worth.

    Raises:
        Unauthenticated: nothing any more.
        Forbidden: it no longer reads this organisation's messages.
        Unavailable: cannot tell at the moment.
    """
    token = request.headers["authorization"].partition(" ")[2].strip()
    now = await authenticate(parts, token, parts.clock())
    if now.organisation_id != principal.organisation_id or Scope.MESSAGES_READ not in now.scopes:
        raise _scope_missing(Scope.MESSAGES_READ)


async def signed_in(principal: Annotated[Principal, Depends(Caller())]) -> Person:
    """Give the caller when a person has signed in; a token is no person."""
    if principal.user_id is None or principal.session_id is None:
        raise Forbidden("This is for people who have signed in.", code="session_required")
    return Person(principal, principal.user_id, principal.session_id)


def _scope_missing(scope: Scope) -> Forbidden:
    return Forbidden(f"This needs the scope {scope}.", code="scope_missing")


SignedIn = Annotated[Person, Depends(signed_in)]
AnyCaller = Annotated[Principal, Depends(Caller())]
MessagesRead = Annotated[Principal, Depends(Caller(Scope.MESSAGES_READ))]
MessagesWrite = Annotated[Principal, Depends(Caller(Scope.MESSAGES_WRITE))]
AddressesRead = Annotated[Principal, Depends(Caller(Scope.ADDRESSES_READ))]
AddressesWrite = Annotated[Principal, Depends(Caller(Scope.ADDRESSES_WRITE))]
TokensRead = Annotated[Principal, Depends(Caller(Scope.TOKENS_READ))]
TokensWrite = Annotated[Principal, Depends(Caller(Scope.TOKENS_WRITE))]
UsageRead = Annotated[Principal, Depends(Caller(Scope.USAGE_READ))]
Ingest = Annotated[Principal, Depends(Caller(Scope.INGEST))]
PolicyCheck = Annotated[Principal, Depends(Caller(Scope.POLICY))]
