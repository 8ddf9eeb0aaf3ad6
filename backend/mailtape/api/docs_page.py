"""`/docs`: the API explained in a browser, from files that lie beside the program.

Nothing is fetched from another host: an installation without a way to the internet can read its
own documentation, and nobody else learns who reads it.
"""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from mailtape.domain.errors import NotFound

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# The page of the framework starts the viewer with a script and a style of its own.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def install(app: FastAPI) -> None:
    """Add the page and its files; `/` leads to it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def _front_door() -> RedirectResponse:
        return RedirectResponse("/docs")

    @router.get("/docs")
    async def _page() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon-32x32.png",
        )
        page.headers["Content-Security-Policy"] = _POLICY
        return page

    @router.get("/docs/{name}")
    async def _asset(name: str) -> Response:
        if name not in _ASSETS:
            raise NotFound("There is no such thing.")
        return Response(_read(name), media_type=_ASSETS[name])

    app.include_router(router)


@cache
def _read(name: str) -> bytes:
    return files("fastapi_swagger.resources").joinpath(name).read_bytes()
