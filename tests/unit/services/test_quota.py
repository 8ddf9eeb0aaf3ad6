"""Counting while the counters are not there, as when every server behind them died at once."""

from datetime import UTC, datetime

from structlog.testing import capture_logs

import mysql
from fakes import a_delivery, an_organisation_id
from mailtape.domain.quota import UNLIMITED
from mailtape.domain.tier import FREE
from mailtape.rows.mysql_database import mysql_url
from mailtape.services.quota import Judged, Quota
from mailtape.services.recipients import Destination, Recipients
from mailtape.services.refusals import Refusals
from mailtape.stores.shared_sql_counters import SharedSqlCounters
from processes import free_ports

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def test_a_mail_that_cannot_be_counted_now_is_foreseen() -> None:
    url = mysql_url(
        host="127.0.0.1", port=free_ports(1)[0], user="nobody", password=None, name="none"
    )
    delivery = a_delivery("qa@acme.example", an_organisation_id())
    judged = Judged(delivery.recipient, UNLIMITED, Destination(delivery, FREE.limits))
    async with mysql.opened(url) as nobody:
        recipients = Recipients(nobody, domain="mail.example.com", capture=None)
        quota = Quota(recipients, SharedSqlCounters(nobody), Refusals(), lambda: NOW)

        with capture_logs() as logs:
            await quota.commit("a transaction", [judged], 1_000)

    told = [(line["event"], line["log_level"]) for line in logs]
    assert told[-1] == ("quota.mail_not_counted", "warning")
