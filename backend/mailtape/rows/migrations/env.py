"""What Alembic runs; it is always handed a connection, never a URL of its own."""

from alembic import context

from mailtape.rows import (
    accounts,
    addresses,
    events,
    failures,
    messages,
    organisations,
    receipts,
    rounds,
    sessions,
    tiers,
    tokens,
    usage,
)
from mailtape.rows.base import Row

# Named so that every mapped class is known before Alembic compares.
_FEATURES = (
    accounts,
    addresses,
    events,
    failures,
    messages,
    organisations,
    receipts,
    rounds,
    sessions,
    tiers,
    tokens,
    usage,
)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
