import json
from collections.abc import Iterator

import httpx
import pytest

from installation import Installation
from mailtape.api import errors
from mailtape.domain import errors as domain
from mailtape.domain.errors import MailtapeError


def _classes(of: type[MailtapeError]) -> Iterator[type[MailtapeError]]:
    yield of
    for below in of.__subclasses__():
        yield from _classes(below)


@pytest.mark.parametrize(
    "error", [c for c in _classes(MailtapeError) if c.__module__ == domain.__name__]
)
def test_every_error_of_the_domain_stands_in_the_table(error: type[MailtapeError]) -> None:
    assert error in errors.STATUS


def test_what_is_temporary_says_when_to_try_again() -> None:
    for error in (
        domain.TooMany("Slow down.", retry_after=7),
        domain.Unavailable("Not now."),
        domain.StoreFull("No room."),
    ):
        assert int(errors.of_error(error).headers["retry-after"]) >= 1


def _assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert set(problem) >= {"type", "title", "status", "detail", "code"}


async def test_an_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    _assert_problem(await client.get("/nothing/here"), 404, "not_found")


async def test_a_wrong_method_is_a_problem_that_names_the_right_ones(
    client: httpx.AsyncClient,
) -> None:
    response = await client.put("/openapi.json")

    _assert_problem(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


async def test_a_bug_is_a_500_that_tells_nothing(installation: Installation) -> None:
    @installation.app.get("/bug")
    async def _bug() -> None:
        raise ZeroDivisionError("the secret of the house")

    response = await installation.client.get("/bug")

    _assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text


async def test_the_front_door_leads_to_the_documents(client: httpx.AsyncClient) -> None:
    response = await client.get("/")

    assert response.status_code == 307
    assert (await client.get(response.headers["location"])).status_code == 200


async def test_openapi_describes_refusals_as_problems_only(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    assert "HTTPValidationError" not in json.dumps(document)
    assert "Problem" in document["components"]["schemas"]
