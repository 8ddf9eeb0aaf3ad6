"""List, detail and search over a full store, while nothing and while 200 mails a second arrive.

Four readers ask at the same time, each over its own connection at a fixed pace. A time counts from
when the request was due, so that one slow answer shows in the requests that had to wait behind it.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from bench import steady
from bench.api import Api
from bench.counts import Counts
from bench.figures import Figure, at_most, judged_by
from bench.mails import COMMON_WORD, varied
from bench.programs import Server, serving

PACE = 10
"""Requests a second of each reader."""
ARRIVING = 200
"""Mails a second."""

_JUDGED = {  # the quantile that counts, and its target while mail arrives
    "list of 50": (0.99, at_most(30.0)),
    "detail": (0.99, None),
    "search, rare word": (0.95, at_most(50.0)),
    "search, common word": (0.95, at_most(50.0)),
}


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """Four kinds of request, idle and under load."""
    how = f"at {counts.stored_messages:,} messages"
    with serving(folder) as server:
        steady.acknowledged(steady.start(server.smtp_port, counts.stored_messages))
        Api(server).wait_for(counts.stored_messages)

        requests = PACE * counts.reading_seconds
        for kind, times in _ask(server, requests).items():
            yield judged_by(f"{kind}, idle", _JUDGED[kind][0], times, None, how)

        mails = ARRIVING * (counts.reading_seconds + 2)  # it goes on until the last answer
        sender = steady.start(server.smtp_port, mails, rate=ARRIVING)
        Api(server).wait_for(counts.stored_messages + ARRIVING)
        for kind, times in _ask(server, requests).items():
            share, target = _JUDGED[kind]
            yield judged_by(f"{kind}, {ARRIVING}/s", share, times, target, how)
        steady.acknowledged(sender)


def _ask(server: Server, requests: int) -> dict[str, list[float]]:
    newest = Api(server).get("/messages?limit=200")["items"]
    words = varied().words
    kinds: dict[str, Callable[[int], str]] = {
        "list of 50": lambda _: "/messages?limit=50",
        "detail": lambda number: f"/messages/{newest[number % len(newest)]['id']}",
        "search, rare word": lambda number: f"/messages?limit=50&q={quote(words[number])}",
        "search, common word": lambda _: f"/messages?limit=50&q={COMMON_WORD}",
    }
    with ThreadPoolExecutor(len(kinds)) as readers:
        begin = time.monotonic()
        asked = {  # staggered: else each would always wait for the other three
            kind: readers.submit(
                _one_reader, Api(server), path_of, requests, begin + index / PACE / len(kinds)
            )
            for index, (kind, path_of) in enumerate(kinds.items())
        }
        return {kind: answers.result() for kind, answers in asked.items()}


def _one_reader(
    api: Api, path_of: Callable[[int], str], requests: int, begin: float
) -> list[float]:
    times = []
    for number in range(requests):
        due = begin + number / PACE
        time.sleep(max(0.0, due - time.monotonic()))
        api.call("GET", path_of(number))
        times.append(time.monotonic() - due)
    return times
