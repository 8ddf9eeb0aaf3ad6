"""The HTTP application: routes, errors and middleware joined over the parts it is given.

To add routes: write `api/routes/<noun>.py` with a `router` (an `APIRouter` with a tag of
`api.documentation.TAGS`), its models in `api/schemas/<noun>.py`, and name the module in `_ROUTES`.
A route is four to ten lines: typed parameters, a principal by an alias of `api.auth`, the parts by
`api.deps.GivenParts`, one call of a service, the result as a schema. Errors of `domain.errors` are
raised and left alone; `api.errors` answers them. Ids come as `str` and are read with
`api.deps.read_id`. Each route also needs its line in the table of
`tests/integration/test_tenant_matrix.py`.
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

from fastapi import FastAPI

from mailtape.api import docs_page, documentation, errors
from mailtape.api.counting import CountRequests
from mailtape.api.deps import Parts
from mailtape.api.middleware import BodyLimit, CatchBugs, HeadAsGet, SafeHeaders
from mailtape.api.routes import (
    accounts,
    addresses,
    events,
    ingest,
    messages,
    operation,
    policy,
    tokens,
    usage,
    view,
)

_ROUTES: tuple[ModuleType, ...] = (
    accounts,
    tokens,
    addresses,
    messages,
    view,
    events,
    ingest,
    policy,
    usage,
    operation,
)

_DESCRIPTION = """
Mailtape records every e-mail that software sends, for developers to read.

Say who you are with `Authorization: Bearer <token>`. Times are RFC 3339 in UTC. Ids and cursors
are opaque. A refusal is `application/problem+json` (RFC 9457) with a stable `code`. Lists take
`limit` and `cursor` and answer `items` and `next_cursor`.
"""


def create_app(parts: Parts) -> FastAPI:
    """Make the application; it owns nothing, and whoever made the parts closes them."""
    app = FastAPI(
        title="Mailtape",
        version=version("mailtape"),
        description=_DESCRIPTION,
        openapi_tags=documentation.TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = parts
    app.openapi = lambda: documentation.describe(app)  # type: ignore[method-assign]
    errors.install(app)
    for routes in _ROUTES:
        # Not `include_router`, which would try every route twice, by way of its router's copy.
        app.router.routes.extend(routes.router.routes)
    docs_page.install(app)
    settings = parts.settings
    # The last one added is the outermost.
    app.add_middleware(
        BodyLimit, limit=settings.max_json_bytes, larger={"/ingest": settings.message_max_bytes}
    )
    app.add_middleware(HeadAsGet)
    app.add_middleware(SafeHeaders)
    app.add_middleware(CatchBugs)
    app.add_middleware(CountRequests)
    return app


def __getattr__(name: str) -> Any:
    """Give `app`, for a server that is told `mailtape.api.main:app`.

    By name, and only when it is asked for: it opens stores, of which the API knows nothing.
    """
    if name == "app":
        return import_module("mailtape.asgi").app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
