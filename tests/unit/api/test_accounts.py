import asyncio
import random
import time
from datetime import timedelta
from statistics import median

import httpx
import pytest

from installation import Installation, Installed
from mailtape.domain.session import FailureRules, SessionRules
from people import PASSWORD, is_let_in, log_in, refresh, register


async def test_registering_founds_an_organisation_and_signs_its_owner_in(
    client: httpx.AsyncClient,
) -> None:
    response = await register(client, "Ada@Example.org")

    assert response.status_code == 201
    answer = response.json()
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 900
    assert answer["user"]["email"] == "ada@example.org"
    assert answer["user"]["role"] == "owner"
    assert answer["user"]["email_verified"] is False
    assert answer["organization"]["name"] == "Analytical Engines"
    assert answer["organization"]["tier"] == "free"
    assert await is_let_in(client, answer["access_token"])


async def test_organisations_of_one_name_have_slugs_of_their_own(
    client: httpx.AsyncClient,
) -> None:
    slugs = [
        (await register(client, f"user{n}@example.org", organization=name)).json()["organization"][
            "slug"
        ]
        for n, name in enumerate(["Acme", "ACME!", "Ácme", "local", "www", "日本"])
    ]

    assert slugs == ["acme", "acme-2", "acme-3", "local-2", "www-2", "organisation"]


async def test_an_address_registers_once_in_any_case(client: httpx.AsyncClient) -> None:
    await register(client, "ada@example.org")

    response = await register(client, "ADA@example.org")

    assert response.status_code == 409
    assert response.json()["code"] == "email_taken"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"password": "short"}, "password_length"),
        ({"password": "password"}, "password_common"),
        ({"password": "QWERTYUIOP"}, "password_common"),
        ({"email": "ada.lovelace@example.org", "password": "ada.lovelace"}, "password_common"),
        ({"email": "nobody"}, "email_invalid"),
        ({"email": "a\r\nb@example.org"}, "email_invalid"),
        ({"organization": "   "}, "invalid"),
        ({"organization": "a\nb"}, "invalid"),
        ({"email": {"$ne": None}}, "invalid"),
        ({"password": "x" * 1_001}, "invalid"),
    ],
)
async def test_refuses_what_breaks_a_rule_and_names_the_field(
    client: httpx.AsyncClient, changes: dict[str, object], code: str
) -> None:
    response = await register(client, **changes)  # type: ignore[arg-type]

    assert response.status_code == 422
    assert response.json()["code"] == code
    assert response.json()["errors"][0]["field"] in changes
    assert "x" * 50 not in response.text


async def test_long_passwords_count_to_their_last_character(client: httpx.AsyncClient) -> None:
    password = "é\0" + "p" * 998
    await register(client, password=password)

    right = await log_in(client, password=password)
    cut = await log_in(client, password=password[:-1])

    assert right.status_code == 200
    assert cut.status_code == 401


async def test_a_megabyte_of_password_is_refused_before_it_is_hashed(
    client: httpx.AsyncClient,
) -> None:
    await register(client)

    response = await log_in(client, password="x" * 2**20)

    assert response.status_code in {413, 422}


async def test_nobody_gets_more_than_they_may_ask_for(client: httpx.AsyncClient) -> None:
    greedy = {
        "platform_admin": True,
        "is_admin": True,
        "email_verified": True,
        "role": "owner",
        "tier": "unlimited",
        "organization_id": "x",
        "scopes": ["ingest"],
    }

    response = await register(client, **greedy)

    answer = response.json()
    assert answer["user"]["email_verified"] is False
    assert answer["organization"]["tier"] == "free"
    made = await client.post(
        "/tokens",
        json={"name": "greedy", **greedy},
        headers={"Authorization": f"Bearer {answer['access_token']}"},
    )
    assert made.status_code == 403


async def test_who_has_no_account_is_answered_as_who_has_the_wrong_password(
    client: httpx.AsyncClient,
) -> None:
    await register(client)

    wrong = await log_in(client, password="not the password")
    unknown = await log_in(client, "nobody@example.org", password="not the password")
    malformed = await log_in(client, "nobody", password="not the password")

    assert wrong.status_code == 401
    assert wrong.json()["code"] == "invalid_credentials"
    for other in (unknown, malformed):
        assert other.status_code == wrong.status_code
        assert other.content == wrong.content
        assert sorted(other.headers.items()) == sorted(wrong.headers.items())


async def test_an_unknown_account_costs_as_much_work_as_a_wrong_password(
    installed: Installed,
) -> None:
    """Processor time, because a busy machine does not change it; without the hash it is a tenth."""
    rules = FailureRules(per_account=1_000, per_client=1_000)
    spent: dict[str, list[float]] = {"ada@example.org": [], "nobody@example.org": []}
    async with installed(failures=rules) as installation:
        await register(installation.client)
        for _ in range(10):
            for email, times in spent.items():
                before = time.process_time()
                await log_in(installation.client, email, password="not the password")
                times.append(time.process_time() - before)

    wrong, unknown = (median(times) for times in spent.values())
    assert 0.6 < unknown / wrong < 1.6


async def test_closed_registration_says_so(installed: Installed) -> None:
    async with installed(registration_open=False) as installation:
        response = await register(installation.client)

    assert response.status_code == 403
    assert response.json()["code"] == "registration_closed"


async def test_five_failures_close_an_account_for_a_quarter_of_an_hour(
    installation: Installation,
) -> None:
    client = installation.client
    await register(client)
    for _ in range(5):
        assert (await log_in(client, password="wrong wrong")).status_code == 401

    closed = await log_in(client)
    installation.clock.advance(timedelta(minutes=15, seconds=1))
    open_again = await log_in(client)

    assert closed.status_code == 429
    assert closed.json()["code"] == "rate_limited"
    assert 0 < int(closed.headers["retry-after"]) <= 900
    assert closed.headers["ratelimit-limit"] == "5"
    assert closed.headers["ratelimit-remaining"] == "0"
    assert closed.headers["ratelimit-reset"] == closed.headers["retry-after"]
    assert open_again.status_code == 200


async def test_successes_count_nothing(client: httpx.AsyncClient) -> None:
    await register(client)

    statuses = {(await log_in(client)).status_code for _ in range(7)}

    assert statuses == {200}


async def test_guesses_sent_at_once_get_no_further_than_guesses_in_a_row(
    installation: Installation,
) -> None:
    client = installation.client
    await register(client)

    answers = await asyncio.gather(
        *(log_in(client, password=f"wrong wrong {n}") for n in range(20))
    )

    refused = [answer.status_code for answer in answers].count(401)
    assert refused <= 6  # one more for each further thread that hashes
    assert [answer.status_code for answer in answers].count(429) == 20 - refused


async def test_the_refresh_cookie_is_out_of_reach_of_scripts_and_other_sites(
    client: httpx.AsyncClient,
) -> None:
    response = await register(client, cookie=True)

    cookie = response.headers["set-cookie"]
    assert cookie.startswith("refresh_token=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/auth" in cookie
    assert "Secure" not in cookie
    assert response.json()["refresh_token"] is None


async def test_over_https_the_refresh_cookie_is_bound_to_the_host(installed: Installed) -> None:
    https = {"secure_cookies": True, "backend_url": "https://api.example.com"}
    async with installed(**https) as installation:
        response = await register(installation.client, cookie=True)

    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-refresh_token=")
    assert "Secure" in cookie
    assert "Path=/;" in cookie
    assert "Domain" not in cookie


async def test_refresh_answers_in_kind(client: httpx.AsyncClient) -> None:
    in_body = (await register(client)).json()["refresh_token"]
    by_body = await refresh(client, in_body)
    await log_in(client, cookie=True)
    by_cookie = await client.post("/auth/refresh")

    assert by_body.json()["refresh_token"] != in_body
    assert "set-cookie" not in by_body.headers
    assert by_cookie.status_code == 200
    assert by_cookie.json()["refresh_token"] is None
    assert by_cookie.headers["set-cookie"].startswith("refresh_token=")


async def test_a_foreign_page_cannot_refresh_with_our_cookie(client: httpx.AsyncClient) -> None:
    await register(client, cookie=True)

    statuses = {
        origin: (await client.post("/auth/refresh", headers={"Origin": origin})).status_code
        for origin in (
            "null",
            "https://evil.example",
            "http://127.0.0.1:8025.evil.example",
            "http://127.0.0.1:9999",
            "http://127.0.0.1:8025",
        )
    }

    assert statuses.pop("http://127.0.0.1:8025") == 200
    assert set(statuses.values()) == {403}


async def test_a_replayed_refresh_token_ends_its_session_and_no_other(
    installation: Installation,
) -> None:
    client = installation.client
    other = (await register(client)).json()
    first = (await log_in(client)).json()
    second = (await refresh(client, first["refresh_token"])).json()

    replay = await refresh(client, first["refresh_token"])

    assert replay.status_code == 401
    assert replay.json()["code"] == "refresh_token_reused"
    assert not await is_let_in(client, second["access_token"])
    assert (await refresh(client, second["refresh_token"])).status_code == 401
    assert await is_let_in(client, other["access_token"])
    assert (await refresh(client, other["refresh_token"])).status_code == 200


async def test_an_old_link_of_the_chain_ends_the_session_too(client: httpx.AsyncClient) -> None:
    first = (await register(client)).json()
    second = (await refresh(client, first["refresh_token"])).json()
    third = (await refresh(client, second["refresh_token"])).json()

    replay = await refresh(client, first["refresh_token"])

    assert replay.json()["code"] == "refresh_token_reused"
    assert not await is_let_in(client, third["access_token"])
    assert (await refresh(client, third["refresh_token"])).status_code == 401


async def test_once_a_thief_and_the_owner_have_both_gone_on_neither_can(
    installed: Installed,
) -> None:
    chance = random.Random(2)
    async with installed(failures=FailureRules(per_account=1_000)) as installation:
        client = installation.client
        await register(client)
        for _ in range(10):
            stolen = (await log_in(client)).json()["refresh_token"]
            held = {"owner": stolen, "thief": stolen}
            turns = [chance.choice(list(held)) for _ in range(3)] + list(held)
            for who in turns:
                answer = await refresh(client, held[who])
                if answer.status_code == 200:
                    held[who] = answer.json()["refresh_token"]

            ends = [(await refresh(client, token)).status_code for token in held.values()]

            assert ends == [401, 401]


PATIENT = SessionRules(overlap=timedelta(seconds=2))
"""Longer than a busy machine holds up a request: these tests are about order, not about speed."""


async def test_tabs_that_refresh_at_the_same_moment_get_the_same_successor(
    installed: Installed,
) -> None:
    async with installed(sessions=PATIENT) as installation:
        client = installation.client
        first = (await register(client)).json()["refresh_token"]

        answers = await asyncio.gather(*(refresh(client, first) for _ in range(20)))

        assert {answer.status_code for answer in answers} == {200}
        successors = {answer.json()["refresh_token"] for answer in answers}
        assert len(successors) == 1
        assert (await refresh(client, successors.pop())).status_code == 200


async def test_a_copy_that_arrives_late_but_before_any_answer_is_the_same_request(
    installed: Installed,
) -> None:
    async with installed(sessions=PATIENT) as installation:
        client = installation.client
        first = (await register(client)).json()["refresh_token"]
        copies = []
        for _ in range(10):
            copies.append(asyncio.create_task(refresh(client, first)))
            await asyncio.sleep(0.25)  # the time between is the question
            assert not any(copy.done() for copy in copies)

        answers = [(await copy) for copy in copies]

        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1
        assert (await refresh(client, first)).json()["code"] == "refresh_token_reused"


async def test_another_program_is_no_tab_even_at_the_same_moment(
    client: httpx.AsyncClient,
) -> None:
    first = (await register(client)).json()["refresh_token"]

    answers = await asyncio.gather(
        refresh(client, first, user_agent="the owner"),
        refresh(client, first, user_agent="the thief"),
    )

    assert sorted(answer.status_code for answer in answers) == [200, 401]
    successor = next(a for a in answers if a.status_code == 200).json()["refresh_token"]
    assert (await refresh(client, successor)).status_code == 401


async def test_the_same_moment_never_revives_a_session_that_has_ended(
    client: httpx.AsyncClient,
) -> None:
    signed_in = (await register(client)).json()
    bearer = {"Authorization": f"Bearer {signed_in['access_token']}"}

    _, answer = await asyncio.gather(
        client.post("/auth/logout", headers=bearer), refresh(client, signed_in["refresh_token"])
    )
    after = [await refresh(client, signed_in["refresh_token"])]
    if answer.status_code == 200:
        after.append(await refresh(client, answer.json()["refresh_token"]))

    assert {response.status_code for response in after} == {401}


async def test_a_replay_ends_the_session_even_when_failures_are_used_up(
    installation: Installation,
) -> None:
    client = installation.client
    signed_in = (await register(client)).json()
    old = signed_in["refresh_token"]
    new = (await refresh(client, old)).json()
    other = (await log_in(client)).json()
    for _ in range(5):
        await refresh(client, old)
    other_new = (await log_in(client)).json()

    limited = await refresh(client, other["refresh_token"])
    installation.clock.advance(timedelta(minutes=16))
    later = (await refresh(client, other["refresh_token"])).json()
    for _ in range(5):
        await refresh(client, old)
    replay = await refresh(client, other["refresh_token"])

    assert limited.status_code == 429
    assert replay.status_code == 401
    assert replay.json()["code"] == "refresh_token_reused"
    assert not await is_let_in(client, later["access_token"])
    assert not await is_let_in(client, new["access_token"])
    installation.clock.advance(timedelta(minutes=-16))
    assert await is_let_in(client, other_new["access_token"])


async def test_signing_out_kills_the_access_token_at_once(client: httpx.AsyncClient) -> None:
    signed_in = (await register(client)).json()
    bearer = {"Authorization": f"Bearer {signed_in['access_token']}"}

    response = await client.post("/auth/logout", headers=bearer)

    assert response.status_code == 204
    assert not await is_let_in(client, signed_in["access_token"])
    assert (await refresh(client, signed_in["refresh_token"])).status_code == 401


async def test_signing_out_everywhere_ends_every_session(client: httpx.AsyncClient) -> None:
    devices = [(await register(client)).json(), (await log_in(client)).json()]
    bearer = {"Authorization": f"Bearer {devices[0]['access_token']}"}

    await client.post("/auth/logout-all", headers=bearer)

    for device in devices:
        assert not await is_let_in(client, device["access_token"])
        assert (await refresh(client, device["refresh_token"])).status_code == 401


async def test_sessions_are_listed_and_ended_one_by_one(client: httpx.AsyncClient) -> None:
    here = (await register(client)).json()
    there = (await log_in(client)).json()
    bearer = {"Authorization": f"Bearer {here['access_token']}"}

    listed = (await client.get("/auth/sessions", headers=bearer)).json()["items"]
    other = next(item for item in listed if not item["current"])
    ended = await client.delete(f"/auth/sessions/{other['uuid']}", headers=bearer)
    again = await client.delete(f"/auth/sessions/{other['uuid']}", headers=bearer)

    assert [item["current"] for item in listed] == [False, True]
    assert ended.status_code == 204
    assert again.status_code == 404
    assert not await is_let_in(client, there["access_token"])
    assert await is_let_in(client, here["access_token"])


async def test_another_persons_session_is_not_found(client: httpx.AsyncClient) -> None:
    ada = (await register(client)).json()
    bob = (await register(client, "bob@example.org")).json()
    bearer = {"Authorization": f"Bearer {ada['access_token']}"}
    hers = (await client.get("/auth/sessions", headers=bearer)).json()["items"][0]["uuid"]

    response = await client.delete(
        f"/auth/sessions/{hers}", headers={"Authorization": f"Bearer {bob['access_token']}"}
    )

    assert response.status_code == 404
    assert await is_let_in(client, ada["access_token"])


async def test_signing_in_ends_the_session_that_the_browser_brought_along(
    client: httpx.AsyncClient,
) -> None:
    planted = (await register(client, cookie=True)).json()["access_token"]

    await log_in(client, cookie=True)

    assert not await is_let_in(client, planted)


async def test_an_access_token_lives_for_a_quarter_of_an_hour(installation: Installation) -> None:
    token = (await register(installation.client)).json()["access_token"]

    installation.clock.advance(timedelta(minutes=14, seconds=50))
    before = await is_let_in(installation.client, token)
    installation.clock.advance(timedelta(seconds=11))
    after = await is_let_in(installation.client, token)

    assert (before, after) == (True, False)


async def test_a_session_that_stands_idle_for_thirty_days_is_over(
    installation: Installation,
) -> None:
    token = (await register(installation.client)).json()["refresh_token"]

    installation.clock.advance(timedelta(days=30))

    assert (await refresh(installation.client, token)).status_code == 401


async def test_no_session_outlives_ninety_days_however_active(
    installation: Installation,
) -> None:
    token = (await register(installation.client)).json()["refresh_token"]
    for _ in range(4):
        installation.clock.advance(timedelta(days=20))
        token = (await refresh(installation.client, token)).json()["refresh_token"]

    installation.clock.advance(timedelta(days=10))

    assert (await refresh(installation.client, token)).status_code == 401


async def test_a_refresh_without_a_token_says_so(client: httpx.AsyncClient) -> None:
    response = await client.post("/auth/refresh")

    assert response.status_code == 401
    assert response.json()["code"] == "refresh_token_missing"
    assert PASSWORD not in response.text
