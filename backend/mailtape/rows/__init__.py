"""Rows: SQLAlchemy on every installation, so no port stands in front.

One file a feature, with its mapped classes and its queries; every query is scoped by organisation.
Functions are synchronous and take a `Session`: SQLite calls them on its writing and reading
threads, MySQL through `AsyncSession.run_sync`. They never commit: the transaction belongs to
`rows.database`.
"""
