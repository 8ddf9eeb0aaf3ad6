"""The one table from errors to HTTP, and the one form of a refusal: RFC 9457 problem+json.

Whatever goes wrong, here or in the framework, a client reads the same five members and finds
`code` to branch on. `type` is `about:blank`, so `title` is the phrase of the status
(RFC 9457, section 4.2.1). What only we may know is never in an answer.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from mailtape.domain.errors import (
    Conflict,
    Forbidden,
    Invalid,
    MailtapeError,
    NotFound,
    NotSupported,
    Refused,
    StoreFull,
    TooMany,
    Unauthenticated,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""What `Retry-After` says when nobody knows better."""

STATUS: Mapping[type[MailtapeError], HTTPStatus] = {
    MailtapeError: HTTPStatus.INTERNAL_SERVER_ERROR,
    Refused: HTTPStatus.BAD_REQUEST,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotSupported: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    # Not 507: every client knows that 503 is worth another try.
    StoreFull: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Every class of `domain.errors`; a subclass made elsewhere has the status of its nearest base."""

_CODES_OF_THE_FRAMEWORK: Mapping[int, tuple[str, str]] = {
    400: ("malformed_request", "The request cannot be read."),
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "This path does not know this method."),
    413: ("body_too_large", "The body of the request is larger than is taken here."),
}

_MOST_ERRORS = 20
"""So many faults of one request are listed; a hostile one may have thousands."""


class ProblemResponse(JSONResponse):
    """An RFC 9457 problem."""

    media_type = MEDIA_TYPE


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """Make a refusal; `detail` is read by strangers."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        content["errors"] = list(errors)
    return ProblemResponse(content, status, dict(headers or {}))


def status_of(error: MailtapeError) -> HTTPStatus:
    """Look an error up in the table."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)


def of_error(error: MailtapeError, faults: Sequence[Mapping[str, str]] = ()) -> ProblemResponse:
    """Make the answer to an error of ours, which may consist of several faults."""
    status = status_of(error)
    headers: dict[str, str] = {}
    errors = list(faults)
    if isinstance(error, TooMany):
        headers["Retry-After"] = headers["RateLimit-Reset"] = str(error.retry_after)
        headers["RateLimit-Remaining"] = "0"
        if error.limit is not None:
            headers["RateLimit-Limit"] = str(error.limit)
    elif error.temporary:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Invalid) and error.field is not None:
        errors.append({"detail": error.message, "field": error.field, "code": error.code})
    return problem(status, error.code, error.message, errors=errors, headers=headers)


def install(app: FastAPI) -> None:
    """Let the application answer every error in this form; bugs are `api.middleware`'s."""

    @app.exception_handler(MailtapeError)
    async def _ours(_request: Request, error: MailtapeError) -> ProblemResponse:
        return of_error(error)

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: HTTPException) -> ProblemResponse:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods_at(request)) or headers.get("Allow", "")
        code, detail = _CODES_OF_THE_FRAMEWORK.get(
            error.status_code, ("http_error", HTTPStatus(error.status_code).phrase)
        )
        return problem(error.status_code, code, detail, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def _validation(_request: Request, error: RequestValidationError) -> ProblemResponse:
        faults = error.errors()
        if any(fault["type"] == "json_invalid" for fault in faults):
            return problem(400, "malformed_json", "The body is not JSON.")
        return problem(
            422,
            "invalid",
            "The request breaks the rules listed in `errors`.",
            errors=[_fault(fault) for fault in faults[:_MOST_ERRORS]],
        )


def _methods_at(request: Request) -> list[str]:
    """Name every method that a path knows (RFC 9110, section 15.5.6).

    The framework names those of the first route that matches the path, and there is one route for
    each method; the OpenAPI document knows them all.
    """
    paths = request.app.openapi()["paths"]
    here = [calls for path, calls in paths.items() if compile_path(path)[0].match(request.url.path)]
    methods = {method.upper() for calls in here for method in calls}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def responses(*classes: type[MailtapeError]) -> dict[int | str, dict[str, Any]]:
    """Declare the refusals of a route for OpenAPI; `api.documentation` adds what all can give."""
    return {
        int(STATUS[error]): {
            "description": STATUS[error].phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for error in classes
    }


def _fault(fault: Mapping[str, Any]) -> dict[str, str]:
    """Say where and what; never the value itself, which may be a password."""
    place = [str(step) for step in fault["loc"]]
    if len(place) > 1 and place[0] in {"body", "query", "path", "header", "cookie"}:
        place = place[1:]
    return {
        "detail": str(fault["msg"])[:200],
        "field": ".".join(place)[:200],
        "code": str(fault["type"]),
    }
