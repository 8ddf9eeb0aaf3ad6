from datetime import timedelta
from email.message import EmailMessage
from urllib.parse import urljoin

import pytest

from installation import Installation
from mailtape.domain import ids
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.services import views
from postroom import deliver

PNG = b"\x89PNG\r\n\x1a\n"


def a_mail_with_a_picture() -> bytes:
    mail = EmailMessage()
    mail["Subject"] = "picture"
    mail.set_content("<p>Look: <img src=cid:logo></p>", subtype="html")
    mail.add_related(PNG, "image", "png", cid="<logo>", filename="logo.png")
    return mail.as_bytes().replace(b"\n", b"\r\n")


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


async def view_url(installation: Installation, organisation_id: OrganisationId) -> str:
    (message_id,) = await deliver(installation, organisation_id, a_mail_with_a_picture())
    bearer = installation.as_bearer(await installation.a_token(organisation_id))
    detail = await installation.client.get(f"/messages/{message_id}", headers=bearer)
    url: str = detail.json()["view_url"]
    return url


async def test_a_frame_without_a_token_shows_the_page_and_its_pictures(
    installation: Installation, acme: OrganisationId
) -> None:
    url = await view_url(installation, acme)

    page = await installation.client.get(url)
    picture = await installation.client.get(urljoin(url, "attachments/1"))

    assert 'src="attachments/1"' in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-security-policy"] == (
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
        "img-src 'self' data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
    )
    assert picture.content == PNG
    # The page's origin is opaque: a picture for one origin alone would not be shown in it.
    assert picture.headers["cross-origin-resource-policy"] == "cross-origin"
    assert picture.headers["content-disposition"].startswith("attachment;")


async def test_a_link_ends_after_ten_minutes(
    installation: Installation, acme: OrganisationId
) -> None:
    url = await view_url(installation, acme)

    installation.clock.advance(timedelta(seconds=595))
    before = await installation.client.get(url)
    installation.clock.advance(timedelta(seconds=10))
    after = await installation.client.get(url)
    picture = await installation.client.get(urljoin(url, "attachments/1"))

    assert [r.status_code for r in (before, after, picture)] == [200, 404, 404]


async def test_a_link_is_good_for_its_message_alone(
    installation: Installation, acme: OrganisationId
) -> None:
    rival = await installation.an_organisation("rival")
    (theirs,) = await deliver(installation, rival)
    identifier = ids.from_text(theirs)
    assert identifier is not None
    secret = installation.parts.settings.keys.jwt_secret
    crossed = views.sign(
        secret,
        views.View(acme, MessageId(identifier)),
        now_s=int(installation.clock().timestamp()),
    )

    response = await installation.client.get(f"/view/{crossed}/html")

    assert response.status_code == 404


async def test_a_link_ends_with_its_message(
    installation: Installation, acme: OrganisationId
) -> None:
    url = await view_url(installation, acme)
    bearer = installation.as_bearer(await installation.a_token(acme))
    await installation.client.delete("/messages?all=true", headers=bearer)

    assert (await installation.client.get(url)).status_code == 404


@pytest.mark.parametrize("wrong", ["x", "A" * 72, "%00", "..", "é", "A" * 3000])
async def test_what_is_no_link_is_a_problem(installation: Installation, wrong: str) -> None:
    response = await installation.client.get(f"/view/{wrong}/html")

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
