import re

import httpx


async def test_the_front_door_leads_to_the_documents(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")

    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


async def test_the_page_fetches_nothing_from_another_host(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")

    assert page.status_code == 200
    assert re.findall(r'(?:src|href)="([^"]*)"', page.text) == [
        "/docs/swagger-ui.css",
        "/docs/favicon-32x32.png",
        "/docs/swagger-ui-bundle.js",
    ]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.headers["content-security-policy"]


async def test_every_file_of_the_page_is_there(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")

    for path in re.findall(r'(?:src|href)="([^"]*)"', page.text):
        assert (await client.get(path)).status_code == 200


async def test_there_is_no_other_file(client: httpx.AsyncClient) -> None:
    for name in ("__init__.py", "..%2f__init__.py", "nothing"):
        assert (await client.get(f"/docs/{name}")).status_code == 404
