"""Sign-ins after the password: access tokens recognised, refreshed and revoked.

What makes a session live, and when a refresh token is good, is decided in `domain.session`.
"""

from datetime import datetime

from mailtape.domain.account import Principal, Role, Status, scopes_of
from mailtape.domain.errors import Unauthenticated
from mailtape.domain.ids import OrganisationId, SessionId, UserId
from mailtape.domain.session import SessionFacts, SessionRules, is_over
from mailtape.rows import sessions
from mailtape.rows.database import Database
from mailtape.services import access_tokens
from mailtape.services.tokens import Keys, check_organisation


async def authenticate(
    database: Database, token: str, *, keys: Keys, issuer: str, rules: SessionRules, now: datetime
) -> Principal:
    """Recognise an access token and see that its session, user and organisation still stand.

    Raises:
        Unauthenticated: the token is not genuine or has expired, or what it stands for has ended.
        Forbidden: `organisation_suspended`.
        Unavailable: cannot tell at the moment.
    """
    claims = access_tokens.read(token, secret=keys.jwt_secret, issuer=issuer, now=now)
    found = await database.read(sessions.find_sign_in, claims.session_id)
    if (
        found is None
        or found.session.user_id != claims.user_id
        or found.membership is None
        or found.user.status != Status.ACTIVE
        or is_over(facts_of(found.session), rules, now)
    ):
        raise Unauthenticated("This session has ended.", code="session_ended")
    check_organisation(found.organisation.status)
    role = Role(found.membership.role)
    return Principal(
        organisation_id=OrganisationId(found.organisation.id),
        scopes=scopes_of(role),
        user_id=UserId(found.user.id),
        role=role,
        platform_admin=found.user.platform_admin,
        session_id=SessionId(found.session.id),
    )


def facts_of(row: sessions.SessionRow) -> SessionFacts:
    """Take from a session's row what the rules ask for."""
    return SessionFacts(row.created_at, row.last_seen_at, row.revoked_at)
