"""Accounts: registering, and signing in with a password.

Who has no account is answered as who has the wrong password, after the same work. Failures are
counted within a hashing turn, so a flood of guesses sent at once gets no more of them than its
limit (and at most one more for each further thread that hashes).
"""

from dataclasses import dataclass
from datetime import datetime

from mailtape.domain import address, ids
from mailtape.domain.account import Role, Status
from mailtape.domain.errors import Conflict, Forbidden, Invalid, Unauthenticated
from mailtape.domain.ids import UserId
from mailtape.domain.organisation import slugs_for
from mailtape.domain.session import Client, FailureRules
from mailtape.ports.limits import FailureLimit, FailureLimits
from mailtape.rows import accounts, organisations
from mailtape.rows.accounts import Membership, User
from mailtape.rows.database import Database, Session
from mailtape.rows.organisations import Organisation
from mailtape.services import passwords, sessions
from mailtape.services.passwords import Passwords
from mailtape.services.recipients import Recipients
from mailtape.services.sessions import Grant, Issuer


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where somebody signs in from, with the refresh token their browser brought along."""

    client: Client
    refresh_token: str | None = None


async def register(
    database: Database,
    recipients: Recipients,
    hashing: Passwords,
    limits: FailureLimits,
    issuer: Issuer,
    *,
    email: str,
    password: str,
    organisation_name: str,
    tier: str,
    arrival: Arrival,
    failures: FailureRules,
    now: datetime,
) -> Grant:
    """Make a user, an organisation that they own, and a session.

    Raises:
        Invalid: the address is none, or the password breaks a rule.
        Conflict: `email_taken`; counts as a failure of the client, so nobody tries out a list.
        TooMany: too many failures from here.
    """
    email = normalise_email(email)
    passwords.check_rules(password, email=email)
    counted = [_client_limit(arrival.client, failures)]
    await limits.check(counted, now)
    async with hashing.turn():
        await limits.check(counted, now)
        password_hash = await hashing.hash(password)
    user = User(
        id=ids.new_id(int(now.timestamp() * 1000)),
        email=email,
        password_hash=password_hash,
        email_verified=False,
        platform_admin=False,
        status=Status.ACTIVE,
        created_at=now,
        last_seen_at=now,
    )
    try:
        grant = await database.write(_register, issuer, user, organisation_name, tier, arrival, now)
    except Conflict:
        await limits.count(counted, now)
        raise
    recipients.forget()  # its subdomain takes mail from now on
    return grant


def _register(
    session: Session,
    issuer: Issuer,
    user: User,
    organisation_name: str,
    tier: str,
    arrival: Arrival,
    now: datetime,
) -> Grant:
    if accounts.find_by_email(session, user.email) is not None:
        raise Conflict("There is an account with this address.", code="email_taken")
    organisation = add_organisation(session, organisation_name, tier=tier, now=now)
    session.add(user)
    session.flush()
    membership = add_member(session, user, organisation, Role.OWNER, now)
    replaced = sessions.end_replaced(session, issuer, arrival.refresh_token, now)
    return sessions.open_session(
        session,
        issuer,
        user,
        membership,
        organisation,
        client=arrival.client,
        now=now,
        replaced=replaced,
    )


async def log_in(
    database: Database,
    hashing: Passwords,
    limits: FailureLimits,
    issuer: Issuer,
    *,
    email: str,
    password: str,
    arrival: Arrival,
    failures: FailureRules,
    now: datetime,
) -> Grant:
    """Open a session for whoever knows the password.

    Raises:
        Unauthenticated: `invalid_credentials`; whether there is an account is not told.
        Forbidden: `account_suspended`, or `organisation_suspended` when no organisation is left.
        TooMany: too many failures of this account or from here.
        Unavailable: too many people are signing in.
    """
    try:
        email = normalise_email(email)
    except Invalid:
        email = ""  # nobody's; the answer and the work are those for an unknown account
    counted = [
        FailureLimit("sign-in/account", email, failures.per_account, failures.window),
        _client_limit(arrival.client, failures),
    ]
    await limits.check(counted, now)
    async with hashing.turn():
        await limits.check(counted, now)
        user = await database.read(accounts.find_by_email, email)
        matched = await hashing.matches(user.password_hash if user else None, password)
        if user is None or not matched:
            await limits.count(counted, now)
            raise Unauthenticated("E-mail or password is wrong.", code="invalid_credentials")
    return await database.write(_log_in, issuer, UserId(user.id), arrival, now)


def _log_in(
    session: Session, issuer: Issuer, user_id: UserId, arrival: Arrival, now: datetime
) -> Grant:
    user = accounts.find(session, user_id)
    if user is None or user.status != Status.ACTIVE:
        raise Forbidden("This account is suspended.", code="account_suspended")
    home = accounts.home_of(session, user_id)
    if home is None:
        raise Forbidden("Your organisation is suspended.", code="organisation_suspended")
    replaced = sessions.end_replaced(session, issuer, arrival.refresh_token, now)
    return sessions.open_session(
        session, issuer, user, *home, client=arrival.client, now=now, replaced=replaced
    )


def normalise_email(email: str) -> str:
    """Check the address somebody signs in with and write it in the one form that is kept.

    Raises:
        Invalid: it is no address.
    """
    try:
        return address.normalise(address.mailbox(email.strip(), smtputf8=True))
    except Invalid as error:
        raise Invalid(error.message, code="email_invalid", field="email") from error


def add_organisation(session: Session, name: str, *, tier: str, now: datetime) -> Organisation:
    """Write a new organisation under the first free slug that fits its name."""
    slug = next(s for s in slugs_for(name) if organisations.find_by_slug(session, s) is None)
    return organisations.add(session, slug=slug, name=name, tier=tier, now=now)


def add_member(
    session: Session, user: User, organisation: Organisation, role: Role, now: datetime
) -> Membership:
    """Write a user's part in an organisation."""
    membership = Membership(
        user_id=user.id, organisation_id=organisation.id, role=role, created_at=now
    )
    session.add(membership)
    session.flush()
    return membership


def _client_limit(client: Client, rules: FailureRules) -> FailureLimit:
    return FailureLimit("client", client.address, rules.per_client, rules.window)
