"""Waits until mail is there, without taking from a server what it needs to store it."""

import time
from collections.abc import Callable

_SOON_SECONDS = 0.02
_LATEST_SECONDS = 0.25
_SHARE = 0.05


def wait_for(arrived: Callable[[], int], count: int, within: float = 600.0) -> float:
    """Returns when so many have arrived, and tells when that was seen.

    Looks 50 times a second at first and four times in the end: what is long waited for is seen a
    twentieth of the waiting late at the most, and four looks are no load.
    """
    begin = time.monotonic()
    while (there := arrived()) < count:
        waited = time.monotonic() - begin
        if waited > within:
            raise RuntimeError(f"{there} of {count} mails arrived in {within:g} s")
        time.sleep(min(max(_SOON_SECONDS, waited * _SHARE), _LATEST_SECONDS))
    return time.monotonic()
