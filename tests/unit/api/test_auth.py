"""Access tokens that are not ours, not whole, not for this, or no longer good."""

import base64
import hmac
import json
from datetime import timedelta
from typing import Any

import jwt
from sqlalchemy import delete, update

from installation import Installation
from mailtape.rows.accounts import Membership, User
from mailtape.rows.organisations import Organisation
from people import is_let_in, register


def _part(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


_DIGESTS = {"HS384": "sha384", "HS512": "sha512"}


def _name(header: object) -> str:
    return str(header.get("alg")) if isinstance(header, dict) else ""


def _signed(header: object, payload: object, secret: str) -> str:
    signed = f"{_part(header)}.{_part(payload)}"
    digest = hmac.digest(secret.encode(), signed.encode(), _DIGESTS.get(_name(header), "sha256"))
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def _genuine(installation: Installation) -> tuple[str, dict[str, Any], str]:
    token = (await register(installation.client)).json()["access_token"]
    payload = jwt.decode(token, options={"verify_signature": False})
    return token, payload, installation.parts.settings.keys.jwt_secret


async def test_the_genuine_one_is_let_in(installation: Installation) -> None:
    token, payload, secret = await _genuine(installation)

    assert await is_let_in(installation.client, token)
    assert await is_let_in(
        installation.client, _signed({"alg": "HS256", "typ": "JWT"}, payload, secret)
    )


async def test_no_other_algorithm_is_taken(installation: Installation) -> None:
    _, payload, secret = await _genuine(installation)

    for algorithm in ("none", "None", "nOnE", "NONE", "", "HS384", "HS512", "RS256"):
        header = {"alg": algorithm, "typ": "JWT"}
        signed = _signed(header, payload, secret)
        unsigned = f"{_part(header)}.{_part(payload)}."
        assert not await is_let_in(installation.client, signed), algorithm
        assert not await is_let_in(installation.client, unsigned), algorithm


async def test_headers_that_ask_for_more_are_refused(installation: Installation) -> None:
    _, payload, secret = await _genuine(installation)

    for header in (
        {"alg": "HS256", "crit": ["x"], "x": 1},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "kid": 7},
        {"typ": "JWT"},
        ["HS256"],
        "HS256",
    ):
        token = _signed(header, payload, secret)
        assert not await is_let_in(installation.client, token), header


async def test_another_secret_signs_nothing_wherever_it_is_said_to_lie(
    installation: Installation,
) -> None:
    _, payload, _ = await _genuine(installation)

    for secret in ("", "secret", "a" * 64):
        for name in ("jku", "x5u", "jwk", "kid"):
            header = {"alg": "HS256", name: "http://evil.example/key"}
            assert not await is_let_in(installation.client, _signed(header, payload, secret))


async def test_claims_that_do_not_fit_are_refused(installation: Installation) -> None:
    _, payload, secret = await _genuine(installation)
    nobody = "00000000-0000-7000-8000-000000000000"

    for changes in (
        {"typ": "refresh"},
        {"typ": None},
        {"typ": ["access"]},
        {"iss": "http://elsewhere.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"exp": 0},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": 1e400},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"sub": 7},
        {"sub": "nobody"},
        {"sub": nobody},
        {"sid": None},
        {"sid": "../../x"},
        {"sid": nobody},
    ):
        claims = {k: v for k, v in (payload | changes).items() if v is not None}
        token = _signed({"alg": "HS256"}, claims, secret)
        assert not await is_let_in(installation.client, token), changes


async def test_a_token_that_was_cut_or_grown_is_refused(installation: Installation) -> None:
    token, _, _ = await _genuine(installation)
    head, payload, signature = token.split(".")

    for wrong in (
        f"{head}.{payload}",
        f"{head}.{payload}.",
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}.{signature}.{signature}",
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}..{signature}",
        f".{payload}.{signature}",
        "..",
        ".",
        token + "=" * 4,
        token + "x" * 4_000,
    ):
        assert not await is_let_in(installation.client, wrong), wrong


async def test_a_header_that_says_nothing_is_answered_with_a_challenge(
    installation: Installation,
) -> None:
    for header in ("", "Bearer", "Bearer ", "Basic YTpi", "Token x", "Bearer a b", "Bearer \xe9"):
        response = await installation.client.get(
            "/addresses", headers={"Authorization": header.encode("latin-1")}
        )

        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["content-type"] == "application/problem+json"


async def test_a_refresh_token_is_no_access_token(installation: Installation) -> None:
    refresh_token = (await register(installation.client)).json()["refresh_token"]

    assert not await is_let_in(installation.client, refresh_token)


async def test_an_access_token_is_no_refresh_token(installation: Installation) -> None:
    token, _, _ = await _genuine(installation)

    response = await installation.client.post("/auth/refresh", json={"refresh_token": token[:200]})

    assert response.status_code == 401


async def test_a_disabled_user_is_out_at_once(installation: Installation) -> None:
    token, _, _ = await _genuine(installation)

    await installation.parts.database.write(
        lambda session: session.execute(update(User).values(status="suspended"))
    )

    assert not await is_let_in(installation.client, token)


async def test_who_has_left_the_organisation_is_out_at_once(installation: Installation) -> None:
    token, _, _ = await _genuine(installation)

    await installation.parts.database.write(lambda session: session.execute(delete(Membership)))

    assert not await is_let_in(installation.client, token)


async def test_a_deleted_organisation_lets_nobody_in(installation: Installation) -> None:
    token, _, _ = await _genuine(installation)

    await installation.parts.database.write(
        lambda session: session.execute(update(Organisation).values(status="deleted"))
    )

    assert not await is_let_in(installation.client, token)


async def test_a_suspended_organisation_is_told_so(installation: Installation) -> None:
    organisation = await installation.an_organisation()
    session_token, _, _ = await _genuine(installation)
    api_token = await installation.a_token(organisation)

    await installation.parts.database.write(
        lambda session: session.execute(update(Organisation).values(status="suspended"))
    )

    for token in (session_token, api_token):
        response = await installation.client.get(
            "/addresses", headers=installation.as_bearer(token)
        )
        assert response.status_code == 403
        assert response.json()["code"] == "organisation_suspended"


async def test_a_session_that_is_over_lets_nobody_in_even_with_a_fresh_token(
    installation: Installation,
) -> None:
    _, payload, secret = await _genuine(installation)
    far = int((installation.clock() + timedelta(days=365)).timestamp())
    forever = _signed({"alg": "HS256"}, payload | {"exp": far}, secret)
    assert await is_let_in(installation.client, forever)

    installation.clock.advance(timedelta(days=30))

    assert not await is_let_in(installation.client, forever)


async def test_a_token_has_one_spelling(installation: Installation) -> None:
    """Padding and the unused bits of the last character change nothing that is signed."""
    token = (await register(installation.client)).json()["access_token"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    others = [token[:-1] + alphabet[(last & ~0b11) | bits] for bits in range(4)]

    assert await is_let_in(installation.client, token)
    for other in {*others, f"{token}=", f"{token}==", f"{token}."} - {token}:
        assert not await is_let_in(installation.client, other), other[-4:]
