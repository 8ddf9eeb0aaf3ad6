"""Postfix in front of a fleet: what becomes visible, as a ratio to what it hands to `smtp-sink`.

Two instances of Postfix with one configuration, which ask one policy daemon: one hands over to the
fleet's ingest, the other to a sink. They are asked in turn, so neither works while the other does.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.counts import Counts
from bench.figures import Figure, at_least, at_most
from bench.mails import SMALL
from bench.production import Fleet, fleet
from bench.programs import sinking, sunk
from bench.throughput import finish, start_source
from bench.waiting import wait_for
from postfix import Postfix, receiving

SESSIONS = 20
_WARM_UP = 500


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """Twenty sessions into Postfix, in pairs of legs; and what the fleet's legs cost."""
    count = counts.relayed_mails
    sink_rates, fleet_rates, seconds = [], [], Counter[str]()
    with _both(folder) as (to_sink, to_fleet, started):
        to_sink(min(count, _WARM_UP))
        to_fleet(min(count, _WARM_UP))
        for _ in range(counts.relayed_pairs):
            sink_rates.append(to_sink(count))
            before = started.cpu_seconds()
            fleet_rates.append(to_fleet(count))
            after = started.cpu_seconds()
            seconds.update({name: after[name] - before[name] for name in after})

    pairs = list(zip(fleet_rates, sink_rates, strict=True))
    ratio = median(rate / sink for rate, sink in pairs)
    how = f"{median(fleet_rates):,.0f}/s of {median(sink_rates):,.0f}/s to a sink; "
    how += f"median of pairs of {count:,}: {len(pairs)}"
    yield Figure("visible through Postfix, 6 kB", ratio, "ratio", at_least(0.40), how)

    mails = count * len(pairs)
    each = {name: spent / mails * 1000 for name, spent in seconds.items()}
    how = "without Postfix: " + ", ".join(f"{name} {ms:.2f}" for name, ms in each.items())
    yield Figure("CPU a mail", sum(each.values()), "ms", at_most(2.5), how)


Leg = Callable[[int], float]
"""Sends so many mails; gives how many a second arrived at the far end."""


@contextmanager
def _both(folder: Path) -> Iterator[tuple[Leg, Leg, Fleet]]:
    written = folder / "sunk"
    with (
        fleet(folder) as started,
        sinking(lmtp=True, counts=written) as sink_port,
        _postfix(started, sink_port) as before_sink,
        _postfix(started, started.lmtp_port) as before_fleet,
    ):
        address = started.customer.address

        def to_sink(count: int) -> float:
            return _leg(before_sink, address, count, lambda: sunk(written))

        def to_fleet(count: int) -> float:
            return _leg(before_fleet, address, count, started.stored)

        yield to_sink, to_fleet, started


@contextmanager
def _postfix(started: Fleet, lmtp_port: int) -> Iterator[Postfix]:
    policy, lmtp = (f"127.0.0.1:{port}" for port in (started.policy_port, lmtp_port))
    with receiving(policy=policy, lmtp=lmtp, prints=False) as postfix:
        yield postfix


def _leg(postfix: Postfix, address: str, count: int, arrived: Callable[[], int]) -> float:
    before = arrived()
    begin = time.monotonic()
    port = int(postfix.smtp.rpartition(":")[2])
    finish(start_source(port, SMALL, count, recipient=address, sessions=SESSIONS))
    rate = count / (wait_for(arrived, before + count) - begin)
    postfix.wait_until_empty()  # the last reply may still be on its way to it
    return rate
