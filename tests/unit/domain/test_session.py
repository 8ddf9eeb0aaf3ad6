from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mailtape.domain.session import (
    RefreshFacts,
    RefreshVerdict,
    SessionFacts,
    SessionRules,
    is_over,
    judge_refresh,
)

RULES = SessionRules()
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SESSION = SessionFacts(created_at=NOW, last_seen_at=NOW, revoked_at=None)
FRESH = RefreshFacts(
    expires_at=NOW + RULES.refresh_lifetime,
    used_at=None,
    first_used_at=None,
    successor_used=False,
    same_client=True,
)
USED = replace(FRESH, used_at=NOW, first_used_at=NOW)
LATE = NOW + RULES.longest_overlap
MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("session", "after", "over"),
    [
        (SESSION, timedelta(0), False),
        (SESSION, RULES.idle_limit - MOMENT, False),
        (SESSION, RULES.idle_limit, True),
        (replace(SESSION, last_seen_at=NOW + timedelta(days=80)), timedelta(days=89), False),
        (replace(SESSION, last_seen_at=NOW + timedelta(days=80)), timedelta(days=90), True),
        (replace(SESSION, revoked_at=NOW), timedelta(0), True),
    ],
)
def test_a_session_is_over(session: SessionFacts, after: timedelta, *, over: bool) -> None:
    assert is_over(session, RULES, NOW + after) is over


@pytest.mark.parametrize(
    ("token", "session", "after", "verdict"),
    [
        (FRESH, SESSION, timedelta(0), RefreshVerdict.ROTATE),
        (FRESH, replace(SESSION, revoked_at=NOW), timedelta(0), RefreshVerdict.OVER),
        (FRESH, SESSION, RULES.refresh_lifetime, RefreshVerdict.OVER),
        (USED, SESSION, RULES.overlap - MOMENT, RefreshVerdict.REPEAT),
        (USED, SESSION, RULES.overlap, RefreshVerdict.REPLAYED),
        (replace(USED, used_at=LATE), SESSION, LATE - MOMENT - NOW, RefreshVerdict.REPEAT),
        (replace(USED, used_at=LATE), SESSION, LATE - NOW, RefreshVerdict.REPLAYED),
        (replace(USED, same_client=False), SESSION, timedelta(0), RefreshVerdict.REPLAYED),
        (replace(USED, successor_used=True), SESSION, timedelta(0), RefreshVerdict.REPLAYED),
        (USED, replace(SESSION, revoked_at=NOW), timedelta(0), RefreshVerdict.REPLAYED),
        (USED, SESSION, timedelta(days=400), RefreshVerdict.REPLAYED),
    ],
)
def test_a_refresh_token_is_judged(
    token: RefreshFacts, session: SessionFacts, after: timedelta, verdict: RefreshVerdict
) -> None:
    assert judge_refresh(token, session, RULES, NOW + after) is verdict
