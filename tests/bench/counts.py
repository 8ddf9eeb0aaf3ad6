"""How much is sent and asked: enough for a figure, or just enough to see that the bench works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of mails, rounds, runs, seconds and requests."""

    rounds: int
    """Pairs of (sink, server) whose medians make a ratio."""
    small_mails: int
    large_mails: int
    """Mails in one leg of a round."""
    latency_runs: int
    latency_seconds: int
    stored_messages: int
    """Messages in the store while list, detail and search are asked."""
    reading_seconds: int
    drained_messages: int
    """Messages that drain while one is being changed."""
    policy_checks: int
    """Checks in one leg of a round."""
    policy_seconds: int
    fleet_mails: int
    """Mails in one leg of a round of the fleet's LMTP."""
    relayed_pairs: int
    relayed_mails: int
    """Pairs of (sink, fleet) behind Postfix, and mails in one leg of a pair."""


FULL = Counts(
    rounds=3,
    small_mails=10_000,
    large_mails=5_000,
    latency_runs=3,
    latency_seconds=20,
    stored_messages=100_000,
    reading_seconds=30,
    drained_messages=20_000,
    policy_checks=20_000,
    policy_seconds=20,
    fleet_mails=5_000,
    relayed_pairs=5,
    relayed_mails=2_000,
)
QUICK = Counts(
    rounds=1,
    small_mails=1_000,
    large_mails=500,
    latency_runs=1,
    latency_seconds=4,
    stored_messages=2_000,
    reading_seconds=4,
    drained_messages=2_000,
    policy_checks=5_000,
    policy_seconds=4,
    fleet_mails=500,
    relayed_pairs=1,
    relayed_mails=300,
)
