from prometheus_client.parser import text_string_to_metric_families

from installation import Installation
from mailtape.metrics import REGISTRY
from postroom import a_mail


async def test_is_healthy_while_its_parts_work(installation: Installation) -> None:
    response = await installation.client.get("/health")

    assert (response.status_code, response.json()) == (200, {"status": "healthy"})


async def test_is_down_when_the_rows_cannot_be_read(installation: Installation) -> None:
    await installation.parts.database.write(
        lambda session: session.connection().exec_driver_sql("DROP TABLE organisations") and None
    )

    response = await installation.client.get("/health")

    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["code"] == "unavailable"


async def test_shows_the_queue_and_what_was_accepted(installation: Installation) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    before = REGISTRY.get_sample_value("mailtape_messages_accepted_total", {"protocol": "http"})
    await installation.client.post(
        "/ingest?recipient=a@acme.mail.example.com&recipient=b@acme.mail.example.com",
        content=a_mail(),
        headers=bearer | {"Content-Type": "message/rfc822"},
    )

    response = await installation.client.get("/metrics")

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert samples["mailtape_queue_depth", "waiting"] == 1
    assert samples["mailtape_messages_accepted_total", "http"] == (before or 0) + 2


def test_every_metric_explains_itself() -> None:
    for family in REGISTRY.collect():
        assert family.name.startswith("mailtape_")
        assert family.documentation.endswith(".")
