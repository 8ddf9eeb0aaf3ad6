import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from installation import Installation, Installed
from mailtape.domain.account import Scope
from mailtape.domain.tier import Feature, Limits, Tier
from mailtape.metrics import POLICY_ACCEPTED_BLIND
from mailtape.rows import tiers

RCPT: dict[str, Any] = {
    "protocol_state": "RCPT",
    "recipient": "qa@acme.mail.example.com",
    "sender": "shop@example.org",
    "client_address": "192.0.2.1",
    "size": 5120,
    "instance": "5afd.6b00f686.1d54d.0",
}


@pytest.fixture
async def bearer(installation: Installation) -> dict[str, str]:
    acme = await installation.an_organisation("acme", "free")
    return installation.as_bearer(await installation.a_token(acme, [Scope.POLICY]))


async def test_answers_as_the_daemon_does(
    installation: Installation, bearer: dict[str, str]
) -> None:
    taken = await installation.client.post("/policy/check", json=RCPT, headers=bearer)
    refused = await installation.client.post(
        "/policy/check", json=RCPT | {"recipient": "x@elsewhere.example"}, headers=bearer
    )

    assert (taken.status_code, taken.json()) == (200, {"action": "DUNNO", "reason": "accepted"})
    assert (refused.status_code, refused.json()) == (
        200,
        {"action": "550 5.1.1 no such address here", "reason": "address_unknown"},
    )


async def test_holds_room_for_a_named_mail_and_tells_lmtp_its_queue_id(
    installation: Installation,
) -> None:
    """Three mails a month; what is held twice would be one of them."""
    tier = Tier("three", Limits(emails_per_month=3), frozenset({Feature.API, Feature.CATCH_ALL}))
    await installation.parts.database.write(tiers.ensure, tier)
    acme = await installation.an_organisation("acme", tier.name)
    bearer = installation.as_bearer(await installation.a_token(acme, [Scope.POLICY]))
    for number in range(3):
        mail = {"instance": f"mail-{number}", "queue_id": f"queue-{number}"}
        await installation.client.post("/policy/check", json=RCPT | mail, headers=bearer)

    again = await installation.client.post(
        "/policy/check", json=RCPT | {"instance": "mail-0"}, headers=bearer
    )
    one_more = await installation.client.post("/policy/check", json=RCPT, headers=bearer)
    by_lmtp = await installation.parts.quota.recipient(
        RCPT["recipient"], transaction="queue-0", octets=5120
    )

    assert again.json()["action"] == "DUNNO"
    assert one_more.json()["reason"] == "monthly_mails"
    assert by_lmtp.decision.accepted


async def test_what_is_not_known_may_be_left_out(
    installation: Installation, bearer: dict[str, str]
) -> None:
    question = {"protocol_state": "DATA", "recipient": ""}

    response = await installation.client.post("/policy/check", json=question, headers=bearer)

    assert response.json() == {"action": "DUNNO", "reason": "accepted"}


@pytest.mark.parametrize(
    "change",
    [
        {"protocol_state": None},
        {"protocol_state": "x" * 33},
        {"recipient": None},
        {"recipient": "x" * 321},
        {"size": -1},
        {"size": 2**63},
        {"size": "large"},
        {"instance": "x" * 256},
        {"queue_id": "x" * 256},
    ],
)
async def test_refuses_what_it_cannot_read(
    installation: Installation, bearer: dict[str, str], change: dict[str, object]
) -> None:
    response = await installation.client.post("/policy/check", json=RCPT | change, headers=bearer)

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


@contextmanager
def addresses_away(installation: Installation) -> Iterator[None]:
    """Take the table of addresses away, while the one of tokens is there: nobody can decide."""
    path = installation.parts.database._reader.url.database
    assert path is not None
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("ALTER TABLE addresses RENAME TO away")
        try:
            yield
        finally:
            rows.execute("ALTER TABLE away RENAME TO addresses")


@pytest.mark.parametrize(
    ("accept_blind", "answer"),
    [
        (False, ("451 4.3.0 cannot tell at the moment, try again later", "cannot_decide")),
        (True, ("DUNNO", "accepted")),
    ],
)
async def test_what_cannot_be_decided_is_the_operators_choice(
    installed: Installed, *, accept_blind: bool, answer: tuple[str, str]
) -> None:
    async with installed(accept_blind=accept_blind) as installation:
        acme = await installation.an_organisation("acme", "free")
        bearer = installation.as_bearer(await installation.a_token(acme, [Scope.POLICY]))
        unknown = RCPT | {"recipient": "x@elsewhere.example"}
        counted = POLICY_ACCEPTED_BLIND._value.get()
        asked = installation.client.post
        await asked("/policy/check", json=unknown, headers=bearer)

        with addresses_away(installation):
            blind = await asked("/policy/check", json=RCPT, headers=bearer)
            refused = await asked("/policy/check", json=unknown, headers=bearer)

        assert (blind.json()["action"], blind.json()["reason"]) == answer
        assert refused.json()["reason"] == "address_unknown", "what is known is no guess"
        assert POLICY_ACCEPTED_BLIND._value.get() - counted == accept_blind
