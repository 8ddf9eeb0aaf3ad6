from datetime import timedelta

import pytest

from installation import Installation
from mailtape.domain.account import SERVICE_SCOPES, Scope
from mailtape.domain.errors import Conflict, Invalid
from mailtape.rows import organisations
from mailtape.services import bootstrap, tokens
from mailtape.services.passwords import check_rules
from people import log_in

EMAIL = "root@example.org"
PASSWORD = "the operator's own sentence"
TOKEN = "t" * 32


async def _ensure(installation: Installation, **changes: object) -> None:
    facts: dict[str, object] = {
        "salt": installation.parts.settings.keys.token_salt,
        "email": EMAIL,
        "password": PASSWORD,
        "token": TOKEN,
        "password_given": True,
        "token_given": True,
        "now": installation.clock(),
    }
    await bootstrap.ensure(installation.parts.database, **(facts | changes))  # type: ignore[arg-type]


async def test_the_first_start_makes_an_administrator_and_a_token_that_work(
    installation: Installation,
) -> None:
    await _ensure(installation)

    signed_in = await log_in(installation.client, EMAIL, password=PASSWORD)
    principal = await tokens.authenticate(
        installation.parts.database,
        installation.parts.settings.keys.token_salt,
        TOKEN,
        installation.clock(),
    )
    assert signed_in.json()["organization"]["slug"] == "local"
    assert signed_in.json()["organization"]["tier"] == "unlimited"
    assert signed_in.json()["user"]["role"] == "owner"
    assert principal.scopes == frozenset(Scope)


async def test_a_second_start_changes_nothing(installation: Installation) -> None:
    await _ensure(installation)
    access = (await log_in(installation.client, EMAIL, password=PASSWORD)).json()["access_token"]
    before = await installation.parts.database.read(organisations.find_by_slug, "local")

    await _ensure(installation)

    after = await installation.parts.database.read(organisations.find_by_slug, "local")
    listed = await installation.client.get("/tokens", headers=installation.as_bearer(access))
    assert before is not None
    assert after is not None
    assert before.id == after.id
    assert [item["name"] for item in listed.json()["items"]] == ["first start"]


async def test_a_given_password_is_made_true_again_and_ends_other_sessions(
    installation: Installation,
) -> None:
    await _ensure(installation)
    old = (await log_in(installation.client, EMAIL, password=PASSWORD)).json()["access_token"]

    await _ensure(installation, password="another sentence of the operator")

    answer = await installation.client.get("/tokens", headers=installation.as_bearer(old))
    assert answer.status_code == 401
    assert (await log_in(installation.client, EMAIL, password=PASSWORD)).status_code == 401


async def test_a_made_up_password_is_left_to_whoever_changed_it(
    installation: Installation,
) -> None:
    await _ensure(installation)

    await _ensure(installation, password="made up by a later start", password_given=False)

    assert (await log_in(installation.client, EMAIL, password=PASSWORD)).status_code == 200


async def test_a_revoked_token_of_the_settings_works_again_after_a_start(
    installation: Installation,
) -> None:
    await _ensure(installation)
    bearer = installation.as_bearer(TOKEN)
    uuid = (await installation.client.get("/tokens", headers=bearer)).json()["items"][0]["uuid"]
    await installation.client.delete(f"/tokens/{uuid}", headers=bearer)
    assert (await installation.client.get("/tokens", headers=bearer)).status_code == 401

    await _ensure(installation)

    assert (await installation.client.get("/tokens", headers=bearer)).status_code == 200


async def test_a_revoked_token_that_was_made_up_stays_revoked(installation: Installation) -> None:
    await _ensure(installation, token_given=False)
    bearer = installation.as_bearer(TOKEN)
    uuid = (await installation.client.get("/tokens", headers=bearer)).json()["items"][0]["uuid"]
    await installation.client.delete(f"/tokens/{uuid}", headers=bearer)

    await _ensure(installation, token_given=False)

    assert (await installation.client.get("/tokens", headers=bearer)).status_code == 401


async def test_a_token_of_another_organisation_is_not_taken_over(
    installation: Installation,
) -> None:
    organisation = await installation.an_organisation()
    theirs = await installation.a_token(organisation)

    with pytest.raises(Conflict):
        await _ensure(installation, token=theirs)


async def test_production_makes_sure_of_nobody_it_was_not_told_of(
    installation: Installation,
) -> None:
    await _ensure(installation, email=None, password=None, token=None)

    local = await installation.parts.database.read(organisations.find_by_slug, "local")
    assert local is not None
    assert (await log_in(installation.client, EMAIL, password=PASSWORD)).status_code == 401


async def test_an_administrator_made_by_hand_may_give_service_scopes(
    installation: Installation,
) -> None:
    await bootstrap.create_admin(
        installation.parts.database, email=EMAIL, password=PASSWORD, now=installation.clock()
    )
    access = (await log_in(installation.client, EMAIL, password=PASSWORD)).json()["access_token"]

    made = await installation.client.post(
        "/tokens",
        json={"name": "postfix", "scopes": sorted(SERVICE_SCOPES)},
        headers=installation.as_bearer(access),
    )

    assert made.status_code == 201


async def test_a_service_token_has_what_it_was_made_with(installation: Installation) -> None:
    salt = installation.parts.settings.keys.token_salt
    made = await bootstrap.create_service_token(
        installation.parts.database,
        salt=salt,
        name="postfix",
        scopes=[Scope.POLICY],
        now=installation.clock(),
    )

    principal = await tokens.authenticate(
        installation.parts.database, salt, made.text, installation.clock() + timedelta(days=365)
    )

    assert principal.scopes == {Scope.POLICY}
    assert made.text not in repr(made)


@pytest.mark.parametrize("password", ["password1", "iloveyou", "1234567", "root@example.org"])
def test_refuses_passwords_that_anybody_would_try(password: str) -> None:
    with pytest.raises(Invalid):
        check_rules(password, email=EMAIL)
