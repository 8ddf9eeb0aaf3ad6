"""Access tokens: short-lived JWTs that name a session.

HS256 and nothing else (RFC 8725, section 3.1). A token says who signed in; whether that still
holds is asked of the session's row at each request, so a revoked session is refused at once.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import jwt

from mailtape.domain import ids
from mailtape.domain.errors import Unauthenticated
from mailtape.domain.ids import SessionId, UserId

AUDIENCE: Final = "mailtape-api"
_TYPE: Final = "access"
_ALGORITHM: Final = "HS256"
_CLAIMS = ("exp", "iat", "sub", "sid", "iss", "aud", "typ")
MOST_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a genuine access token says."""

    user_id: UserId
    session_id: SessionId


def issue(
    claims: AccessClaims, *, secret: str, issuer: str, now: datetime, lifetime: timedelta
) -> str:
    """Sign an access token."""
    issued = int(now.timestamp())
    payload = {
        "iss": issuer,
        "aud": AUDIENCE,
        "typ": _TYPE,
        "sub": ids.to_text(claims.user_id),
        "sid": ids.to_text(claims.session_id),
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
    }
    return jwt.encode(payload, secret, algorithm=_ALGORITHM)


def read(token: str, *, secret: str, issuer: str, now: datetime) -> AccessClaims:
    """Check an access token and read it.

    Raises:
        Unauthenticated: it is not ours, not for this, or expired.
    """
    if len(token) > MOST_CHARACTERS or not _is_canonical(token):
        raise _refused()
    try:
        payload = jwt.decode(
            token,
            secret,
            algorithms=[_ALGORITHM],
            issuer=issuer,
            audience=AUDIENCE,
            # The library would read a clock of its own; ours is the argument.
            options={
                "require": list(_CLAIMS),
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except jwt.InvalidTokenError as error:
        raise _refused() from error
    user_id, session_id = _id(payload["sub"]), _id(payload["sid"])
    expires = payload["exp"]
    if (
        payload["typ"] != _TYPE
        or type(expires) is not int
        or now.timestamp() >= expires
        or user_id is None
        or session_id is None
    ):
        raise _refused()
    return AccessClaims(UserId(user_id), SessionId(session_id))


def _is_canonical(token: str) -> bool:
    """Tell whether this is the one way to write the token (RFC 7515, section 2: no padding).

    Decoders take padding and stray bits in the last character; what has several spellings cannot be
    recognised by its text.
    """
    segments = token.split(".")
    try:
        return len(segments) == 3 and all(
            urlsafe_b64encode(urlsafe_b64decode(segment + "==")).rstrip(b"=") == segment.encode()
            for segment in segments
        )
    except ValueError:
        return False


def _id(claim: Any) -> bytes | None:
    return ids.from_text(claim) if isinstance(claim, str) else None


def _refused() -> Unauthenticated:
    return Unauthenticated("This access token is not valid here or has expired.")
