"""The OpenAPI document, made to say what the application does with errors.

The framework describes its own form of a 422; ours is a problem like every other refusal.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mailtape.api.errors import MEDIA_TYPE
from mailtape.api.schemas.problem import Fault, Problem

TAGS = [
    {"name": "Sign-in", "description": "Accounts, sessions and their tokens."},
    {"name": "Tokens", "description": "API and service tokens, for programs."},
    {"name": "Addresses", "description": "Where mail may be sent."},
    {"name": "Messages", "description": "The mail that has arrived."},
    {"name": "Events", "description": "News as they happen."},
    {"name": "Ingest", "description": "Mail handed over by HTTP."},
    {"name": "Policy", "description": "Asked by a mail server before it takes a mail."},
    {"name": "Usage", "description": "What has been used, and of how much."},
    {"name": "Operation", "description": "Health and metrics."},
]

_ANYWHERE = {"413": "Content Too Large", "500": "Internal Server Error"}
_WHO_CALLS = {"401": "Unauthorized", "403": "Forbidden"}


def describe(app: FastAPI) -> dict[str, Any]:
    """Make the OpenAPI document of an application, once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        for path in document["paths"].values():
            for operation in path.values():
                _describe_refusals(operation)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        for model in (Fault, Problem):
            schemas[model.__name__] = model.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
        schemas["Problem"].pop("$defs", None)
        app.openapi_schema = document
    return app.openapi_schema


def _describe_refusals(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    refusals = dict(_WHO_CALLS) if operation.get("security") else {}
    if "requestBody" in operation:
        refusals |= _ANYWHERE | {"400": "Bad Request"}
    responses.pop("422", None)
    # A path alone is never invalid: an id that does not parse is not found.
    if "requestBody" in operation or any(
        parameter["in"] != "path" for parameter in operation.get("parameters", ())
    ):
        refusals["422"] = "Unprocessable Content"
    for status, phrase in refusals.items():
        responses.setdefault(
            status,
            {
                "description": phrase,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
