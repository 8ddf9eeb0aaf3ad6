"""Policy checks a second, as a ratio to a server that does not think, and their time at a rate.

The recipient is an address of an organisation that registered and is on tier `free`, with its
limits raised so far that every check is asked of all of them and none refuses.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench.api import Api
from bench.asking import Asked, ask
from bench.counts import Counts
from bench.figures import Figure, at_least, at_most, judged_by
from bench.programs import MAILTAPE, serving
from mailtape.domain.tier import Limits

RATE = 2000
_WARM_UP = 500
_ROOMY = Limits(
    emails_per_month=10**9,
    storage_bytes=2**50,
    addresses=5,
    members=3,
    api_calls_per_month=10**9,
    message_bytes=2**30,
    retention_days=7,
    messages_per_minute=60_000_000,
)


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """Ten connections, as fast as they are answered and at a fixed rate."""
    _raise_the_tier(folder / "data")
    with serving(folder) as server, _not_thinking() as null_port:
        recipient = _an_address(Api(server))
        ask(server.policy_port, recipient, _WARM_UP)
        ask(null_port, recipient, _WARM_UP)
        rounds = [
            (
                ask(null_port, recipient, counts.policy_checks),
                ask(server.policy_port, recipient, counts.policy_checks),
            )
            for _ in range(counts.rounds)
        ]
        yield _ratio(rounds, counts.policy_checks)
        for name, port, target in (
            ("DUNNO without thought", null_port, None),
            ("policy check", server.policy_port, at_most(2.0)),
        ):
            asked = ask(port, recipient, RATE * counts.policy_seconds, rate=RATE)
            how = "over 10 connections"
            yield judged_by(f"{name}, {RATE:,}/s", 0.99, asked.seconds, target, how)


def _ratio(rounds: list[tuple[Asked, Asked]], count: int) -> Figure:
    null = median(asked.per_second for asked, _ in rounds)
    server = median(asked.per_second for _, asked in rounds)
    how = f"{server:,.0f}/s of {null:,.0f}/s of DUNNO without thought; "
    how += f"median of rounds of {count:,}: {len(rounds)}"
    return Figure("policy checks", server / null, "ratio", at_least(0.25), how)


def _raise_the_tier(data: Path) -> None:
    """Raise the limits of `free` as an administrator would: the row decides once it is there."""
    subprocess.run(
        [MAILTAPE, "migrate", "--data", data],
        cwd=data.parent,  # away from a developer's .env
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with closing(sqlite3.connect(data / "mailtape.sqlite3")) as rows, rows:
        changed = rows.execute(
            "UPDATE tiers SET limits = ? WHERE name = 'free'", (json.dumps(asdict(_ROOMY)),)
        )
        if changed.rowcount != 1:
            raise RuntimeError("there is no tier `free`")


def _an_address(api: Api) -> str:
    """Register an organisation and take an address, as anybody would."""
    person = {
        "email": "bench@example.org",
        "password": "a long and private sentence",
        "organization": "Bench",
        "cookie": False,
    }
    signed_in = json.loads(api.call("POST", "/auth/register", person))
    if signed_in["organization"]["tier"] != "free":
        raise RuntimeError("a new organisation is not on tier `free`")
    taken = api.as_bearer(signed_in["access_token"]).call("POST", "/addresses", {})
    return str(json.loads(taken)["address"])


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
