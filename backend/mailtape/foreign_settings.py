"""Names of environment variables that Mailtape refuses rather than passes over.

Who sets one of these believes that it does something; silence would be a trap. Other programs'
variables that mean nothing to us are left alone: an environment is shared.
"""

from collections.abc import Set as AbstractSet

CALLED_OTHERWISE = {
    "SECRET_KEY": "JWT_SECRET",
    "JWT_SECRET_KEY": "JWT_SECRET",
    "TOKEN_SALT": "API_TOKEN_SALT",
    "ACCESS_TOKEN_EXPIRE_MINUTES": "ACCESS_TOKEN_LIFETIME_MINUTES",
    "REFRESH_TOKEN_EXPIRE_DAYS": "REFRESH_TOKEN_LIFETIME_DAYS",
    "DATABASE_URL": "DB_HOST",
    "MONGO_URI": "MONGODB_URL",
    "MONGO_URL": "MONGODB_URL",
    "MONGODB_URI": "MONGODB_URL",
    "REDIS_HOST": "REDIS_URL",
    "REDIS_PORT": "REDIS_URL",
    "REDIS_PASSWORD": "REDIS_URL",
    "REDIS_DB": "REDIS_URL",
    "REDIS_ENABLED": "REDIS_URL",
    "AMQP_URL": "RABBITMQ_URL",
    "RABBITMQ_HOST": "RABBITMQ_URL",
}
"""Names that are used elsewhere for the same thing, and ours."""

_OURS = "MAILTAPE_"
_TESTS = "MAILTAPE_TEST_"


def name_faults(given: AbstractSet[str], known: AbstractSet[str]) -> list[str]:
    """Say what is wrong with the names that are set, whatever their values."""
    faults = []
    for name in sorted(given):
        if name in CALLED_OTHERWISE:
            faults.append(
                f"{name} is not read by Mailtape; the setting is called {CALLED_OTHERWISE[name]}."
            )
        elif name.startswith(_OURS) and name not in known and not name.startswith(_TESTS):
            faults.append(f"{name} is no setting; `mailtape config reference` lists all there are.")
    return faults
