"""API and service tokens: made, listed, revoked, and recognised.

A token is shown once and kept as HMAC-SHA256 under the installation's salt: it has 256 bits of
chance, so it needs no slow hash, and a stolen database holds nothing to sign in with.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailtape.domain import account, ids
from mailtape.domain.account import Principal, Scope, Status
from mailtape.domain.errors import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from mailtape.domain.ids import OrganisationId, TokenId
from mailtape.rows import tokens
from mailtape.rows.database import Database, Session
from mailtape.services.wakeups import Wakeups

PREFIX = "mt_"
_CHANCE_OCTETS = 32
"""Makes 43 characters in base64url."""
MOST_CHARACTERS = 200
_USE_IS_NOTED_EVERY = timedelta(hours=1)
"""A row written at each use would make every read of the API a synced write."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The installation's secrets for tokens."""

    token_salt: str = field(repr=False)
    jwt_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; the only time that its text is known."""

    row: tokens.ApiToken
    text: str = field(repr=False)


def hash_token(salt: str, text: str) -> bytes:
    """Hash a token as rows keep it."""
    return hmac.digest(salt.encode(), text.encode(), hashlib.sha256)


def new_text() -> str:
    """Think of a token: `mt_` and 43 url-safe characters."""
    return PREFIX + secrets.token_urlsafe(_CHANCE_OCTETS)


async def authenticate(database: Database, salt: str, text: str, now: datetime) -> Principal:
    """Recognise a token.

    Raises:
        Unauthenticated: it is unknown, expired or revoked, or its organisation is deleted.
        Forbidden: `organisation_suspended`.
        Unavailable: cannot tell at the moment.
    """
    if not text or len(text) > MOST_CHARACTERS:
        raise _unknown()
    token = await database.read(tokens.find_standing, hash_token(salt, text))
    if token is None or token.revoked_at is not None:
        raise _unknown()
    if token.expires_at is not None and now >= token.expires_at:
        raise _unknown()
    check_organisation(token.organisation_status)
    if token.last_used_at is None or now - token.last_used_at >= _USE_IS_NOTED_EVERY:
        with suppress(Unavailable):  # a full disk must not shut out those who only read
            await database.write(tokens.note_use, TokenId(token.id), now)
    return Principal(
        organisation_id=OrganisationId(token.organisation_id),
        scopes=account.known_scopes(token.scopes),
        token_id=TokenId(token.id),
    )


def check_organisation(status: str) -> None:
    """Pass an organisation that may act.

    Raises:
        Unauthenticated: it is deleted.
        Forbidden: `organisation_suspended`.
    """
    match Status(status):
        case Status.ACTIVE:
            return
        case Status.SUSPENDED:
            raise Forbidden("This organisation is suspended.", code="organisation_suspended")
        case Status.DELETED:
            raise _unknown()


async def create(
    database: Database,
    principal: Principal,
    *,
    salt: str,
    name: str,
    scopes: Sequence[Scope],
    expires_at: datetime | None,
    now: datetime,
) -> NewToken:
    """Make a token of the caller's organisation.

    Raises:
        Forbidden: `scope_not_yours`; nobody gives what they do not have.
        Invalid: it would be expired already.
    """
    if not all(principal.may_give(scope) for scope in scopes):
        raise Forbidden("A token can only have scopes that you have.", code="scope_not_yours")
    if expires_at is not None and expires_at <= now:
        raise Invalid("This time has passed.", code="expires_in_the_past", field="expires_at")
    text = new_text()
    row = tokens.ApiToken(
        id=ids.new_id(int(now.timestamp() * 1000)),
        organisation_id=principal.organisation_id,
        created_by=principal.user_id,
        name=name,
        token_hash=hash_token(salt, text),
        scopes=sorted(set(scopes)),
        created_at=now,
        expires_at=expires_at,
        last_used_at=None,
        revoked_at=None,
    )
    await database.write(Session.add, row)
    return NewToken(row, text)


async def find(
    database: Database, principal: Principal, *, after: bytes | None, most: int
) -> Sequence[tokens.ApiToken]:
    """List the organisation's live tokens, newest first."""
    return await database.read(tokens.live, principal.organisation_id, after, most)


async def revoke(
    database: Database, wakeups: Wakeups, principal: Principal, token_id: TokenId, now: datetime
) -> None:
    """End a token; it is refused from this moment on.

    Raises:
        NotFound: there is no live one of this id here.
    """
    if not await database.write(tokens.revoke, principal.organisation_id, token_id, now):
        raise NotFound("There is no such token.")
    wakeups.announce(principal.organisation_id)


def _unknown() -> Unauthenticated:
    return Unauthenticated("This token is unknown, expired or revoked.")
