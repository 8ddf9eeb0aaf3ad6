"""Sessions: opened at sign-in, recognised, refreshed, listed and ended.

When a session is over, and when a refresh token is good, is decided in `domain.session`. A
refresh token's successor is derived from it under the installation's secret: two copies of one
request get the same answer, and nothing that could be used is kept.
"""

import asyncio
import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailtape.domain import ids
from mailtape.domain.account import Principal, Role, Status, scopes_of
from mailtape.domain.errors import NotFound, TooMany, Unauthenticated
from mailtape.domain.ids import OrganisationId, SessionId, UserId
from mailtape.domain.session import (
    Client,
    FailureRules,
    RefreshFacts,
    RefreshVerdict,
    SessionFacts,
    SessionRules,
    is_over,
    judge_refresh,
)
from mailtape.ports.limits import FailureLimit, FailureLimits
from mailtape.rows import sessions
from mailtape.rows.accounts import Membership, User
from mailtape.rows.database import Database, Session
from mailtape.rows.organisations import Organisation
from mailtape.services import access_tokens
from mailtape.services.access_tokens import AccessClaims
from mailtape.services.tokens import Keys, check_organisation, hash_token
from mailtape.services.wakeups import Wakeups

REFRESH_PREFIX = "mr_"
_CHANCE_OCTETS = 32
MOST_REFRESH_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Issuer:
    """In whose name tokens are issued, with which secrets, for how long."""

    name: str
    keys: Keys
    rules: SessionRules


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sign-in or a refresh gives: who it is, and the two tokens."""

    user: User
    role: Role
    organisation: Organisation
    session_id: SessionId
    refresh_token: str = field(repr=False)
    granted_at: datetime
    replaced: OrganisationId | None = None
    """Where a session was that this sign-in has ended; its watchers are to look again."""

    def access_token(self, issuer: Issuer) -> str:
        """Sign the access token."""
        return access_tokens.issue(
            AccessClaims(UserId(self.user.id), self.session_id),
            secret=issuer.keys.jwt_secret,
            issuer=issuer.name,
            now=self.granted_at,
            lifetime=issuer.rules.access_lifetime,
        )


def open_session(
    session: Session,
    issuer: Issuer,
    user: User,
    membership: Membership,
    organisation: Organisation,
    *,
    client: Client,
    now: datetime,
    replaced: OrganisationId | None = None,
) -> Grant:
    """Write a new session with its first refresh token, in the caller's transaction."""
    row = sessions.SessionRow(
        id=ids.new_id(int(now.timestamp() * 1000)),
        user_id=user.id,
        organisation_id=organisation.id,
        user_agent=client.user_agent,
        client_address=client.address,
        created_at=now,
        last_seen_at=now,
        revoked_at=None,
        revoked_reason=None,
    )
    text = REFRESH_PREFIX + secrets.token_urlsafe(_CHANCE_OCTETS)
    session.add(row)
    session.flush()
    session.add(_refresh_row(issuer, row.id, text, now))
    user.last_seen_at = now
    return Grant(user, Role(membership.role), organisation, SessionId(row.id), text, now, replaced)


async def authenticate(database: Database, issuer: Issuer, token: str, now: datetime) -> Principal:
    """Recognise an access token and see that its session, user and organisation still stand.

    Raises:
        Unauthenticated: the token is not genuine or has expired, or what it stands for has ended.
        Forbidden: `organisation_suspended`.
        Unavailable: cannot tell at the moment.
    """
    claims = access_tokens.read(token, secret=issuer.keys.jwt_secret, issuer=issuer.name, now=now)
    found = await database.read(sessions.find_sign_in, claims.session_id)
    if found is None or found.session.user_id != claims.user_id:
        raise _ended()
    role = _standing(found, issuer.rules, now)
    return Principal(
        organisation_id=OrganisationId(found.organisation.id),
        scopes=scopes_of(role),
        user_id=UserId(found.user.id),
        role=role,
        platform_admin=found.user.platform_admin,
        session_id=SessionId(found.session.id),
    )


async def refresh(
    database: Database,
    wakeups: Wakeups,
    limits: FailureLimits,
    issuer: Issuer,
    text: str,
    *,
    client: Client,
    failures: FailureRules,
    now: datetime,
    clock: Callable[[], datetime],
) -> Grant:
    """Exchange a refresh token for a new pair; the old one is used up.

    `now` is when the request arrived, however long it had to wait for its turn since. Returns no
    sooner than the rules' `overlap` after the token's last copy: see `domain.session`.

    Raises:
        Unauthenticated: `refresh_token_reused`, and its session has been ended, even when limited;
            `refresh_token_invalid`, it is unknown or expired, or its session has ended.
        Forbidden: `organisation_suspended`.
        TooMany: too many failures from here or on this account.
    """
    token_hash = _hash(issuer, text)
    owner = await database.read(sessions.owner_of_refresh, token_hash)
    counted = _failure_limits(owner, client, failures)
    try:
        await limits.check(counted, now)
    except TooMany:
        verdict, _, ended = await database.write(_rotate, issuer, token_hash, None, client, now)
        wakeups.announce_all(ended)
        if verdict is RefreshVerdict.REPLAYED:
            raise _reused() from None
        raise
    verdict, grant, ended = await database.write(_rotate, issuer, token_hash, text, client, now)
    wakeups.announce_all(ended)
    if grant is None:
        await limits.count(counted, now)
        raise _reused() if verdict is RefreshVerdict.REPLAYED else _invalid()
    await _outlast_copies(database, token_hash, issuer.rules, clock)
    return grant


async def find(
    database: Database,
    user_id: UserId,
    rules: SessionRules,
    *,
    after: bytes | None,
    most: int,
    now: datetime,
) -> Sequence[sessions.SessionRow]:
    """List a person's sessions that have not ended, newest first."""
    return await database.read(
        sessions.live_of_user,
        user_id,
        created_since=now - rules.absolute_limit,
        seen_since=now - rules.idle_limit,
        after=after,
        most=most,
    )


async def end(
    database: Database,
    wakeups: Wakeups,
    user_id: UserId,
    session_id: SessionId,
    reason: str,
    now: datetime,
) -> None:
    """End one of a person's sessions; its access tokens are refused from this moment on.

    Raises:
        NotFound: the person has no live one of this id.
    """
    ended = await database.write(sessions.revoke, user_id, session_id, reason, now)
    if ended is None:
        raise NotFound("There is no such session.")
    wakeups.announce(ended)


async def end_all(
    database: Database, wakeups: Wakeups, user_id: UserId, reason: str, now: datetime
) -> None:
    """End all sessions of a person."""
    wakeups.announce_all(await database.write(sessions.revoke_all, user_id, reason, now))


def end_replaced(
    session: Session, issuer: Issuer, refresh_token: str | None, now: datetime
) -> OrganisationId | None:
    """End the session of the refresh token that a browser brought along to its sign-in.

    Whoever planted it there, or forgot it there, must not share what comes now. Gives the
    organisation that the session was in.
    """
    if refresh_token is None:
        return None
    token = sessions.find_refresh(session, _hash(issuer, refresh_token))
    found = sessions.find_sign_in(session, SessionId(token.session_id)) if token else None
    return _revoke(session, found, "replaced", now) if found else None


def facts_of(row: sessions.SessionRow) -> SessionFacts:
    """Take from a session's row what the rules ask for."""
    return SessionFacts(row.created_at, row.last_seen_at, row.revoked_at)


def _rotate(
    session: Session,
    issuer: Issuer,
    token_hash: bytes,
    text: str | None,
    client: Client,
    now: datetime,
) -> tuple[RefreshVerdict, Grant | None, frozenset[OrganisationId]]:
    """Judge a refresh token and do what follows; without its text, only end a replayed family.

    Gives besides the organisations in which a session has ended.
    """
    token = sessions.find_refresh(session, token_hash)
    found = sessions.find_sign_in(session, SessionId(token.session_id)) if token else None
    if token is None or found is None:
        return RefreshVerdict.OVER, None, frozenset()
    successor = sessions.successor_of(session, token)
    facts = RefreshFacts(
        expires_at=token.expires_at,
        used_at=token.used_at,
        first_used_at=successor.created_at if successor else None,
        successor_used=successor is not None and successor.used_at is not None,
        same_client=found.session.user_agent == client.user_agent,
    )
    verdict = judge_refresh(facts, facts_of(found.session), issuer.rules, now)
    ended: set[OrganisationId] = set()
    if verdict is RefreshVerdict.REPLAYED and _revoke(session, found, "refresh_token_reused", now):
        ended.add(OrganisationId(found.organisation.id))
    if text is None or verdict not in {RefreshVerdict.ROTATE, RefreshVerdict.REPEAT}:
        return verdict, None, frozenset(ended)
    role = _standing(found, issuer.rules, now)
    new_text = _successor_of(issuer, text)
    if successor is None:
        successor = _refresh_row(issuer, found.session.id, new_text, now)
        sessions.use_refresh(session, token, successor)
        found.session.last_seen_at = found.user.last_seen_at = now
        found.session.user_agent = client.user_agent
        found.session.client_address = client.address
    else:
        token.used_at = max(now, token.used_at or now)
    session_id = SessionId(found.session.id)
    granted_at = successor.created_at
    grant = Grant(found.user, role, found.organisation, session_id, new_text, granted_at)
    return verdict, grant, frozenset()


def _standing(found: sessions.SignIn, rules: SessionRules, now: datetime) -> Role:
    """Give the role in which somebody acts; an error when they no longer may."""
    if (
        found.membership is None
        or found.user.status != Status.ACTIVE
        or is_over(facts_of(found.session), rules, now)
    ):
        raise _ended()
    check_organisation(found.organisation.status)
    return Role(found.membership.role)


def _revoke(
    session: Session, found: sessions.SignIn, reason: str, now: datetime
) -> OrganisationId | None:
    user_id, session_id = UserId(found.user.id), SessionId(found.session.id)
    return sessions.revoke(session, user_id, session_id, reason, now)


def _refresh_row(
    issuer: Issuer, session_id: bytes, text: str, now: datetime
) -> sessions.RefreshToken:
    return sessions.RefreshToken(
        session_id=session_id,
        token_hash=_hash(issuer, text),
        created_at=now,
        expires_at=now + issuer.rules.refresh_lifetime,
        used_at=None,
        successor=None,
    )


def _successor_of(issuer: Issuer, text: str) -> str:
    key = hmac.digest(issuer.keys.jwt_secret.encode(), b"refresh token", hashlib.sha256)
    chance = hmac.digest(key, text.encode(), hashlib.sha256)
    return REFRESH_PREFIX + urlsafe_b64encode(chance).rstrip(b"=").decode()


def _hash(issuer: Issuer, text: str) -> bytes:
    return hash_token(issuer.keys.token_salt, text)


def _failure_limits(
    owner: UserId | None, client: Client, rules: FailureRules
) -> list[FailureLimit]:
    limits = [FailureLimit("client", client.address, rules.per_client, rules.window)]
    if owner is not None:
        # Apart from sign-ins: a stolen token, sent again and again, must not lock its owner out.
        account = FailureLimit("refresh/account", owner.hex(), rules.per_account, rules.window)
        limits.append(account)
    return limits


async def _outlast_copies(
    database: Database, token_hash: bytes, rules: SessionRules, clock: Callable[[], datetime]
) -> None:
    """Sleep until no copy of this token has arrived for the rules' `overlap`."""
    while (used_at := await database.read(sessions.last_used_at, token_hash)) is not None:
        left = used_at + rules.overlap - clock()
        if left <= timedelta(0):
            return
        await asyncio.sleep(left.total_seconds())


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended.", code="session_ended")


def _reused() -> Unauthenticated:
    return Unauthenticated(
        "This refresh token was used before; its session has been ended.",
        code="refresh_token_reused",
    )


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        "This refresh token is unknown or has expired.", code="refresh_token_invalid"
    )
