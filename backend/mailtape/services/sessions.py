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
from mailtape.domain.errors import Forbidden, NotFound, TooMany, Unauthenticated
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
    return Grant(user, Role(membership.role), organisation, SessionId(row.id), text, now)


async def authenticate(
    database: Database, issuer: Issuer, token: str, now: datetime
) -> Principal:
    """Recognise an access token and see that its session, user and organisation still stand.

    Raises:
        Unauthenticated: the token is not genuine or has expired, or what it stands for has ended.
        Forbidden: `organisation_suspended`.
        Unavailable: cannot tell at the moment.
    """
    claims = access_tokens.read(
        token, secret=issuer.keys.jwt_secret, issuer=issuer.name, now=now
    )
    found = await database.read(sessions.find_sign_in, claims.session_id)
    if found is None or found.session.user_id != claims.user_id:
        raise _ended()
    role = _standing(found, issuer.rules, now)
    check_organisation(found.organisation.status)
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
    limits: FailureLimits,
    issuer: Issuer,
    text: str,
    *,
    client: Client,
    failures: FailureRules,
    clock: Callable[[], datetime],
) -> Grant:
    """Exchange a refresh token for a new pair; the old one is used up.

    Returns no sooner than the rules' `overlap` after the token's use: see `domain.session`.

    Raises:
        Unauthenticated: `refresh_token_reused`, and its session has been ended, even when limited;
            `refresh_token_invalid`, it is unknown or expired, or its session has ended.
        Forbidden: `organisation_suspended`.
        TooMany: too many failures from here or on this account.
    """
    token_hash = hash_token(issuer.keys.token_salt, text[:MOST_REFRESH_CHARACTERS])
    owner = await database.read(sessions.owner_of_refresh, token_hash)
    counted = _failure_limits(owner, client, failures)
    now = clock()
    try:
        await limits.check(counted, now)
    except TooMany:
        verdict, _ = await database.write(_rotate, issuer, token_hash, None, client, now)
        if verdict is RefreshVerdict.REPLAYED:
            raise _reused() from None
        raise
    verdict, grant = await database.write(_rotate, issuer, token_hash, text, client, now)
    if grant is None:
        await limits.count(counted, now)
        raise _reused() if verdict is RefreshVerdict.REPLAYED else _invalid()
    check_organisation(grant.organisation.status)
    await _outlast(grant.granted_at + issuer.rules.overlap, clock)
    return grant


def _rotate(
    session: Session,
    issuer: Issuer,
    token_hash: bytes,
    text: str | None,
    client: Client,
    now: datetime,
) -> tuple[RefreshVerdict, Grant | None]:
    """Judge a refresh token and do what follows; without its text, only end a replayed family."""
    token = sessions.find_refresh(session, token_hash)
    found = sessions.find_sign_in(session, SessionId(token.session_id)) if token else None
    if token is None or found is None:
        return RefreshVerdict.OVER, None
    facts = RefreshFacts(
        expires_at=token.expires_at,
        used_at=token.used_at,
        successor_used=token.successor is not None and sessions.is_used(session, token.successor),
        same_client=found.session.user_agent == client.user_agent,
    )
    verdict = judge_refresh(facts, facts_of(found.session), issuer.rules, now)
    match verdict:
        case RefreshVerdict.REPLAYED:
            user_id, session_id = UserId(found.user.id), SessionId(found.session.id)
            sessions.revoke(session, user_id, session_id, "refresh_token_reused", now)
            return verdict, None
        case RefreshVerdict.OVER:
            return verdict, None
        case RefreshVerdict.ROTATE | RefreshVerdict.REPEAT if text is None:
            return verdict, None
        case RefreshVerdict.ROTATE | RefreshVerdict.REPEAT:
            pass
    if not _may_go_on(found):
        return RefreshVerdict.OVER, None
    successor = _successor_of(issuer, text)
    if verdict is RefreshVerdict.ROTATE:
        sessions.use_refresh(
            session, token, _refresh_row(issuer, token.session_id, successor, now)
        )
        found.session.last_seen_at = now
        found.session.user_agent = client.user_agent
        found.session.client_address = client.address
        found.user.last_seen_at = now


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
