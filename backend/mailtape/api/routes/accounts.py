"""Registering, signing in, refreshing, signing out; sessions."""

from fastapi import APIRouter, Request, Response

from mailtape.api import refresh_cookie
from mailtape.api.auth import SignedIn
from mailtape.api.deps import GivenClient, GivenParts, Now, Parts, read_id
from mailtape.api.errors import responses
from mailtape.api.paging import Page, PageParams, page_of
from mailtape.api.schemas.accounts import (
    LoginRequest,
    RefreshRequest,
    RegisterRequest,
    SessionView,
    SignInView,
)
from mailtape.domain.errors import (
    Conflict,
    Forbidden,
    NotFound,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from mailtape.domain.ids import SessionId
from mailtape.services import accounts, sessions
from mailtape.services.accounts import Arrival
from mailtape.services.sessions import Grant

router = APIRouter(prefix="/auth", tags=["Sign-in"])


@router.post("/register", status_code=201, responses=responses(Forbidden, Conflict, TooMany))
async def register(
    body: RegisterRequest,
    request: Request,
    response: Response,
    parts: GivenParts,
    client: GivenClient,
    now: Now,
) -> SignInView:
    """Make an account and an organisation of its own, and sign in.

    `registration_closed` where the operator makes the accounts; `email_taken` when there is one.
    """
    settings = parts.settings
    if not settings.registration_open:
        raise Forbidden("Nobody can register here.", code="registration_closed")
    grant = await accounts.register(
        parts.database,
        parts.recipients,
        parts.passwords,
        parts.limits,
        settings.issuer,
        email=body.email,
        password=body.password,
        organisation_name=body.organization,
        tier=settings.default_tier,
        arrival=Arrival(client, refresh_cookie.read(request, settings)),
        failures=settings.failures,
        now=now,
    )
    return _show(grant, parts, response, cookie=body.cookie)


@router.post("/login", responses=responses(Unauthenticated, Forbidden, TooMany, Unavailable))
async def log_in(
    body: LoginRequest,
    request: Request,
    response: Response,
    parts: GivenParts,
    client: GivenClient,
    now: Now,
) -> SignInView:
    """Sign in: an access token, and a refresh token to get the next one with.

    Failures are limited by account and by client address; then 429 says how long to wait.
    """
    settings = parts.settings
    grant = await accounts.log_in(
        parts.database,
        parts.passwords,
        parts.limits,
        settings.issuer,
        email=body.email,
        password=body.password,
        arrival=Arrival(client, refresh_cookie.read(request, settings)),
        failures=settings.failures,
        now=now,
    )
    return _show(grant, parts, response, cookie=body.cookie)


@router.post("/refresh", responses=responses(Unauthenticated, Forbidden, TooMany))
async def refresh(
    request: Request,
    response: Response,
    parts: GivenParts,
    client: GivenClient,
    now: Now,
    body: RefreshRequest | None = None,
) -> SignInView:
    """Exchange a refresh token, from the cookie or the body, for a new pair; answers in kind.

    Each is good once. One that comes back later ends its session: `refresh_token_reused`. Copies
    that are sent at the same moment get the same answer.
    """
    in_body = body is not None and body.refresh_token is not None
    token = body.refresh_token if body is not None and in_body else None
    if token is None:
        token = refresh_cookie.read(request, parts.settings)
        refresh_cookie.check_origin(request, parts.settings)
    if token is None:
        raise Unauthenticated("A refresh token is needed.", code="refresh_token_missing")
    grant = await sessions.refresh(
        parts.database,
        parts.wakeups,
        parts.limits,
        parts.settings.issuer,
        token,
        client=client,
        failures=parts.settings.failures,
        now=now,
        clock=parts.clock,
    )
    return _show(grant, parts, response, cookie=not in_body)


@router.post("/logout", status_code=204)
async def log_out(person: SignedIn, response: Response, parts: GivenParts, now: Now) -> None:
    """End this session; its tokens are refused from now on."""
    await sessions.end(
        parts.database, parts.wakeups, person.user_id, person.session_id, "logout", now
    )
    refresh_cookie.clear(response, parts.settings)


@router.post("/logout-all", status_code=204)
async def log_out_everywhere(
    person: SignedIn, response: Response, parts: GivenParts, now: Now
) -> None:
    """End all sessions of yours; their tokens are refused from now on."""
    await sessions.end_all(parts.database, parts.wakeups, person.user_id, "logout_all", now)
    refresh_cookie.clear(response, parts.settings)


@router.get("/sessions")
async def list_sessions(
    person: SignedIn, parts: GivenParts, page: PageParams, now: Now
) -> Page[SessionView]:
    """List the devices that are signed in, newest first."""
    found = await sessions.find(
        parts.database,
        person.user_id,
        parts.settings.sessions,
        after=page.after,
        most=page.fetch,
        now=now,
    )
    return page_of(
        found,
        page,
        key=lambda row: row.id,
        show=lambda row: SessionView.of(row, current=person.session_id),
    )


@router.delete("/sessions/{uuid}", status_code=204, responses=responses(NotFound))
async def end_session(uuid: str, person: SignedIn, parts: GivenParts, now: Now) -> None:
    """Sign a device out; its tokens are refused from now on."""
    session_id = SessionId(read_id(uuid))
    await sessions.end(parts.database, parts.wakeups, person.user_id, session_id, "revoked", now)


def _show(grant: Grant, parts: Parts, response: Response, *, cookie: bool) -> SignInView:
    if grant.replaced is not None:
        parts.wakeups.announce(grant.replaced)
    if cookie:
        refresh_cookie.write(response, parts.settings, grant.refresh_token)
    return SignInView.of(grant, parts.settings.issuer, in_body=not cookie)
