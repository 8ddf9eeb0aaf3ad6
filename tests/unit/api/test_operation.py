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


async def test_counts_answers_by_template_and_what_strangers_make_up_as_one(
    installation: Installation,
) -> None:
    def counted(*labels: str) -> float:
        names = dict(zip(("method", "route", "status"), labels, strict=True))
        return REGISTRY.get_sample_value("mailtape_http_requests_total", names) or 0

    kinds = [("GET", "/messages/{message_id}", "401"), ("GET", "none", "404")]
    kinds.append(("other", "none", "404"))
    before = [counted(*kind) for kind in kinds]

    for number in range(3):
        await installation.client.get(f"/messages/{number}")
        await installation.client.get(f"/made-up/{number}")
        await installation.client.request(f"MADEUP{number}", f"/made-up/{number}")

    assert [counted(*kind) - was for kind, was in zip(kinds, before, strict=True)] == [3, 3, 3]


def test_every_metric_explains_itself() -> None:
    for family in REGISTRY.collect():
        assert family.name.startswith("mailtape_")
        assert family.documentation.endswith(".")
