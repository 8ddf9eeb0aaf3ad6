"""The refresh token as a cookie, for browsers: out of reach of scripts and of other sites.

Over https it has the `__Host-` prefix, which browsers only take with Secure, for the whole host
and from the host itself (RFC 6265bis, section 4.1.3.2), so no sibling domain can plant one. Over
http, which is for loopback, it has neither prefix nor Secure.
"""

from urllib.parse import urlsplit

from fastapi import Request, Response

from mailtape.api.deps import ApiSettings
from mailtape.domain.errors import Forbidden


def _name_and_path(settings: ApiSettings) -> tuple[str, str]:
    if settings.secure_cookies:
        return "__Host-refresh_token", "/"
    return "refresh_token", "/auth"


def read(request: Request, settings: ApiSettings) -> str | None:
    """Read the refresh token that a browser sends."""
    return request.cookies.get(_name_and_path(settings)[0]) or None


def write(response: Response, settings: ApiSettings, token: str) -> None:
    """Let the browser keep a refresh token."""
    name, path = _name_and_path(settings)
    response.set_cookie(
        name,
        token,
        max_age=int(settings.sessions.refresh_lifetime.total_seconds()),
        path=path,
        secure=settings.secure_cookies,
        httponly=True,
        samesite="strict",
    )


def clear(response: Response, settings: ApiSettings) -> None:
    """Let the browser forget its refresh token."""
    name, path = _name_and_path(settings)
    response.delete_cookie(
        name, path=path, secure=settings.secure_cookies, httponly=True, samesite="strict"
    )


def check_origin(request: Request, settings: ApiSettings) -> None:
    """Pass a request that no foreign page has sent with our cookie.

    SameSite lets sibling domains through; a browser's Origin tells them apart.

    Raises:
        Forbidden: `foreign_origin`.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return
    parts = urlsplit(origin)
    host = request.headers.get("host")
    ours = (parts.scheme in {"http", "https"} and parts.netloc == host) or (
        origin == settings.backend_url
    )
    if not ours:
        raise Forbidden("Another site's page may not do this.", code="foreign_origin")
