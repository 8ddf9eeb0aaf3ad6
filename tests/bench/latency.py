"""From the acknowledgement of a mail to the moment a reader learns of it, at a calm rate."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench import steady
from bench.api import Api
from bench.counts import Counts
from bench.figures import Figure, at_most, quantile
from bench.programs import Server, serving

RATE = 50
_NUMBER = re.compile(rb"bench-(\d+)@")


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """Medians of the runs' quantiles; the reader holds one event stream open."""
    with serving(folder) as server:
        runs = [_run(server, RATE * counts.latency_seconds) for _ in range(counts.latency_runs)]
    how = f"6 kB, {RATE}/s; median of runs of {counts.latency_seconds} s: {counts.latency_runs}"
    for share, target in ((0.50, 15.0), (0.99, 60.0)):
        value = median(quantile(run, share) for run in runs)
        name = f"accepted → visible p{share * 100:.0f}"
        yield Figure(name, value * 1000, "ms", at_most(target), how)


def _run(server: Server, count: int) -> list[float]:
    events = Api(server).events()
    sender = steady.start(server.smtp_port, count, rate=RATE, connections=4)
    seen = _times_seen(events, count)
    # An event may overtake the reply on its way to the sender: that is a wait of nothing.
    times = enumerate(steady.acknowledged(sender))
    return [max(0.0, seen[number] - acknowledged) for number, acknowledged in times]


def _times_seen(events: Iterator[tuple[float, bytes]], count: int) -> dict[int, float]:
    seen: dict[int, float] = {}
    for when, data in events:
        if found := _NUMBER.search(data):
            seen[int(found[1])] = when
        if len(seen) == count:
            break
    return seen
