"""Sign-ins: how long they last, and when a refresh token is good, doubled or stolen.

A session is one device. It is kept alive by a chain of refresh tokens, each good once; a token
that comes back after its successor was handed out has been copied, and nobody can tell by whom,
so the whole session ends (RFC 9700, section 4.14.2).

Two tabs of one browser may send the same token at the same moment. They are told apart from a
thief by this: no answer to a refresh leaves before `overlap` has passed without another copy of
the token arriving. Who sends it within that time cannot have seen an answer, so it is the same
request made twice, and gets the same successor. Who sends it later has seen the answer, or is
somebody else.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class SessionRules:
    """How long everything lasts."""

    access_lifetime: timedelta = timedelta(minutes=15)
    refresh_lifetime: timedelta = timedelta(days=30)
    absolute_limit: timedelta = timedelta(days=90)
    """From sign-in, however active."""
    idle_limit: timedelta = timedelta(days=30)
    """From the last refresh."""
    overlap: timedelta = timedelta(milliseconds=250)
    """How long after a copy of a refresh token the next may arrive as the same request; each
    refresh takes at least this long."""
    longest_overlap: timedelta = timedelta(seconds=5)
    """However many copies arrive, after the first one's arrival none is the same any more."""


@dataclass(frozen=True, slots=True)
class FailureRules:
    """How many failures to prove who one is are borne; successes count nothing."""

    per_account: int = 5
    per_client: int = 100
    window: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from."""

    address: str
    """The peer's IP address; a proxy's word counts only where the server was told to trust it."""
    user_agent: str
    """As sent, cut to `USER_AGENT_CHARACTERS`."""


USER_AGENT_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a row knows of a session."""

    created_at: datetime
    last_seen_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class RefreshFacts:
    """What rows know of a refresh token."""

    expires_at: datetime
    used_at: datetime | None
    """When it arrived last, as far as it was the same request; None for a fresh one."""
    first_used_at: datetime | None
    successor_used: bool
    same_client: bool
    """Whether it comes from the same user agent as the use before."""


class RefreshVerdict(Enum):
    """What to do with a refresh token."""

    ROTATE = auto()
    REPEAT = auto()
    """The same request again: answer it with the same successor."""
    REPLAYED = auto()
    """Copied: end the session."""
    OVER = auto()
    """Expired, or its session has ended."""


def is_over(session: SessionFacts, rules: SessionRules, now: datetime) -> bool:
    """Tell whether a session was revoked, stood idle too long or has reached its last day."""
    return (
        session.revoked_at is not None
        or now >= session.created_at + rules.absolute_limit
        or now >= session.last_seen_at + rules.idle_limit
    )


def judge_refresh(
    token: RefreshFacts, session: SessionFacts, rules: SessionRules, now: datetime
) -> RefreshVerdict:
    """Decide on a refresh token; a used one of an ended session is a replay all the same."""
    if token.used_at is not None and token.first_used_at is not None:
        repeated = (
            now < token.used_at + rules.overlap
            and now < token.first_used_at + rules.longest_overlap
            and not token.successor_used
            and token.same_client
            and not is_over(session, rules, now)
        )
        return RefreshVerdict.REPEAT if repeated else RefreshVerdict.REPLAYED
    if now >= token.expires_at or is_over(session, rules, now):
        return RefreshVerdict.OVER
    return RefreshVerdict.ROTATE
