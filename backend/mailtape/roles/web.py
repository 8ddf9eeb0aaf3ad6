"""The role that answers over HTTP."""

from collections.abc import Callable
from datetime import datetime, timedelta

from mailtape.api.deps import ApiSettings, Parts
from mailtape.domain.query import WordLimits
from mailtape.domain.session import FailureRules, SessionRules
from mailtape.opening import Stores
from mailtape.services.passwords import Passwords
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients
from mailtape.services.tokens import Keys
from mailtape.services.usage import ApiCalls
from mailtape.settings import HostPort, Settings


def parts(
    settings: Settings,
    keys: Keys,
    bound: HostPort,
    stores: Stores,
    recipients: Recipients,
    quota: Quota,
    clock: Callable[[], datetime],
) -> Parts:
    """Put together what the routes reach for; `bound` is where HTTP is listened for.

    Whoever serves closes its `passwords`.
    """
    return Parts(
        settings=_plain(settings, keys, bound),
        database=stores.database,
        bodies=stores.bodies,
        queue=stores.queue,
        recipients=recipients,
        quota=quota,
        wakeups=stores.wakeups,
        limits=stores.limits,
        passwords=Passwords(),
        calls=ApiCalls(),
        clock=clock,
    )


def _plain(settings: Settings, keys: Keys, bound: HostPort) -> ApiSettings:
    """Say in plain values what the operator has set."""
    url = settings.backend_url or f"http://{bound}"
    return ApiSettings(
        keys=keys,
        domain=settings.domain,
        backend_url=url.rstrip("/"),
        registration_open=settings.registration_open,
        secure_cookies=url.startswith("https:"),
        sessions=SessionRules(
            access_lifetime=timedelta(minutes=settings.access_token_lifetime_minutes),
            refresh_lifetime=timedelta(days=settings.refresh_token_lifetime_days),
            absolute_limit=timedelta(days=settings.session_absolute_limit_days),
            idle_limit=timedelta(days=settings.session_idle_limit_days),
        ),
        failures=FailureRules(
            per_account=settings.auth_failures_per_account,
            per_client=settings.auth_failures_per_client,
            window=timedelta(minutes=settings.auth_failure_window_minutes),
        ),
        message_max_bytes=settings.smtp_max_message_bytes,
        max_json_bytes=settings.http_max_json_bytes,
        wait_limit=timedelta(seconds=settings.wait_max_seconds),
        words=WordLimits(settings.search_max_chars, settings.search_max_terms),
        most_recipients=settings.smtp_max_recipients,
    )
