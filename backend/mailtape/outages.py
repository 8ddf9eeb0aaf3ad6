"""Says in the log why a server cannot be used: each reason at once, and again while it lasts.

Everybody who asks meanwhile hears the same, so a line for each of them would hide the rest.
"""

import time

import structlog

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 30.0

_said: dict[tuple[str, object], float] = {}


def tell(event: str, error: object) -> None:
    """Log a server's or driver's own name of what is wrong, unless that was done just now.

    A number or a class: what they say in words may hold the values that they were given.
    """
    now = time.monotonic()
    if now - _said.get((event, error), -_AGAIN_SECONDS) >= _AGAIN_SECONDS:
        _said[event, error] = now
        log.warning(event, error=error)
