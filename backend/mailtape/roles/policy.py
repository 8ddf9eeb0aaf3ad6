"""The role that answers Postfix's questions about recipients."""

from mailtape.services.quota import Quota
from mailtape.settings import Settings
from mailtape_policy.server import Server


def server(settings: Settings, quota: Quota) -> Server:
    """Make the policy daemon's door."""
    return Server(
        quota,
        domain=settings.domain,
        connections=settings.policy_max_connections,
        accept_blind=settings.policy_when_blind == "accept",
    )
