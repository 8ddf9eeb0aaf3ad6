from datetime import timedelta

import pytest
from sqlalchemy import update

from installation import Installation
from mailtape.domain import ids
from mailtape.rows.accounts import User
from people import register
from postroom import a_mail, deliver


async def test_counts_the_month_and_names_the_limits(installation: Installation) -> None:
    free = await installation.an_organisation("free", "free")
    bearer = installation.as_bearer(await installation.a_token(free))
    raw = a_mail()
    for _ in range(2):
        await deliver(installation, free, raw)

    report = (await installation.client.get("/usage", headers=bearer)).json()

    assert report == {
        "period": f"{installation.clock():%Y-%m}",
        "emails": {"used": 2, "limit": 1000},
        "storage_bytes": {"used": 2 * len(raw), "limit": 256 * 2**20},
        "api_calls": {"used": 1, "limit": 50_000},
    }


async def test_a_new_month_begins_at_nothing_but_what_is_kept(installation: Installation) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    raw = a_mail()
    await deliver(installation, acme, raw)

    installation.clock.advance(timedelta(days=31))
    report = (await installation.client.get("/usage", headers=bearer)).json()

    assert report["emails"] == {"used": 0, "limit": None}
    assert report["storage_bytes"] == {"used": len(raw), "limit": None}


@pytest.mark.parametrize(("admin", "status"), [(True, 200), (False, 404)])
async def test_only_a_platform_administrator_sees_another_organisation(
    installation: Installation, admin: object, status: int
) -> None:
    acme = await installation.an_organisation()
    signed_in = (await register(installation.client)).json()
    bearer = installation.as_bearer(signed_in["access_token"])
    await installation.parts.database.write(
        lambda session: session.execute(update(User).values(platform_admin=admin)) and None
    )

    theirs = await installation.client.get(f"/usage?org_uuid={ids.to_text(acme)}", headers=bearer)
    own = await installation.client.get(
        f"/usage?org_uuid={signed_in['organization']['uuid']}", headers=bearer
    )
    nobodys = await installation.client.get("/usage?org_uuid=x", headers=bearer)

    assert [r.status_code for r in (theirs, own, nobodys)] == [status, 200, 404]


async def test_counts_calls_once_whether_they_are_in_rows_yet_or_not(
    installation: Installation,
) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    parts = installation.parts
    for _ in range(3):
        await installation.client.get("/messages", headers=bearer)

    assert await parts.calls.flush(parts.database) == 3
    assert await parts.calls.flush(parts.database) == 0

    await installation.client.get("/messages", headers=bearer)
    report = (await installation.client.get("/usage", headers=bearer)).json()
    assert report["api_calls"]["used"] == 5


async def test_a_call_of_nobody_is_nobodys(installation: Installation) -> None:
    await installation.client.get("/messages")

    assert await installation.parts.calls.flush(installation.parts.database) == 0
