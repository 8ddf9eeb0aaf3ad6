"""Use cases: one verb a function, taking ports and facts.

No driver, no settings, no framework, no clock of their own: `now` is an argument.
"""
