"""Protocols where two technologies stand behind one need; their docstrings are the promises.

Each promise is a test in `tests/contract`, run against every implementation.
"""
