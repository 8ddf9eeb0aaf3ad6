"""What every installation has from its first start: tiers, an organisation, somebody who may.

Everything here may be asked for again and again: what is there already stays as it is, except
that what an operator has fixed in the settings is made true again.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from mailtape.domain import ids
from mailtape.domain.account import LOCAL_SLUG, Role, Scope, Status
from mailtape.domain.errors import Conflict
from mailtape.domain.ids import UserId
from mailtape.domain.tier import FREE, UNLIMITED
from mailtape.rows import accounts, organisations, sessions, tiers, tokens
from mailtape.rows.accounts import User
from mailtape.rows.database import Database, Session
from mailtape.rows.organisations import Organisation
from mailtape.services import passwords
from mailtape.services.accounts import add_member, normalise_email
from mailtape.services.tokens import NewToken, hash_token, new_text

_LOCAL_NAME = "Local"
_TOKEN_NAME = "first start"  # noqa: S105 - what people call it


async def ensure(
    database: Database,
    *,
    salt: str,
    email: str | None,
    password: str | None,
    token: str | None,
    password_given: bool,
    token_given: bool,
    now: datetime,
) -> None:
    """Make sure of tiers `unlimited` and `free`, organisation `local`, administrator and token.

    Without `email` and `password` no administrator is made sure of, without `token` no token. A
    password that the operator has given is set again when it differs, and ends the sessions that
    began with another; a token that the operator has given is made good again. What was made up is
    left to whoever has changed or revoked it.

    Raises:
        Invalid: `email` is no address.
        Conflict: the token is another organisation's.
    """
    await database.write(_ensure_local, now)
    if email is not None and password is not None:
        email = normalise_email(email)
        admin = await database.read(accounts.find_by_email, email)
        password_hash = None
        if admin is None or password_given:
            password_hash = await asyncio.to_thread(_hash_unless_same, admin, password)
        await database.write(_ensure_admin, email, password_hash, now)
    if token is not None:
        await database.write(_ensure_token, hash_token(salt, token), given=token_given, now=now)


async def create_admin(database: Database, *, email: str, password: str, now: datetime) -> UserId:
    """Make a platform administrator, or make one of an existing user and set their password.

    Raises:
        Invalid: the address is none, or the password breaks a rule.
    """
    email = normalise_email(email)
    passwords.check_rules(password, email=email)
    password_hash = await asyncio.to_thread(passwords.hash_password, password)
    await database.write(_ensure_local, now)
    return await database.write(_ensure_admin, email, password_hash, now)


async def create_service_token(
    database: Database, *, salt: str, name: str, scopes: Sequence[Scope], now: datetime
) -> NewToken:
    """Make a token of organisation `local` with any scopes; its text is known this once."""
    await database.write(_ensure_local, now)
    text = new_text()
    row = await database.write(_add_token, name, hash_token(salt, text), scopes, now)
    return NewToken(row, text)


def _hash_unless_same(user: User | None, password: str) -> str | None:
    if user is not None and passwords.matches(user.password_hash, password):
        return None
    return passwords.hash_password(password)


def _ensure_local(session: Session, now: datetime) -> Organisation:
    tiers.ensure(session, UNLIMITED)
    tiers.ensure(session, FREE)
    session.flush()
    local = organisations.find_by_slug(session, LOCAL_SLUG)
    if local is None:
        local = organisations.add(
            session, slug=LOCAL_SLUG, name=_LOCAL_NAME, tier=UNLIMITED.name, now=now
        )
    return local


def _ensure_admin(session: Session, email: str, password_hash: str | None, now: datetime) -> UserId:
    """Write what is missing; without a hash the password stays as it is."""
    local = _ensure_local(session, now)
    user = accounts.find_by_email(session, email)
    if user is None:
        assert password_hash is not None, "a new user has a password"  # noqa: S101
        user = User(
            id=ids.new_id(int(now.timestamp() * 1000)),
            email=email,
            password_hash=password_hash,
            email_verified=True,
            created_at=now,
            last_seen_at=None,
        )
        session.add(user)
    elif password_hash is not None:
        user.password_hash = password_hash
        sessions.revoke_all(session, UserId(user.id), "password_changed", now)
    user.platform_admin = True
    user.status = Status.ACTIVE
    session.flush()
    if accounts.find_membership(session, UserId(user.id), local.id) is None:
        add_member(session, user, local, Role.OWNER, now)
    return UserId(user.id)


def _ensure_token(session: Session, token_hash: bytes, *, given: bool, now: datetime) -> None:
    local = _ensure_local(session, now)
    row = tokens.find(session, token_hash)
    if row is None:
        _add_token(session, _TOKEN_NAME, token_hash, list(Scope), now)
        return
    if row.organisation_id != local.id:
        raise Conflict("This token is another organisation's.")
    if given:
        row.scopes = sorted(Scope)
        row.revoked_at = row.expires_at = None


def _add_token(
    session: Session, name: str, token_hash: bytes, scopes: Sequence[Scope], now: datetime
) -> tokens.ApiToken:
    row = tokens.ApiToken(
        id=ids.new_id(int(now.timestamp() * 1000)),
        organisation_id=_ensure_local(session, now).id,
        created_by=None,
        name=name,
        token_hash=token_hash,
        scopes=sorted(set(scopes)),
        created_at=now,
        expires_at=None,
        last_used_at=None,
        revoked_at=None,
    )
    session.add(row)
    return row
