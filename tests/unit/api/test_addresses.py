import asyncio
import re

import pytest
from sqlalchemy import update

from installation import DOMAIN, Installation
from mailtape.domain.errors import NotFound
from mailtape.rows.tiers import TierRow
from people import register


async def _tenant(
    installation: Installation, slug: str = "acme", tier: str = "unlimited"
) -> dict[str, str]:
    organisation = await installation.an_organisation(slug, tier)
    return installation.as_bearer(await installation.a_token(organisation))


async def test_an_address_is_made_up_when_none_is_chosen(installation: Installation) -> None:
    bearer = await _tenant(installation)

    without_body = await installation.client.post("/addresses", headers=bearer)
    with_body = await installation.client.post("/addresses", json={}, headers=bearer)

    for response in (without_body, with_body):
        assert response.status_code == 201
        assert re.fullmatch(rf"[a-z2-9]{{12}}@{re.escape(DOMAIN)}", response.json()["address"])
        assert response.json()["created_at"].endswith("Z")
    assert without_body.json()["address"] != with_body.json()["address"]


async def test_a_chosen_address_is_kept_in_lower_case_and_takes_mail_at_once(
    installation: Installation,
) -> None:
    bearer = await _tenant(installation)
    with pytest.raises(NotFound):
        await installation.parts.recipients.resolve(f"checkout@{DOMAIN}")

    made = await installation.client.post(
        "/addresses", json={"local_part": "CheckOut"}, headers=bearer
    )

    assert made.json()["address"] == f"checkout@{DOMAIN}"
    assert await installation.parts.recipients.resolve(f"checkout+tag@{DOMAIN}")


async def test_a_deleted_address_takes_no_more_mail_at_once(installation: Installation) -> None:
    bearer = await _tenant(installation)
    made = (
        await installation.client.post(
            "/addresses", json={"local_part": "checkout"}, headers=bearer
        )
    ).json()
    await installation.parts.recipients.resolve(made["address"])

    gone = await installation.client.delete(f"/addresses/{made['uuid']}", headers=bearer)
    again = await installation.client.delete(f"/addresses/{made['uuid']}", headers=bearer)

    assert (gone.status_code, again.status_code) == (204, 404)
    with pytest.raises(NotFound):
        await installation.parts.recipients.resolve(made["address"])


async def test_an_address_is_one_organisations_for_ever(installation: Installation) -> None:
    ours = await _tenant(installation, "ours")
    theirs = await _tenant(installation, "theirs")
    chosen = {"local_part": "checkout"}
    made = await installation.client.post("/addresses", json=chosen, headers=ours)

    taken = await installation.client.post("/addresses", json=chosen, headers=theirs)
    twice = await installation.client.post("/addresses", json=chosen, headers=ours)
    await installation.client.delete(f"/addresses/{made.json()['uuid']}", headers=ours)
    given_up = await installation.client.post("/addresses", json=chosen, headers=theirs)
    taken_back = await installation.client.post("/addresses", json=chosen, headers=ours)

    assert [r.status_code for r in (taken, twice, given_up)] == [409, 409, 409]
    assert taken.content == given_up.content
    assert taken.json()["code"] == "address_taken"
    assert taken_back.status_code == 201
    assert taken_back.json() == made.json()


async def test_refuses_what_is_no_plain_local_part(installation: Installation) -> None:
    bearer = await _tenant(installation)
    wrong = ["qa+tag", "", " ", "a b", "a..b", ".a", "a.", "-a", '"a"', "a@b", "a\r\nb", "a\n"]
    wrong += ["a\0b", "é", "\uff41", "a%b", "x" * 65]

    for local_part in (*wrong, {"$ne": None}, 7):
        response = await installation.client.post(
            "/addresses", json={"local_part": local_part}, headers=bearer
        )

        assert response.status_code == 422, local_part
        assert response.json()["errors"][0]["field"] == "local_part"


async def test_the_operators_addresses_are_nobody_elses(installation: Installation) -> None:
    bearer = await _tenant(installation)

    response = await installation.client.post(
        "/addresses", json={"local_part": "Postmaster"}, headers=bearer
    )

    assert response.status_code == 409


async def test_a_tier_allows_so_many_and_its_row_decides(installation: Installation) -> None:
    signed_in = (await register(installation.client)).json()
    bearer = installation.as_bearer(signed_in["access_token"])

    answers = await asyncio.gather(
        *(installation.client.post("/addresses", headers=bearer) for _ in range(8))
    )
    await installation.parts.database.write(
        lambda session: session.execute(
            update(TierRow).where(TierRow.name == "free").values(limits={"addresses": 6})
        )
    )
    sixth = await installation.client.post("/addresses", headers=bearer)
    seventh = await installation.client.post("/addresses", headers=bearer)

    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [403] * 3
    assert sixth.status_code == 201
    assert seventh.status_code == 403
    assert seventh.json()["code"] == "tier_limit_reached"


async def test_a_deleted_address_makes_room(installation: Installation) -> None:
    bearer = await _tenant(installation, tier="free")
    made = [await installation.client.post("/addresses", headers=bearer) for _ in range(5)]

    await installation.client.delete(f"/addresses/{made[0].json()['uuid']}", headers=bearer)

    assert (await installation.client.post("/addresses", headers=bearer)).status_code == 201
