"""Somebody who registered and is on tier `free`, whose limits are raised so far that none refuses.

So every mail and every check is asked of all of them, as for a customer.
"""

import json
from dataclasses import asdict, dataclass

from bench.api import Api
from mailtape.domain.tier import Limits

ROOMY = json.dumps(
    asdict(
        Limits(
            emails_per_month=10**9,
            storage_bytes=2**50,
            addresses=5,
            members=3,
            api_calls_per_month=10**9,
            message_bytes=2**30,
            retention_days=7,
            messages_per_minute=60_000_000,
        )
    )
)
"""What the row of the tier is to hold; it decides once it is there."""


@dataclass(frozen=True, slots=True)
class Customer:
    """An organisation, seen by its owner, and an address of its own."""

    api: Api
    address: str


def signed_up(api: Api) -> Customer:
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
    own = api.as_bearer(signed_in["access_token"])
    taken = json.loads(own.call("POST", "/addresses", {}))
    return Customer(own, str(taken["address"]))
