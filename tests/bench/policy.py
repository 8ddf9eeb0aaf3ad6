"""Policy checks a second, as a ratio to a server that does not think, and their time at a rate.

The recipient is an address of an organisation that registered and is on tier `free`, with its
limits raised so far that every check is asked of all of them and none refuses.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.api import Api
from bench.asking import Asked, ask
from bench.counts import Counts
from bench.customers import ROOMY, signed_up
from bench.figures import Figure, Target, at_least, at_most, judged_by
from bench.production import fleet
from bench.programs import MAILTAPE, serving

RATE = 2000
_WARM_UP = 500


@dataclass(frozen=True, slots=True)
class _Targets:
    ratio: Target
    p99: Target


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """The daemon inside of `serve`."""
    _raise_the_tier(folder / "data")
    with serving(folder) as server:
        address = signed_up(Api(server)).address
        targets = _Targets(at_least(0.25), at_most(2.0))
        yield from _figures(server.policy_port, address, counts, targets)


def measure_fleet(folder: Path, counts: Counts) -> Iterator[Figure]:
    """The daemon as a process of its own, which counts in Redis."""
    with fleet(folder) as started:
        targets = _Targets(at_least(0.12), at_most(3.0))
        yield from _figures(started.policy_port, started.customer.address, counts, targets)


def _figures(port: int, recipient: str, counts: Counts, targets: _Targets) -> Iterator[Figure]:
    """Ten connections, as fast as they are answered and at a fixed rate."""
    with _not_thinking() as null_port:
        ask(port, recipient, _WARM_UP)
        ask(null_port, recipient, _WARM_UP)
        rounds = [
            (
                ask(null_port, recipient, counts.policy_checks),
                ask(port, recipient, counts.policy_checks),
            )
            for _ in range(counts.rounds)
        ]
        yield _ratio(rounds, counts.policy_checks, targets.ratio)
        for name, asked_port, target in (
            ("DUNNO without thought", null_port, None),
            ("policy check", port, targets.p99),
        ):
            asked = ask(asked_port, recipient, RATE * counts.policy_seconds, rate=RATE)
            how = "over 10 connections"
            yield judged_by(f"{name}, {RATE:,}/s", 0.99, asked.seconds, target, how)


def _ratio(rounds: list[tuple[Asked, Asked]], count: int, target: Target) -> Figure:
    null = median(asked.per_second for asked, _ in rounds)
    server = median(asked.per_second for _, asked in rounds)
    how = f"{server:,.0f}/s of {null:,.0f}/s of DUNNO without thought; "
    how += f"median of rounds of {count:,}: {len(rounds)}"
    return Figure("policy checks", server / null, "ratio", target, how)


def _raise_the_tier(data: Path) -> None:
    """Raise the limits of `free` as an administrator would: the row decides once it is there."""
    subprocess.run(
        [MAILTAPE, "migrate", "--data", data],
        cwd=data.parent,  # away from a developer's .env
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with closing(sqlite3.connect(data / "mailtape.sqlite3")) as rows, rows:
        changed = rows.execute("UPDATE tiers SET limits = ? WHERE name = 'free'", (ROOMY,))
        if changed.rowcount != 1:
            raise RuntimeError("there is no tier `free`")


@contextmanager
def _not_thinking() -> Iterator[int]:
    """Start the server that answers DUNNO to anything; gives its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.dunno"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(5)
        process.stdout.close()
